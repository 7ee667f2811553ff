"""Files of tables by chance: broken ones of every format, and sound ones of which it is known what they hold."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

Rows = tuple[tuple[str, str], ...]
"""The text and the label of each row."""

ODD = [
    "\ufeff",
    "\u2028",
    "\x85",
    "\x00",
    "\ud83d",
    "\r",
    "\n",
    "\r\n",
    "\t",
    '"',
    '""',
    ",",
    ";",
    "text",
    "label",
    "-1",
]
ODD_TEXT = st.lists(st.one_of(st.sampled_from(ODD), st.text(max_size=6)), max_size=12).map("".join)
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), ODD_TEXT),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.one_of(st.sampled_from(["text", "label", "film"]), ODD_TEXT), inner, max_size=4),
    ),
    max_leaves=20,
)
CODECS = ["snappy", "none", "gzip", "brotli", "lz4", "zstd"]


@dataclass(frozen=True)
class Sound:
    """A file as its bytes and what stands in it."""

    raw: bytes
    rows: Rows

    @property
    def kept(self) -> Rows:
        """The rows that have text, as whoever reads them must give them."""
        bare = [(text.lstrip("\ufeff"), label) for text, label in self.rows]
        return tuple((text, label) for text, label in bare if text.strip())


# ---------------------------------------------------------------- broken


@st.composite
def delimited(draw: Any, mark: str) -> bytes:
    cell = st.one_of(ODD_TEXT, st.sampled_from(["a", "b", "", "nan", "1", '"a"']))
    rows = draw(st.lists(st.lists(cell, min_size=1, max_size=4), max_size=8))
    head = draw(st.sampled_from([["text", "label", "film"], ["text", "label"], ["text"], []]))
    return "\n".join(mark.join(row) for row in [head, *rows]).encode("utf-8", "surrogatepass")


def written(value: Any) -> bytes:
    return json.dumps(value).encode()


JSON_FILES = st.one_of(
    JSON.map(written),
    st.lists(JSON, max_size=6).map(lambda rows: b"\n".join(map(written, rows))),
    st.lists(JSON, max_size=4).map(lambda rows: "\n".join(json.dumps(r, indent=2, ensure_ascii=False) for r in rows))
    .map(lambda text: text.encode("utf-8", "surrogatepass")),
    ODD_TEXT.map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.binary(max_size=60),
)  # fmt: skip


@st.composite
def any_parquet(draw: Any) -> bytes:
    """A sound file of columns of any kind."""
    rows = draw(st.integers(0, 6))
    kinds: list[Any] = [
        st.one_of(st.none(), st.text(max_size=8)),
        st.one_of(st.none(), st.binary(max_size=8)),
        st.one_of(st.none(), st.floats()),
        st.integers(-2, 4),
        st.lists(st.text(max_size=3), max_size=2),
        st.booleans(),
        st.datetimes(),
        st.decimals(allow_nan=False, allow_infinity=False, places=2, max_value=9, min_value=0),
    ]
    columns = {
        name: draw(st.lists(draw(st.sampled_from(kinds)), min_size=rows, max_size=rows))
        for name in draw(st.sets(st.sampled_from(["text", "label", "film", "other"]), min_size=1))
    }
    return _parquet(draw, columns, None)


@st.composite
def parquet(draw: Any) -> bytes:
    """The same with some bytes changed, or cut in half."""
    raw = bytearray(draw(any_parquet()))
    for _ in range(draw(st.integers(0, 6))):  # none: a sound file
        raw[draw(st.integers(0, len(raw) - 1))] = draw(st.integers(0, 255))
    cut = draw(st.sampled_from([None, None, None, len(raw) // 2]))
    return bytes(raw[:cut])


FILES: dict[str, Any] = {
    ".csv": st.one_of(delimited(","), st.binary(max_size=80)),
    ".tsv": st.one_of(delimited("\t"), st.binary(max_size=80)),
    ".json": JSON_FILES,
    ".jsonl": JSON_FILES,
    ".parquet": st.one_of(parquet(), st.binary(max_size=80)),
    ".csv.gz": st.binary(max_size=80),
    ".txt": st.one_of(ODD_TEXT.map(lambda text: text.encode("utf-8", "surrogatepass")), st.binary(max_size=80)),
}


# ---------------------------------------------------------------- sound

WHOLE = st.lists(
    st.one_of(st.sampled_from([each for each in ODD if each != "\ud83d"]), st.text(max_size=8)), max_size=6
).map("".join)
LABELS = st.sampled_from(["a", "b", "c"])
ROWS = st.lists(st.tuples(WHOLE, LABELS), min_size=1, max_size=8).map(tuple)


@st.composite
def sound_csv(draw: Any) -> Sound:
    """RFC 4180, each field in quotes where it must be and now and then where it need not; columns in any order."""
    rows: Rows = draw(ROWS)
    end = draw(st.sampled_from(["\n", "\r\n"]))
    always, third, turned = draw(st.booleans()), draw(st.booleans()), draw(st.booleans())

    def field(cell: str) -> str:
        plain = not always and not set(cell) & set('",\r\n')
        return cell if plain and cell else '"' + cell.replace('"', '""') + '"'

    lines = [("text", "label"), *rows]
    cells = [[*(line[::-1] if turned else line), *(["film"] if third else [])] for line in lines]
    if third:
        cells[1:] = [[*line[:-1], f"f{place}"] for place, line in enumerate(cells[1:])]
    body = end.join(",".join(map(field, line)) for line in cells)
    return Sound((draw(st.sampled_from(["", "\ufeff"])) + body + draw(st.sampled_from(["", end]))).encode(), rows)


@st.composite
def sound_tsv(draw: Any) -> Sound:
    """Fields that hold no tab and no line end, as GLUE writes them."""
    found: Rows = draw(ROWS)
    rows = tuple((text.translate({9: " ", 10: " ", 13: " "}), label) for text, label in found)
    end = draw(st.sampled_from(["\n", "\r\n"]))
    lines = [f"{text}\t{label}" for text, label in (("text", "label"), *rows)]
    return Sound((end.join(lines) + draw(st.sampled_from(["", end]))).encode(), rows)


@st.composite
def sound_json(draw: Any) -> Sound:
    """Objects line by line, pretty-printed one after the other, in a list, below a key, or as columns."""
    rows: Rows = draw(ROWS)
    ascii_only = draw(st.booleans())
    more = draw(st.sampled_from([{}, {"film": 3}, {"other": None}, {"meta": {"a": [1, 2]}}]))
    objects = [{"text": text, "label": label, **more} for text, label in rows]
    indent = draw(st.sampled_from([None, 2]))

    def said(value: Any, indent: int | None = indent) -> str:
        return json.dumps(value, ensure_ascii=ascii_only, indent=indent)

    forms = {
        "lines": lambda: "\n".join(said(each, None) for each in objects),
        "values": lambda: "\n".join(map(said, objects)),
        "list": lambda: said(objects),
        "below": lambda: said({"version": 1, "data": objects}),
        "columns": lambda: said({"text": [text for text, _ in rows], "label": [label for _, label in rows]}),
    }
    body = forms[draw(st.sampled_from(sorted(forms)))]()
    return Sound((draw(st.sampled_from(["", "\ufeff"])) + body + draw(st.sampled_from(["", "\n"]))).encode(), rows)


@st.composite
def sound_parquet(draw: Any) -> Sound:
    """Texts as any of the types that hold text."""
    import pyarrow as pa

    rows: Rows = draw(ROWS)
    kinds = [pa.string(), pa.large_string(), pa.binary(), pa.dictionary(pa.int32(), pa.string())]
    schema = pa.schema(
        [("text", draw(st.sampled_from(kinds))), ("label", draw(st.sampled_from(kinds[:2] + kinds[3:])))]
    )
    columns = {"text": [text for text, _ in rows], "label": [label for _, label in rows]}
    if schema.field("text").type == pa.binary():
        columns["text"] = [text.encode() for text in columns["text"]]  # type: ignore[misc]
    return Sound(_parquet(draw, columns, schema), rows)


def _parquet(draw: Any, columns: dict[str, list[Any]], schema: Any) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet

    table = pa.table(columns, schema=schema)
    if draw(st.booleans()):
        names = draw(st.sampled_from([["neg", "pos"], [], None, 3, [["x"]], ["neg", "pos", "\x1b]0;t\x07"]]))
        features = {"label": {"_type": "ClassLabel", "names": names}, "text": draw(st.sampled_from([{}, None, []]))}
        said = json.dumps({"info": {"features": features}}).encode()
        table = table.replace_schema_metadata({b"huggingface": said})
    sink = io.BytesIO()
    pyarrow.parquet.write_table(
        table,
        sink,
        compression=draw(st.sampled_from(CODECS)),
        use_dictionary=draw(st.booleans()),
        data_page_version=draw(st.sampled_from(["1.0", "2.0"])),
        row_group_size=draw(st.sampled_from([None, 1, 2])),
        write_page_checksum=draw(st.booleans()),
        store_schema=draw(st.booleans()),
    )
    return sink.getvalue()
