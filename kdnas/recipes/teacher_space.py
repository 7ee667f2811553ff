"""A student's embeddings in its teacher's space: the linear layer between the two, solved by least squares.

Looks at training text alone to solve it. Trains nothing and writes no file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from kdnas.data.chunks import part_lengths
from kdnas.models.classifier_head import regression
from kdnas.models.sentence_encoder import pooled
from kdnas.models.sentence_layout import Layout, Normalise

CHUNKS = 2048  # most of them that are pooled whole, and most that are pooled in part
BATCH = 64
LEFT = 5  # one chunk in so many chooses the ridge
RIDGES = (1e-3, 1e-2, 1e-1, 1.0)

Known = Callable[[Tensor], Tensor]
"""The teacher's last states [rows, length, width] of the chunks at places [rows], from a cache."""


@dataclass(frozen=True)
class Texts:
    """Chunks `ids` [chunks, length], the first of which is at the place `first` among all, and beginnings of documents
    [documents, length], of one length each."""

    ids: Tensor
    first: int = 0
    begun: tuple[Tensor, ...] = ()

    def batches(self, rows: int) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Token ids of one length: chunks, with their places among all where they are whole, parts of them, and then
        beginnings."""
        for ids, places in texts_of(self.ids, rows):
            yield ids, None if places is None else places + self.first
        for ids in self.begun:
            for part in ids.split(rows):
                yield part, None


@dataclass(frozen=True)
class Lesson:
    """Texts, and the teacher's embeddings [texts, width] of their batches, on the CPU."""

    texts: Texts
    wanted: Tensor


@torch.no_grad()
def lesson(layout: Layout, teacher: Any, texts: Texts, known: Known, batch: int = BATCH) -> Lesson:
    """The lesson of texts whose whole chunks are `known`. The rest is read by the `teacher`, a body in eval mode,
    `batch` rows at a time."""
    made = [
        layout.finished(_pooled(_states(teacher, rows) if places is None else known(places), layout))
        for rows, places in texts.batches(batch)
    ]
    return Lesson(texts, torch.cat(made))


def parted(ids: Tensor, begun: Sequence[np.ndarray]) -> list[Texts]:
    """The texts that a student's layer is solved from, and those that its ridge is chosen on: one in five, where there
    are as many. Of the beginnings at most as many are taken as there are chunks, of as many parts."""
    begun = begun[: 2 * min(len(ids), CHUNKS)]
    fewer = len(ids) - len(ids) // LEFT
    if fewer == len(ids):
        return [Texts(ids, 0, by_length(begun))]
    less = len(begun) - len(begun) // LEFT
    return [Texts(ids[:fewer], 0, by_length(begun[:less])), Texts(ids[fewer:], fewer, by_length(begun[less:]))]


def by_length(texts: Sequence[np.ndarray]) -> tuple[Tensor, ...]:
    """Texts as they come, those of one length together, the longest first."""
    lengths = sorted({len(text) for text in texts}, reverse=True)
    return tuple(torch.from_numpy(np.stack([t for t in texts if len(t) == length])) for length in lengths)


def lessons(
    layout: Layout, teacher: Any, ids: Tensor, begun: Sequence[np.ndarray], known: Known, batch: int = BATCH
) -> tuple[Lesson, ...]:
    """Of both parts of the texts. No student is looked at, so that all of a bench share them."""
    return tuple(lesson(layout, teacher, texts, known, batch) for texts in parted(ids, begun))


@dataclass(frozen=True)
class TeacherSpace:
    """A student's body, in eval mode, and the layout of its teacher's embeddings."""

    layout: Layout
    student: Any

    @torch.no_grad()
    def solved(self, taught: Sequence[Lesson], batch: int = BATCH) -> Layout:
        """The student's layout: pooled as the teacher's, then a linear layer with a bias, solved by ridge regression
        from pooled states to the teacher's embeddings, then normalised where those are.

        `taught` are `lessons` of training text in the tokenizer's frame, `batch` rows of which are read at a time.
        People embed short texts as well as long ones, and documents from their first word: besides whole chunks, parts
        of a half, a quarter and an eighth are pooled, and beginnings of documents. The ridge is the one that is best
        for a fifth of the texts when the layer is solved on the others.
        """
        inputs = [self._inputs(one.texts, batch).double() for one in taught]
        outputs = [one.wanted.double() for one in taught]
        if len(taught) == 1:
            return self._layer(inputs[0], outputs[0], RIDGES[0])

        def close(ridge: float) -> float:
            made = self._layer(inputs[0], outputs[0], ridge).finished(inputs[1].float())
            return float(functional.cosine_similarity(made.double(), outputs[1]).mean())

        return self._layer(torch.cat(inputs), torch.cat(outputs), max(RIDGES, key=close))

    def _layer(self, inputs: Tensor, outputs: Tensor, ridge: float) -> Layout:
        weight, bias = regression(inputs, outputs, ridge)
        return self.layout.student(weight.float(), bias.float())

    def _inputs(self, texts: Texts, batch: int) -> Tensor:
        """The student's pooled states of all texts."""
        return torch.cat([_pooled(_states(self.student, rows), self.layout) for rows, _ in texts.batches(batch)])

    @torch.no_grad()
    def vectors(self, made: Layout, texts: Texts, batch: int = BATCH) -> Tensor:
        """The student's embeddings of texts, with the layout `made`: [texts, width]."""
        return made.finished(self._inputs(texts, batch))

    @torch.no_grad()
    def cosine(self, made: Layout, ids: Tensor, known: Known, batch: int = BATCH) -> float:
        """The mean cosine between the student's embeddings, with the layout `made`, and the teacher's, on the chunks
        `ids` [chunks, length]."""
        total = 0.0
        for places in torch.arange(len(ids)).split(batch):
            own = made.finished(_pooled(_states(self.student, ids[places]), self.layout))
            taught = self.layout.finished(_pooled(known(places), self.layout))
            total += float(functional.cosine_similarity(own, taught).double().sum())
        return total / len(ids)


def of_tokens(layout: Layout) -> bool:
    """Whether an embedding is the mean of what its tokens add, in its own space: nothing but a length follows it."""
    return layout.pooling == ("mean",) and all(isinstance(step, Normalise) for step in layout.steps)


def shares(states: Tensor, layout: Layout) -> Tensor:
    """What each token adds to the embedding of its text, of last states [rows, length, width] without padding, of a
    layout with `of_tokens`: their mean over the length is the embedding."""
    if not layout.normalised:
        return states
    return states / states.mean(1, keepdim=True).norm(dim=-1, keepdim=True).clamp_min(1e-12)


def _states(body: Any, rows: Tensor) -> Tensor:
    states: Tensor = body(input_ids=rows.to(next(body.parameters()).device)).last_hidden_state
    return states


def _pooled(states: Tensor, layout: Layout) -> Tensor:
    """Of texts without padding, on the CPU."""
    return whole_pooled(states, layout).cpu()


def whole_pooled(states: Tensor, layout: Layout) -> Tensor:
    """Of texts without padding [rows, length, width], on their own device: [rows, width · poolings]."""
    mask = torch.ones(states.shape[:2], dtype=torch.long, device=states.device)
    return pooled(states.float(), mask, layout.pooling)


def texts_of(ids: Tensor, batch: int) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Batches of token ids of one length, with their places among the chunks where they are whole ones."""
    count, length = ids.shape
    for places in torch.arange(min(count, CHUNKS)).split(batch):
        yield ids[places], places
    shares = part_lengths(length)
    first = max(0, min(CHUNKS, count - CHUNKS))  # other chunks than the whole ones, where there are some
    for turn, short in enumerate(shares):
        for places in torch.arange(first + turn, min(count, first + CHUNKS), len(shares)).split(batch):
            yield torch.cat([ids[places, : short - 1], ids[places, -1:]], 1), None
