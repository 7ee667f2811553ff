"""Which rows are held out: whole documents or groups, or the same share of every class.

No split depends on the study's seed, so that studies share teacher caches and held-out parts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from kdnas.data.documents import Documents
from kdnas.system.errors import UsageError

SPLIT = 20_231  # seeds which documents are held out, and the order of chunks; the same for every study
ORDER, SIDES = 6, 7  # purposes of random numbers, beside those of chunks.py


def by_tokens(lengths: np.ndarray, documents: Documents, held_out: float) -> tuple[np.ndarray, np.ndarray]:
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


def by_label(documents: Documents, labels: np.ndarray, held_out: float) -> tuple[np.ndarray, np.ndarray]:
    """(held-out, training) row numbers. Whole groups where there are any, else the same share of each class."""
    rng = np.random.default_rng(np.random.SeedSequence([SPLIT, SIDES]))
    if documents.groups is not None:
        held = _by_group(documents.groups, held_out, rng)
    else:
        held = np.zeros(len(labels), dtype=bool)
        for label in np.unique(labels):
            rows = rng.permutation(np.flatnonzero(labels == label))
            held[rows[: min(len(rows) - 1, max(1, round(held_out * len(rows))))]] = True
    if not held.any() or held.all():
        raise UsageError(
            f"The data set {documents.name!r} has too few examples to split: {len(labels)}.",
            "Give more, in at least two groups where data.group_column is given.",
        )
    return np.flatnonzero(held), np.flatnonzero(~held)


def _by_group(groups: Sequence[str], held_out: float, rng: np.random.Generator) -> np.ndarray:
    """Groups in random order until the share is reached; never all of them."""
    counts = Counter(groups)
    names = list(dict.fromkeys(groups))
    chosen: set[str] = set()
    taken = 0
    for place in rng.permutation(len(names))[:-1]:
        if taken >= held_out * len(groups):
            break
        chosen.add(names[place])
        taken += counts[names[place]]
    return np.array([group in chosen for group in groups])


def _evenly(rows: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The rows in random order with the classes spread evenly, so that every head of them has each class's share."""
    rng = np.random.default_rng(np.random.SeedSequence([SPLIT, ORDER]))
    place = np.empty(len(rows))
    for label in np.unique(labels[rows]):
        mine = rng.permutation(np.flatnonzero(labels[rows] == label))
        place[mine] = (np.arange(len(mine)) + rng.random(len(mine))) / len(mine)
    return rows[np.argsort(place, kind="stable")]
