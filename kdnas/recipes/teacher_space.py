"""A student's embeddings in its teacher's space: the linear layer between the two, solved by least squares.

Looks at training text alone to solve it. Trains nothing and writes no file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
class TeacherSpace:
    """A student's body beside its teacher's, whose embeddings have `layout`. Both are in eval mode."""

    layout: Layout
    student: Any
    teacher: Any

    @torch.no_grad()
    def solved(self, ids: Tensor, known: Known, batch: int = BATCH) -> Layout:
        """The student's layout: pooled as the teacher's, then a linear layer with a bias, solved by ridge regression
        from pooled states to the teacher's embeddings, then normalised where those are.

        `ids` [chunks, length] are training text in the tokenizer's frame, `batch` rows read at a time. People embed
        short texts as well as long ones: besides whole chunks, parts of a half, a quarter and an eighth are pooled.
        The ridge is the one that is best for a fifth of the chunks when the layer is solved on the others.
        """
        fewer = len(ids) - len(ids) // LEFT
        most = self._seen(ids[:fewer], known, 0, batch)
        if fewer == len(ids):
            return self._layer(*most, RIDGES[0])
        rest = self._seen(ids[fewer:], known, fewer, batch)

        def close(ridge: float) -> float:
            made = self._layer(*most, ridge).finished(rest[0].float())
            return float(functional.cosine_similarity(made.double(), rest[1]).mean())

        return self._layer(torch.cat([most[0], rest[0]]), torch.cat([most[1], rest[1]]), max(RIDGES, key=close))

    def _layer(self, inputs: Tensor, outputs: Tensor, ridge: float) -> Layout:
        weight, bias = regression(inputs, outputs, ridge)
        return self.layout.student(weight.float(), bias.float())

    def _seen(self, ids: Tensor, known: Known, first: int, batch: int) -> tuple[Tensor, Tensor]:
        """The student's pooled states of texts and the teacher's embeddings, float64; `first` is the place of the first
        chunk."""
        inputs, outputs = [], []
        for rows, places in texts_of(ids, batch):
            taught = self._states(self.teacher, rows) if places is None else known(places + first)
            inputs.append(self._pooled(self._states(self.student, rows)).double())
            outputs.append(self.layout.finished(self._pooled(taught)).double())
        return torch.cat(inputs), torch.cat(outputs)

    @torch.no_grad()
    def cosine(self, made: Layout, ids: Tensor, known: Known, batch: int = BATCH) -> float:
        """The mean cosine between the student's embeddings, with the layout `made`, and the teacher's, on the chunks
        `ids` [chunks, length]."""
        total = 0.0
        for places in torch.arange(len(ids)).split(batch):
            own = made.finished(self._pooled(self._states(self.student, ids[places])))
            taught = self.layout.finished(self._pooled(known(places)))
            total += float(functional.cosine_similarity(own, taught).double().sum())
        return total / len(ids)

    def _states(self, body: Any, rows: Tensor) -> Tensor:
        states: Tensor = body(input_ids=rows.to(next(body.parameters()).device)).last_hidden_state
        return states

    def _pooled(self, states: Tensor) -> Tensor:
        """Of texts without padding, on the CPU."""
        mask = torch.ones(states.shape[:2], dtype=torch.long, device=states.device)
        return pooled(states.float(), mask, self.layout.pooling).cpu()


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
