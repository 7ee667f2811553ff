"""The training of a student on its teacher's embeddings: of chunks and of parts of them, and of their tokens.

Knows no space and no store; what a candidate is and how it is scored stands in sentence_embedding.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from kdnas.data.chunks import part_lengths
from kdnas.models.sentence_layout import Layout
from kdnas.recipes import teacher_space
from kdnas.recipes.hidden_state_training import SOLVE_TOKENS, HiddenStateTraining, LayersBench, Ready
from kdnas.study.spec_recipes import SentenceEmbeddingRecipe
from kdnas.teachers.encoder import Teacher
from kdnas.teachers.hidden_state_cache import HiddenStates
from kdnas.training.contract import Student
from kdnas.training.losses import embeddings
from kdnas.training.losses.hidden_states import Projections


class IntoTheSpace(Projections):
    """A student's projections onto hidden states, and the linear layer from its pooled states to embeddings."""

    def __init__(self, layers: int, width: int, outputs: int, pooled: int, embedding: int) -> None:
        super().__init__(layers, width, outputs)
        self.into_weight = torch.nn.Parameter(torch.zeros(embedding, pooled))
        self.into_bias = torch.nn.Parameter(torch.zeros(embedding))


def into(student: Student) -> IntoTheSpace:
    assert isinstance(student.aids, IntoTheSpace)
    return student.aids


class EmbeddingsBench(LayersBench, Protocol):
    """A bench with its teacher's embeddings."""

    part: SentenceEmbeddingRecipe
    teacher: Teacher
    layout: Layout
    constant: Tensor

    def last(self, states: HiddenStates, places: Tensor) -> Tensor:
        """The teacher's last states of the chunks at `places`."""
        ...

    def solve(self, student: Student, states: HiddenStates) -> None:
        """A student's layer into the teacher's space, by least squares on the chunks of `states`."""
        ...


@dataclass(frozen=True)
class ReadyTexts(Ready):
    """A batch with the teacher's embeddings [rows, width] of its chunks, on the device, and where tokens count its last
    states [rows, length, width]."""

    wanted: Tensor
    last: Tensor | None


class SentenceEmbeddingTraining(HiddenStateTraining):
    """Learns embeddings and, by the weight that the spec says, what each token adds to them.

    Each step embeds its chunks, and parts of them, since short texts are embedded too. The layer into the teacher's
    space is solved before the first step and trained with the student. The projections onto hidden states are only
    solved: what a folder takes from them is no target.
    """

    bench: EmbeddingsBench

    def __init__(self, bench: EmbeddingsBench, student: Student, states: HiddenStates, epochs: int, seed: int) -> None:
        self.part = bench.part
        self._tokens_count = bench.part.hidden > 0 and teacher_space.of_tokens(bench.layout)
        super().__init__(bench, student, states, epochs, seed)

    @cached_property
    def _wanted(self) -> Tensor:
        """The teacher's embeddings of all chunks."""
        layout, known = self.bench.layout, partial(self.bench.last, self._states)
        with torch.no_grad():
            parts = torch.arange(len(self._ids)).split(teacher_space.BATCH)
            return torch.cat([layout.finished(teacher_space.whole_pooled(known(rows), layout)).cpu() for rows in parts])

    def named(self) -> dict[str, torch.nn.Parameter]:
        return {n: p for n, p in super().named().items() if n not in ("aids.weight", "aids.bias")}

    def solve_as_built(self) -> None:
        super().solve_as_built()
        if not bool(into(self.student).into_weight.any()):
            self.bench.solve(self.student, self._states)

    def before_epoch(self) -> None:
        if self.done == 0:
            self.solve_as_built()

    def _solve(self, most: int = SOLVE_TOKENS) -> None:
        super()._solve(most)
        self.bench.solve(self.student, self._states)

    def step_loss(self, batch: Ready, step: int) -> Tensor:
        assert isinstance(batch, ReadyTexts)
        loss = self._apart(self.outputs(batch.ids)[-1], batch.wanted, batch.last)
        parts = part_lengths(batch.ids.shape[1])
        if parts:
            short = parts[step % len(parts)]  # one after the other
            compact = torch.cat([batch.ids[:, : short - 1], batch.ids[:, -1:]], 1)
            with torch.no_grad():
                states = self.bench.teacher.body(input_ids=self._rows[compact]).last_hidden_state
                wanted = self.bench.layout.finished(teacher_space.whole_pooled(states, self.bench.layout))
            loss = (loss + self._apart(self.outputs(compact)[-1], wanted, states)) / 2
        return loss

    def _apart(self, states: Tensor, wanted: Tensor, theirs: Tensor | None) -> Tensor:
        """The weighted losses of the embeddings of texts whose last states [rows, length, width] are `states`, and the
        teacher's `theirs`."""
        aids, layout = into(self.student), self.bench.layout
        made = layout.student(aids.into_weight, aids.into_bias)
        own = made.finished(teacher_space.whole_pooled(states, layout))
        constant = self.bench.constant.to(own.device)
        loss = self.part.cosine * embeddings.apart(own, wanted, constant)
        if self.part.pairwise:
            loss = loss + self.part.pairwise * embeddings.pairwise(own, wanted)
        if self._tokens_count and theirs is not None:
            added = teacher_space.shares(theirs.float(), layout)
            own_shares = functional.linear(states.float(), aids.into_weight, aids.into_bias)
            loss = loss + self.part.hidden * embeddings.of_tokens(own_shares, added)
        return loss

    def _ready(self, rows: Tensor, positions: slice) -> ReadyTexts:
        device = self.bench.device
        last = self.bench.last(self._states, rows).to(device) if self._tokens_count else None
        return ReadyTexts(self._compact[rows].to(device), {}, positions, self._wanted[rows].to(device), last)
