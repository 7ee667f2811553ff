"""Fixed chunks of joined text, without padding, split by document. Knows no model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Any

import numpy as np

from kdnas.data.documents import Documents, read, tell_repeats
from kdnas.data.splits import by_tokens, without
from kdnas.data.tokens import Tokens, special_tokens, tokenise
from kdnas.study.spec import DataSpec
from kdnas.system.errors import UsageError
from kdnas.system.fingerprint import digest
from kdnas.system.progress import Progress
from kdnas.system.seeds import Split, split

PARTS = (2, 4, 8)  # a text's shorter parts are these shares of it
SHORTEST = 8  # tokens of a part, the special ones among them
BEGUN = 2048  # most documents whose beginnings are kept


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
    record: Mapping[str, Any] = field(default_factory=dict)  # of the source: fingerprint, rows left out and repeated
    unscored: int = 0  # held-out documents that a model was trained on elsewhere
    # Beginnings of training documents, one by one in the frame: int64 [length], or a part of it.
    beginnings: Sequence[np.ndarray] = ()

    @property
    def proxy(self) -> np.ndarray:
        return self.train[: self.proxy_count]


def chunks(
    data: DataSpec,
    proxy_fraction: float,
    tokenizer: Any,
    on_progress: Progress | None = None,
    trained: frozenset[str] = frozenset(),
) -> Chunks:
    """Fixed chunks of the joined text for encoders, split by document. Raises UsageError for too little text.

    A chunk is `[CLS]`, length − 2 tokens, `[SEP]`, as the teacher saw its own training text; one `[SEP]` stands
    between two documents in a chunk. Documents (or groups) are drawn for the held-out part until it has its share
    of the tokens; the chunks of each side are then shuffled, so that `limit` and the proxy set are fair samples.
    """
    documents = read(data, on_progress=on_progress)
    tell_repeats(documents, on_progress)
    begin, end = special_tokens(tokenizer)
    frame = Frame(begin, end, end)
    return cut(tokenise(documents, tokenizer, on_progress), documents, data, proxy_fraction, frame, trained)


def cut(
    tokens: Tokens,
    documents: Documents,
    data: DataSpec,
    proxy_fraction: float,
    frame: Frame,
    trained: frozenset[str] = frozenset(),
) -> Chunks:
    """The same of tokens that are there, in any frame; `trained` are keys of documents that must not be scored."""
    held, train = by_tokens(tokens.lengths, documents, data.held_out)
    scored = without(held, documents.keys, trained) if trained else held
    if len(held) and not len(scored):
        raise UsageError(
            f"The model was trained on all {len(held):,} documents of {documents.name!r} that are held out here.",
            "Give text that it has not seen.",
        )
    body = data.length - (frame.first is not None) - (frame.last is not None)
    rng = split(Split.CHUNKS)
    sides = []
    for rows in (train, scored):
        side = _joined(tokens, rows, frame, data.length)
        sides.append(side[rng.permutation(len(side))])
    training, scoring = sides
    if len(training) == 0 or len(scoring) == 0:
        total = int(tokens.ends[-1])
        share = min(data.held_out, 0.5)
        raise UsageError(
            f"The data set {documents.name!r} is too small: {total:,} tokens in {len(documents.texts):,} documents.",
            f"Chunks of {data.length} need some {ceil(body / share):,} tokens (one to score, the rest to train); "
            "give more text or lower data.length.",
        )
    if data.limit is not None:
        count = max(1, min(len(scoring), round(data.limit * data.held_out), data.limit - 1, data.max_held_out))
        scoring, training = scoring[:count], training[: data.limit - count]
    scoring = scoring[: data.max_held_out]
    proxy = max(1, ceil(len(training) * proxy_fraction))
    facts = (tokens.fingerprint, data.length, frame.first, frame.between, frame.last)
    # Repeated texts change what is held out.
    fingerprint = digest(*facts, *(("repeats", documents.repeats) if documents.repeats else ()))
    unscored = len(held) - len(scored)
    begun = _beginnings(tokens, train[: min(BEGUN, len(training))], frame, data.length)
    return Chunks(training, scoring, proxy, fingerprint, len(documents.texts), documents.record, unscored, begun)


def part_lengths(length: int) -> list[int]:
    """What a half, a quarter and an eighth of a text have of its tokens, those of a few tokens left out."""
    return [length // part for part in PARTS if length // part >= SHORTEST]


def _beginnings(tokens: Tokens, rows: np.ndarray, frame: Frame, length: int) -> list[np.ndarray]:
    """Of each document the longest beginning that it fills, of `length` or a part of it, and one shorter, in turn.
    None of text without a token at either end."""
    if frame.first is None or frame.last is None:
        return []
    made = []
    for turn, row in enumerate(rows):
        ids = tokens.document(int(row))
        filled = [size for size in (length, *part_lengths(length)) if size <= len(ids) + 2]
        for size in {*filled[:1], *(filled[1:][turn % len(filled[1:])] for _ in filled[1:2])}:
            made.append(np.array([frame.first, *ids[: size - 2], frame.last], dtype=np.int64))
    return made


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
