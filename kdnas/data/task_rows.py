"""The labelled rows of a task in three parts: to fit a head on, to decide by, and to report.

Split by the one rule of studies, so that what a classifier's study holds out nobody learns from. Fits nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kdnas.data import documents as reading
from kdnas.data import labelled
from kdnas.data.documents import Documents
from kdnas.data.splits import without
from kdnas.study.spec import DataSpec
from kdnas.system.errors import UsageError
from kdnas.system.files import write_atomically
from kdnas.system.progress import Progress

LEAST = 2  # rows with which a part says anything at all


@dataclass(frozen=True)
class Part:
    """Texts and their labels; `keys` are equal for texts that differ in blanks and case alone."""

    texts: tuple[str, ...]
    labels: tuple[str, ...]
    keys: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.texts)

    def where(self, kept: Callable[[str], bool]) -> Part:
        """The rows whose key is to be kept."""
        rows = [row for row, key in enumerate(self.keys) if kept(key)]
        return Part(
            tuple(self.texts[row] for row in rows),
            tuple(self.labels[row] for row in rows),
            tuple(self.keys[row] for row in rows),
        )


@dataclass(frozen=True)
class TaskRows:
    """`train` fits heads, `held_out` decides, `test` decides nothing."""

    train: Part
    held_out: Part
    test: Part
    classes: tuple[str, ...]
    fingerprint: str

    def unseen(self, trained: frozenset[str]) -> TaskRows:
        """Without the scored rows whose text a model was trained on. Raises UsageError where a part has none left."""
        held, test = (part.where(lambda key: key not in trained) for part in (self.held_out, self.test))
        for name, part in (("held-out", held), ("test", test)):
            if len(part) < LEAST:
                raise UsageError(
                    f"A model was trained on all but {len(part)} of the task's {name} rows.",
                    "Take teachers and texts that leave the held-out rows out: the same held_out and group_column.",
                )
        return TaskRows(self.train, held, test, self.classes, self.fingerprint)


def read(data: DataSpec, on_progress: Progress | None = None) -> TaskRows:
    """The parts of a task. Raises UsageError for data without labels, and where nothing is left to report."""
    documents = reading.read(data, labelled=True, on_progress=on_progress)
    names, labels = labelled.classes(documents)
    held, train = labelled.sides(documents, labels, data)
    scored = held[: data.max_held_out]
    test = without(held[data.max_held_out :], documents.keys, [documents.keys[int(row)] for row in scored])
    if len(test) < LEAST:
        raise UsageError(
            f"{len(held):,} rows of {data.source!r} are held out, and max_held_out is {data.max_held_out:,}: "
            f"{len(test)} are left for the final table.",
            "Lower task.max_held_out, or raise task.held_out.",
        )
    parts = (_part(documents, labels, names, rows) for rows in (train, scored, test))
    return TaskRows(next(parts), next(parts), next(parts), names, documents.fingerprint)


def _part(documents: Documents, labels: np.ndarray, names: Sequence[str], rows: np.ndarray) -> Part:
    return Part(
        tuple(documents.texts[int(row)] for row in rows),
        tuple(names[int(labels[int(row)])] for row in rows),
        tuple(documents.keys[int(row)] for row in rows),
    )


def write_texts(part: Part, path: Path) -> None:
    """The texts of a part as JSONL, for studies that learn on text without labels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in part.texts))
