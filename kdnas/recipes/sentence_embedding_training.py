"""The training of a student on its teacher's embeddings: of chunks and of parts of them, beside the hidden states.

Knows no space and no store; what a candidate is and how it is scored stands in sentence_embedding.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial
from typing import Protocol

import torch
from torch import Tensor

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

    def variance(self, body: torch.nn.Module) -> float:
        """Mean variance of the student's own targets: what a constant per dimension leaves."""
        ...

    def last(self, states: HiddenStates, places: Tensor) -> Tensor:
        """The teacher's last states of the chunks at `places`."""
        ...

    def solve(self, student: Student, states: HiddenStates) -> None:
        """A student's layer into the teacher's space, by least squares on the chunks of `states`."""
        ...


@dataclass(frozen=True)
class ReadyTexts(Ready):
    """A batch with the teacher's embeddings [rows, width] of its chunks, on the device."""

    wanted: Tensor


class SentenceEmbeddingTraining(HiddenStateTraining):
    """Learns embeddings and, by the weight that the spec says, hidden states.

    Each step embeds its chunks, and parts of them, since short texts are embedded too. The layer into the teacher's
    space is solved before the first step and trained with the student.
    """

    bench: EmbeddingsBench

    def __init__(self, bench: EmbeddingsBench, student: Student, states: HiddenStates, epochs: int, seed: int) -> None:
        self.part = bench.part
        super().__init__(bench, student, states, epochs, seed)

    @cached_property
    def _wanted(self) -> Tensor:
        """The teacher's embeddings of all chunks."""
        layout, known = self.bench.layout, partial(self.bench.last, self._states)
        with torch.no_grad():
            parts = torch.arange(len(self._ids)).split(teacher_space.BATCH)
            return torch.cat([layout.finished(teacher_space.whole_pooled(known(rows), layout)).cpu() for rows in parts])

    def named(self) -> dict[str, torch.nn.Parameter]:
        found = super().named()
        return found if self.part.hidden else {n: p for n, p in found.items() if n not in ("aids.weight", "aids.bias")}

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
        outputs = self.outputs(batch.ids)
        loss = self._apart(outputs[-1], batch.wanted)
        if self.part.hidden:
            loss = loss + self.part.hidden * self.hidden_loss(batch, outputs) / self.bench.variance(self.student.body)
        parts = part_lengths(batch.ids.shape[1])
        if parts:
            short = parts[step % len(parts)]  # one after the other
            compact = torch.cat([batch.ids[:, : short - 1], batch.ids[:, -1:]], 1)
            with torch.no_grad():
                states = self.bench.teacher.body(input_ids=self._rows[compact]).last_hidden_state
                wanted = self.bench.layout.finished(teacher_space.whole_pooled(states, self.bench.layout))
            loss = (loss + self._apart(self.outputs(compact)[-1], wanted)) / 2
        return loss

    def _apart(self, states: Tensor, wanted: Tensor) -> Tensor:
        """The weighted losses of the embeddings of texts with the last states [rows, length, width]."""
        aids, layout = into(self.student), self.bench.layout
        made = layout.student(aids.into_weight, aids.into_bias)
        own = made.finished(teacher_space.whole_pooled(states, layout))
        constant = self.bench.constant.to(own.device)
        loss = self.part.cosine * embeddings.apart(own, wanted, constant)
        return loss + self.part.pairwise * embeddings.pairwise(own, wanted) if self.part.pairwise else loss

    def _ready(self, rows: Tensor, positions: slice) -> ReadyTexts:
        made = super()._ready(rows, positions)
        return ReadyTexts(made.ids, made.states, made.positions, self._wanted[rows].to(self.bench.device))
