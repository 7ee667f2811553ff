"""Whatever bytes a file holds, reading it gives documents or one line: never another exception, never no text."""

from __future__ import annotations

import io
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from kdnas.data import documents, labelled
from kdnas.system.errors import KdnasError
from tests import fuzzing
from tests.data.reading import spec

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
def parquet(draw: Any) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet

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
    sink = io.BytesIO()
    pyarrow.parquet.write_table(pa.table(columns), sink, compression=draw(st.sampled_from(["snappy", "none", "gzip"])))
    raw = bytearray(sink.getvalue())
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


def holds(kind: str) -> Callable[[bytes], None]:
    def check(raw: bytes) -> None:
        handle, name = tempfile.mkstemp(suffix=kind)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(raw)
            source = spec(name, label_column="label", group_column=None)
            for asked in ({}, {"labelled": True}, {"summaries": True}):
                try:
                    found = documents.read(source, **asked)  # type: ignore[arg-type]
                    if asked.get("labelled"):
                        labelled.classes(found)
                except KdnasError as error:
                    line = str(error)
                    assert error.hint and line.isprintable() | (len(line.splitlines()) == 1), line
                    line.encode("utf-8")
                    continue
                assert found.texts and all(text.strip() for text in found.texts)
                assert len(found.texts) == len(found.keys)
                for text in (*found.texts, *(found.labels or ())):
                    text.encode("utf-8")
                if asked:
                    assert found.labels is not None and all(label.strip() for label in found.labels)
        finally:
            Path(name).unlink()

    return check


@pytest.mark.parametrize("kind", FILES)
def test_any_bytes_give_documents_or_one_line(kind: str) -> None:
    fuzzing.some(FILES[kind], holds(kind), 40)


@pytest.mark.long
@pytest.mark.parametrize("kind", FILES)
def test_many_more_bytes_give_documents_or_one_line(kind: str) -> None:
    fuzzing.for_minutes(FILES[kind], holds(kind))
