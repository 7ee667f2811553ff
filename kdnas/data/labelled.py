"""Labelled examples: token ids with a class each, in training, proxy, scoring and test parts, batched by length.

What is held out never shares a group (a film, say) with what is trained on; without groups every part has the
classes in the same shares. Like the split of texts, this one does not depend on the study's seed. Knows no model.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Any

import numpy as np

from kdnas.data import documents as reading
from kdnas.data import tokens as tokenising
from kdnas.data.documents import Documents
from kdnas.data.splits import by_label, evenly, without
from kdnas.study.spec import DataSpec
from kdnas.system.errors import UsageError
from kdnas.system.progress import Note, Progress

MOST_CLASSES = 1000


@dataclass(frozen=True)
class Examples:
    """Examples that stay apart: token ids with the special tokens, labels as places in the names."""

    ids: tuple[np.ndarray, ...]
    labels: np.ndarray  # int64 [examples]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, rows: slice) -> Examples:
        return Examples(self.ids[rows], self.labels[rows])

    @property
    def lengths(self) -> np.ndarray:
        return np.array([len(ids) for ids in self.ids], dtype=np.int64)

    @property
    def tokens(self) -> int:
        return int(self.lengths.sum())

    def fingerprint(self) -> str:
        """Of ids and labels: 32 hexadecimal digits."""
        digest = hashlib.sha256(self.lengths.tobytes())
        digest.update(self.labels.tobytes())
        for ids in self.ids:
            digest.update(ids.tobytes())
        return digest.hexdigest()[:32]


@dataclass(frozen=True)
class LabelledText:
    """One data set. `proxy` is the head of `train`; `test` is what was held out beyond `data.max_held_out`: neither a
    search nor early stopping ever looks at it. It is empty where all of the held-out part scores candidates."""

    train: Examples
    held_out: Examples
    test: Examples
    proxy_count: int
    names: tuple[str, ...]  # class i is names[i]
    pad_id: int
    fingerprint: str  # of source, columns, tokenizer, length and split
    record: Mapping[str, Any] = field(default_factory=dict)  # of the source: fingerprint, rows left out, repeated, cut

    @property
    def proxy(self) -> Examples:
        return self.train[: self.proxy_count]

    @property
    def id2label(self) -> dict[int, str]:
        return dict(enumerate(self.names))


@dataclass(frozen=True)
class Batch:
    """Padded on the right: ids int64 [batch, longest], mask bool (true: a real token), labels int64 [batch]."""

    ids: np.ndarray
    mask: np.ndarray
    labels: np.ndarray
    rows: np.ndarray  # places in the Examples


# ---------------------------------------------------------------- reading


def read(source: DataSpec, proxy_fraction: float, tokenizer: Any, on_progress: Progress | None = None) -> LabelledText:
    """The examples of any source, cut at `data.length` tokens, special tokens included.

    Raises UsageError for a source that is unknown, empty, unreadable or lacks a column, and for labels that are
    missing, are no classes, or are all the same.
    """
    documents = reading.read(source, labelled=True, on_progress=on_progress)
    names, labels = classes(documents)
    reading.tell_repeats(documents, on_progress)
    tokens = tokenising.tokenise(documents, tokenizer, on_progress)
    held, train = sides(documents, labels, source)
    _require_all_classes(train, labels, names, documents.name)
    scored, beyond = held[: source.max_held_out], held[source.max_held_out :]
    # Early stopping looks at what scores candidates; a test on the same texts would test nothing.
    test = without(beyond, documents.keys, [documents.keys[int(row)] for row in scored])
    before, after = around(tokenizer)
    room = source.length - len(before) - len(after)

    def part(rows: np.ndarray) -> Examples:
        cut = (np.concatenate([before, tokens.document(int(row))[:room], after]).astype(np.int64) for row in rows)
        return Examples(tuple(cut), labels[rows])

    shortened = int((tokens.lengths[np.concatenate([train, scored, test])] > room).sum())
    told = {"examples_cut": shortened, "examples_beyond_test": len(beyond) - len(test)}
    told |= {"examples_beyond_limit": len(labels) - len(train) - len(held)}
    told = {name: count for name, count in told.items() if count}
    if on_progress is not None:
        for words in _words(told, source):
            on_progress(Note(words), None)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    facts: tuple[object, ...] = (
        "labelled",
        1,
        tokens.fingerprint,
        source.length,
        source.held_out,
        source.max_held_out,
        source.limit,
    )
    facts += ("repeats", documents.repeats) if documents.repeats else ()  # which change what is held out
    return LabelledText(
        train=part(train),
        held_out=part(scored),
        test=part(test),
        proxy_count=max(1, ceil(len(train) * proxy_fraction)),
        names=names,
        pad_id=int(pad or 0),
        fingerprint=hashlib.sha256("\0".join(map(str, facts)).encode()).hexdigest(),
        record=documents.record | told,
    )


def sides(documents: Documents, labels: np.ndarray, source: DataSpec) -> tuple[np.ndarray, np.ndarray]:
    """(held-out, training) row numbers, in the order in which they are taken, `source.limit` of them in all."""
    held, train = by_label(documents, labels, source.held_out)
    held, train = evenly(held, labels), evenly(train, labels)
    if source.limit is not None:
        count = max(1, min(len(held), round(source.limit * source.held_out), source.limit - 1))
        held, train = held[:count], train[: source.limit - count]
    return held, train


def _words(told: Mapping[str, int], source: DataSpec) -> list[str]:
    lines = {
        "examples_cut": f"{{:,}} example(s) are cut at data.length = {source.length} tokens.",
        "examples_beyond_test": "{:,} held-out example(s) repeat one that scores candidates; the test leaves them out.",
        "examples_beyond_limit": f"{{:,}} example(s) are left out by data.limit = {source.limit}.",
    }
    return [line.format(told[name]) for name, line in lines.items() if name in told]


@dataclass(frozen=True)
class Rows:
    """Rows of a source as they are, unsplit; `seen` of them were left out since a model was trained on their texts."""

    examples: Examples
    seen: int


def whole(
    source: DataSpec,
    tokenizer: Any,
    names: Sequence[str],
    on_progress: Progress | None = None,
    trained: frozenset[str] = frozenset(),
) -> Rows:
    """The rows of a source with labels among `names`, without those whose text's key is in `trained`.

    Raises UsageError for a label that is none of the names, and where no row is left.
    """
    documents = reading.read(source, labelled=True, on_progress=on_progress)
    assert documents.labels is not None
    place = {name: i for i, name in enumerate(names)}
    unknown = next((row for row, label in enumerate(documents.labels) if label.strip() not in place), None)
    if unknown is not None:
        raise UsageError(
            f"The data set {documents.name!r} has the label {_short(documents.labels[unknown])} in row "
            f"{documents.row(unknown):,}, which the model does not know.",
            f"It knows {', '.join(map(_short, names[:10]))}{' …' if len(names) > 10 else ''}.",
        )
    tokens = tokenising.tokenise(documents, tokenizer, on_progress)
    before, after = around(tokenizer)
    every = np.arange(len(documents.texts))
    rows = without(every, documents.keys, trained)
    if not len(rows):
        raise UsageError(
            f"The model was trained on all {len(every):,} texts of {documents.name!r}.",
            "Give rows that it has not seen.",
        )
    seen = len(every) - len(rows)
    if seen and on_progress is not None:
        on_progress(Note(f"{seen:,} row(s) are left out: a model was trained on their texts."), None)
    rows = rows[: source.limit]
    room = source.length - len(before) - len(after)
    ids = (np.concatenate([before, tokens.document(int(row))[:room], after]).astype(np.int64) for row in rows)
    labels = np.array([place[documents.labels[row].strip()] for row in rows], dtype=np.int64)
    return Rows(Examples(tuple(ids), labels), seen)


def classes(documents: Documents) -> tuple[tuple[str, ...], np.ndarray]:
    """The names of the classes and each document's place among them: in the order that the source declares, which is
    that of heads trained on it; else numbers by size and words by the alphabet.

    Raises UsageError for labels that are no classes.
    """
    assert documents.labels is not None
    given = [label.strip() for label in documents.labels]
    declared = {name.strip(): place for place, name in enumerate(documents.classes or ())}
    names = sorted(set(given), key=lambda name: (declared.get(name, len(declared)), _by_size(name)))
    if len(names) < 2:
        raise UsageError(
            f"The data set {documents.name!r} has only one class, {names[0]!r}.",
            "Give at least two; check data.label_column.",
        )
    if len(names) > min(MOST_CLASSES, max(2, len(given) // 2)):
        raise UsageError(
            f"The labels of {documents.name!r} are no classes: {len(names):,} different ones in {len(given):,} rows, "
            f"{_short(names[0])} among them.",
            "Name the column of the classes with data.label_column.",
        )
    place = {name: i for i, name in enumerate(names)}
    return tuple(names), np.array([place[label] for label in given], dtype=np.int64)


def _by_size(name: str) -> tuple[int, float, str]:
    with contextlib.suppress(ValueError):
        size = float(name)
        if math.isfinite(size):  # "nan" is smaller and larger than nothing, and would leave the order to chance
            return 0, size, name
    return 1, 0.0, name


def _short(text: str) -> str:
    return repr(text if len(text) <= 30 else text[:29] + "…")


def _require_all_classes(train: np.ndarray, labels: np.ndarray, names: Sequence[str], source: str) -> None:
    there = set(labels[train].tolist())
    missing = [name for i, name in enumerate(names) if i not in there]
    if missing:
        raise UsageError(
            f"The training part of {source!r} ({len(train):,} examples) has none of the class {missing[0]!r}.",
            "Give more examples of it, lower data.held_out, or leave the class out.",
        )


# ---------------------------------------------------------------- tokens and batches


def around(tokenizer: Any) -> tuple[np.ndarray, np.ndarray]:
    """The special tokens that the tokenizer puts before and after one text."""
    bare = tokenizer("a", add_special_tokens=False, truncation=False, padding=False)["input_ids"]
    full = tokenizer("a", truncation=False, padding=False)["input_ids"]
    start = next(i for i in range(len(full) - len(bare) + 1) if full[i : i + len(bare)] == bare)
    return np.array(full[:start], dtype=np.int64), np.array(full[start + len(bare) :], dtype=np.int64)


def padded(examples: Examples, rows: np.ndarray, pad_id: int) -> Batch:
    """The examples `rows` as one batch."""
    ids = [examples.ids[int(row)] for row in rows]
    longest = max(map(len, ids))
    table = np.full((len(rows), longest), pad_id, dtype=np.int64)
    mask = np.zeros((len(rows), longest), dtype=bool)
    for place, part in enumerate(ids):
        table[place, : len(part)] = part
        mask[place, : len(part)] = True
    return Batch(table, mask, examples.labels[rows], rows)


def plan(lengths: np.ndarray, batch_size: int, rng: np.random.Generator | None = None) -> list[np.ndarray]:
    """Rows of every batch, so that little is padding: by length without `rng`; with it shuffled, sorted by length
    within pools of 50 batches, and the batches shuffled."""
    if rng is None:
        order = np.argsort(lengths, kind="stable")
        return [rows for rows in np.array_split(order, range(batch_size, len(order), batch_size)) if len(rows)]
    order, pool = rng.permutation(len(lengths)), batch_size * 50
    batches: list[np.ndarray] = []
    for part in np.array_split(order, range(pool, len(order), pool)):
        alike = part[np.argsort(lengths[part], kind="stable")]
        batches += np.array_split(alike, range(batch_size, len(alike), batch_size))
    return [batches[i] for i in rng.permutation(len(batches)) if len(batches[i])]


def batches(
    examples: Examples, batch_size: int, pad_id: int, rng: np.random.Generator | None = None
) -> Iterator[Batch]:
    """Every example once, as `plan` orders them."""
    for rows in plan(examples.lengths, batch_size, rng):
        yield padded(examples, rows, pad_id)
