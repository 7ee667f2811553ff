"""A student's embeddings in its teacher's space: the linear layer between the two, solved by least squares.

Looks at training text alone to solve it. Trains nothing and writes no file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from kdnas.models.classifier_head import regression
from kdnas.models.sentence_encoder import pooled
from kdnas.models.sentence_layout import Layout

CHUNKS = 2048  # most of them that are pooled whole, and most that are pooled in part
SHORTEST = 8  # tokens of a part, the special ones among them
BATCH = 64
LEFT = 5  # one chunk in so many chooses the ridge
RIDGES = (1e-3, 1e-2, 1e-1, 1.0)

Known = Callable[[Tensor], Tensor]
"""The teacher's last states [rows, length, width] of the chunks at places [rows], from a cache."""


@dataclass(frozen=True)
class Lesson:
    """Chunks `ids` [chunks, length], and the teacher's embeddings [texts, width] of what `texts_of` makes of them, on
    the CPU."""

    ids: Tensor
    wanted: Tensor


@torch.no_grad()
def lesson(layout: Layout, teacher: Any, ids: Tensor, known: Known, first: int = 0, batch: int = BATCH) -> Lesson:
    """The lesson of the chunks `ids`, the first of which is at the place `first` of those that are `known`. Parts of
    chunks are read by the `teacher`, a body in eval mode, `batch` rows at a time."""
    made = [
        layout.finished(_pooled(_states(teacher, rows) if places is None else known(places + first), layout))
        for rows, places in texts_of(ids, batch)
    ]
    return Lesson(ids, torch.cat(made))


def parted(ids: Tensor) -> list[tuple[Tensor, int]]:
    """The chunks that a student's layer is solved from, and those that its ridge is chosen on: one in five, where there
    are as many; each with the place of its first."""
    fewer = len(ids) - len(ids) // LEFT
    return [(ids, 0)] if fewer == len(ids) else [(ids[:fewer], 0), (ids[fewer:], fewer)]


def lessons(layout: Layout, teacher: Any, ids: Tensor, known: Known, batch: int = BATCH) -> tuple[Lesson, ...]:
    """Of both parts of the chunks. No student is looked at, so that all of a bench share them."""
    return tuple(lesson(layout, teacher, part, known, first, batch) for part, first in parted(ids))


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
        People embed short texts as well as long ones: besides whole chunks, parts of a half, a quarter and an eighth
        are pooled. The ridge is the one that is best for a fifth of the chunks when the layer is solved on the others.
        """
        inputs = [self._inputs(one.ids, batch).double() for one in taught]
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

    def _inputs(self, ids: Tensor, batch: int) -> Tensor:
        """The student's pooled states of all texts of the chunks."""
        return torch.cat([_pooled(_states(self.student, rows), self.layout) for rows, _ in texts_of(ids, batch)])

    @torch.no_grad()
    def vectors(self, made: Layout, ids: Tensor, batch: int = BATCH) -> Tensor:
        """The student's embeddings, with the layout `made`, of all texts of the chunks `ids`: [texts, width]."""
        return made.finished(self._inputs(ids, batch))

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
    shares = [length // part for part in (2, 4, 8) if length // part >= SHORTEST]
    first = max(0, min(CHUNKS, count - CHUNKS))  # other chunks than the whole ones, where there are some
    for turn, short in enumerate(shares):
        for places in torch.arange(first + turn, min(count, first + CHUNKS), len(shares)).split(batch):
            yield torch.cat([ids[places, : short - 1], ids[places, -1:]], 1), None
