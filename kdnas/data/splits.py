"""Which documents are held out: the one rule for studies, fine-tuning, evaluation and scores.

Whole documents or groups, or the same share of every class. Equal texts (blanks and case aside) stay on one side. No
split depends on the study's seed, so that studies share teacher caches and held-out parts. Data without equal texts
is split as if nobody had looked for them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from kdnas.data.documents import Documents
from kdnas.system.errors import UsageError
from kdnas.system.seeds import Split, split


def by_tokens(lengths: np.ndarray, documents: Documents, held_out: float) -> tuple[np.ndarray, np.ndarray]:
    """(held-out, training) row numbers: whole groups, drawn until the held-out part has its share of the tokens."""
    require_two(documents)
    units = _units(documents)
    count = int(units.max()) + 1 if len(units) else 0
    weight = np.bincount(units, weights=lengths, minlength=count)
    chosen = _drawn(split(Split.GROUPS).permutation(count), weight, _tied(units, documents), held_out * weight.sum())
    shuffled = split(Split.DOCUMENTS).permutation(len(units))
    held = chosen[units] if count else np.zeros(0, dtype=bool)
    return shuffled[held[shuffled]], shuffled[~held[shuffled]]


def require_two(documents: Documents) -> None:
    """Raise UsageError for text of which nothing can be held out: one text, one group, or the same text again."""
    units = _units(documents)
    tied = _tied(units, documents)
    if len(units) and (int(units.max()) == 0 or (tied is not None and len(tied[0]) == len(tied))):
        one = "one text" if len(units) == 1 else "one text or group again and again"
        raise UsageError(
            f"The data set {documents.name!r} is {one}, and a student is scored on texts that it does not learn.",
            "Give at least two texts: rows of a table, files of a folder, or lines of a text file.",
        )


def by_label(documents: Documents, labels: np.ndarray, held_out: float) -> tuple[np.ndarray, np.ndarray]:
    """(held-out, training) row numbers. Whole groups where there are any, else the same share of each class."""
    rng = split(Split.SIDES)
    if documents.groups is not None:
        units = _units(documents)
        weight = np.bincount(units).astype(np.float64)
        order = rng.permutation(len(weight))
        held = _drawn(order, weight, _tied(units, documents), held_out * len(units))[units]
    else:
        held = _by_class(labels, _tied(np.arange(len(labels)), documents), held_out, rng)
    if not held.any() or held.all():
        raise UsageError(
            f"The data set {documents.name!r} has too few examples to split: {len(labels)}"
            + (f", {documents.repeats:,} of them repeated." if documents.repeats else "."),
            "Give more, in at least two groups where data.group_column is given.",
        )
    return np.flatnonzero(held), np.flatnonzero(~held)


def evenly(rows: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The rows in random order with the classes spread evenly, so that every head of them has each class's share."""
    rng = split(Split.ORDER)
    place = np.empty(len(rows))
    for label in np.unique(labels[rows]):
        mine = rng.permutation(np.flatnonzero(labels[rows] == label))
        place[mine] = (np.arange(len(mine)) + rng.random(len(mine))) / len(mine)
    return rows[np.argsort(place, kind="stable")]


def without(rows: np.ndarray, keys: Sequence[str], others: Iterable[str]) -> np.ndarray:
    """The rows whose text is none of the others'."""
    seen = others if isinstance(others, set | frozenset) else set(others)
    return rows[np.array([keys[int(row)] not in seen for row in rows], dtype=bool)]


# ---------------------------------------------------------------- units, and what ties them


def _units(documents: Documents) -> np.ndarray:
    """What is drawn as one: a document, or a group; a row without a group is a unit of its own."""
    if documents.groups is None:
        return np.arange(len(documents.texts))
    names = [group if group is not None else row for row, group in enumerate(documents.groups)]
    place = {name: i for i, name in enumerate(dict.fromkeys(names))}
    return np.array([place[name] for name in names], dtype=np.int64)


def _tied(units: np.ndarray, documents: Documents) -> list[np.ndarray] | None:
    """Of every unit all the units that must go with it, since they share a text (itself among them); None where no
    two units share one."""
    if not documents.repeats:
        return None
    root = np.arange(int(units.max()) + 1)

    def find(unit: int) -> int:
        while root[unit] != unit:
            root[unit] = root[root[unit]]
            unit = int(root[unit])
        return unit

    first: dict[str, int] = {}
    for row, key in enumerate(documents.keys):
        one, other = find(first.setdefault(key, int(units[row]))), find(int(units[row]))
        root[max(one, other)] = min(one, other)
    roots = np.array([find(unit) for unit in range(len(root))])
    order = np.argsort(roots, kind="stable")
    members = {int(roots[part[0]]): part for part in np.split(order, np.flatnonzero(np.diff(roots[order])) + 1)}
    return [members[int(unit)] for unit in roots]


def _drawn(order: np.ndarray, weight: np.ndarray, tied: list[np.ndarray] | None, enough: float) -> np.ndarray:
    """bool [units]: units in their random order until they weigh enough, never the last one.

    A unit brings those that are tied to it, unless they would weigh more than what is still wanted.
    """
    chosen = np.zeros(len(weight), dtype=bool)
    if not len(order):
        return chosen
    taken, last = 0.0, int(order[-1])
    too_heavy: list[np.ndarray] = []
    for unit in order[:-1]:
        if taken >= enough:
            break
        several = None if tied is None else tied[int(unit)]
        if several is None or len(several) == 1:
            chosen[unit] = True
            taken += float(weight[unit])
        elif not chosen[unit] and last not in several:
            if taken + float(weight[several].sum()) > max(enough, 1.0):
                too_heavy.append(several)
                continue
            chosen[several] = True
            taken += float(weight[several].sum())
    if taken == 0.0 and too_heavy:
        chosen[min(too_heavy, key=lambda several: float(weight[several].sum()))] = True
    return chosen


def _by_class(
    labels: np.ndarray, tied: list[np.ndarray] | None, held_out: float, rng: np.random.Generator
) -> np.ndarray:
    """bool [rows]: the same share of each class, at least one row of it and never all."""
    held = np.zeros(len(labels), dtype=bool)
    left = {int(label): int(count) for label, count in zip(*np.unique(labels, return_counts=True), strict=True)}

    def take(several: np.ndarray) -> bool:
        """Hold rows out, unless a class would have none left to learn from."""
        counts = {int(label): int(n) for label, n in zip(*np.unique(labels[several], return_counts=True), strict=True)}
        if any(count >= left[label] for label, count in counts.items()):
            return False
        held[several] = True
        for label, count in counts.items():
            left[label] -= count
        return True

    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        quota = min(len(rows) - 1, max(1, round(held_out * len(rows))))
        if tied is None:
            held[rows[:quota]] = True
            continue
        wanted = quota - int(held[rows].sum())
        put_off: list[np.ndarray] = []
        for row in rows:
            if wanted <= 0:
                break
            if held[row]:
                continue
            several = tied[int(row)]
            own = int((labels[several] == label).sum())
            if own <= wanted and take(several):
                wanted -= own
            else:
                put_off.append(several)
        if wanted == quota > 0:
            # Every text is repeated more often than rows are wanted: the least repeated one serves.
            for several in sorted(put_off, key=len):
                if take(several):
                    break
    return held
