"""The training of a student on its teacher's hidden states: batches of states, projections solved between epochs.

Knows no space and no store; what a candidate is and how it is scored stands in hidden_state.py.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import ceil
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from kdnas.measuring import devices
from kdnas.models.least_squares_init import TOKENS as FIT_TOKENS
from kdnas.system import seeds
from kdnas.teachers.hidden_state_cache import HiddenStates
from kdnas.training.contract import Bench, Epoch, Score, Student
from kdnas.training.loop import Step, Stepwise
from kdnas.training.losses.hidden_states import Projections, ProjectionSums
from kdnas.training.prefetch import ahead

STRIDE = 2  # each step scores every second token, from a random first one: see Projections.loss
SOLVE_TOKENS = 65_536  # most tokens from which the projections are solved


class LayersBench(Bench, Protocol):
    """A bench that says which of the teacher's layers a student learns from."""

    def targets_of(self, body: torch.nn.Module) -> tuple[list[int], list[int]]:
        """The teacher's layers that each layer of a student learns from: (uniform, last)."""
        ...


def forward(body: torch.nn.Module, device: torch.device, **inputs: Tensor) -> tuple[Tensor, ...]:
    """Block outputs [rows, length, hidden] of a student, embeddings left out."""
    with devices.autocast(device):
        out = body(**inputs, output_hidden_states=True)
    return tuple(out.hidden_states[1:])


def projections(student: Student) -> Projections:
    assert isinstance(student.aids, Projections)
    return student.aids


@dataclass(frozen=True)
class Ready:
    """One batch on the device: compact ids, and the targets of the positions scored."""

    ids: Tensor
    states: dict[int, Tensor]
    positions: slice


class HiddenStateTraining(Stepwise[Ready]):
    """Only the embedding rows that occur are trained.

    The projections are trained with the student, and besides solved by least squares before the first step and after
    each epoch: found from nothing by steps alone, they cost most of a short budget (measured: 24 steps end at a loss
    of 0.95 without, 0.21 with), and what is scored should be the student, not how far they came.

    A row of the embedding table whose token does not occur in the text gets no gradient, and rows are not decayed:
    leaving it out of the optimiser changes nothing but the cost (70 % of a small student are embeddings).
    """

    def __init__(self, bench: LayersBench, student: Student, states: HiddenStates, epochs: int, seed: int) -> None:
        self._targets = bench.targets_of(student.body)
        self._states, self._ids = states, states.ids
        self._batch = min(bench.spec.data.batch_size, len(self._ids))
        self._table: torch.nn.Parameter = student.body.get_input_embeddings().weight  # type: ignore[operator]
        rows, compact = _compact(self._ids)
        self._compact = compact.view_as(self._ids)
        self._rows = rows.to(bench.device)
        self._table.requires_grad_(False)
        self._embeddings = torch.nn.Parameter(self._table.detach()[self._rows].clone())
        super().__init__(bench, student, len(self._ids), epochs, seed)

    def named(self) -> dict[str, torch.nn.Parameter]:
        aids = {f"aids.{name}": p for name, p in projections(self.student).named_parameters()}
        return {**super().named(), **aids, "rows": self._embeddings}

    def decays(self, name: str, parameter: torch.nn.Parameter) -> bool:
        return name not in ("rows", "aids.bias") and "embeddings" not in name

    def size(self, batch: Ready) -> int:
        return len(batch.ids)

    def tokens(self, batch: Ready) -> int:
        return batch.ids.numel()

    def begin(self) -> Epoch:
        began = time.perf_counter()
        self.solve_as_built()
        score = self.bench.score(self.student)
        return Epoch(0, self.epochs, score, score.raw_loss, time.perf_counter() - began, 0)

    def solve_as_built(self) -> None:
        """The projections of a student that has not learned."""
        if not bool(projections(self.student).weight.any()):  # else they were solved as the student was built
            self._solve(FIT_TOKENS)

    def before_epoch(self) -> None:
        if self.done == 0:
            self._solve()

    def before_score(self) -> None:
        self._write_back()
        self._solve()

    def step_loss(self, batch: Ready, step: int) -> Tensor:
        return self.hidden_loss(batch, self.outputs(batch.ids))

    def outputs(self, compact: Tensor) -> tuple[Tensor, ...]:
        """What the student's layers give on compact ids [rows, length]."""
        embedded = functional.embedding(compact, self._embeddings)
        return forward(self.student.body, self.bench.device, inputs_embeds=embedded)

    def hidden_loss(self, batch: Ready, outputs: tuple[Tensor, ...]) -> Tensor:
        """The mean squared error over both targets of all layers at the batch's positions."""
        first, second = self._targets
        return projections(self.student).loss(
            [output[:, batch.positions] for output in outputs],
            [batch.states[layer] for layer in first],
            [batch.states[layer] for layer in second],
        )

    def peek(self) -> Score:
        """The score in the middle of an epoch, as its end would give it now; the training goes on as if not asked."""
        aids = projections(self.student)
        before = [parameter.detach().clone() for parameter in aids.parameters()]
        self.before_score()
        score = self.bench.score(self.student)
        with torch.no_grad():
            for parameter, value in zip(aids.parameters(), before, strict=True):
                parameter.copy_(value)
        self.student.body.train()
        return score

    @torch.no_grad()
    def _solve(self, most: int = SOLVE_TOKENS) -> None:
        """The projections by least squares on the first chunks, for the student's body as it is."""
        body = self.student.body
        first, second = self._targets
        body.eval()
        sums = ProjectionSums(projections(self.student))
        count = min(len(self._ids), max(1, most // self._ids.shape[1]))
        for rows in torch.arange(count).split(self._batch):
            hidden = forward(body, self.bench.device, input_ids=self._ids[rows].to(self.bench.device))
            for i, output in enumerate(hidden):
                sums.add(i, output, *self._states.batch(rows, [first[i], second[i]]))
        sums.solve()

    def feed(self, generator: np.random.Generator, first: int = 0) -> tuple[Iterable[Step[Ready]], int]:
        return self._steps(generator, first), ceil(len(self._ids) / min(self.step_rows, len(self._ids)))

    def _steps(self, generator: np.random.Generator, first: int) -> Iterator[Step[Ready]]:
        """The epoch's steps in the order that the seed and the epoch's number give, without those before `first`; their
        batches are made one by one, ahead on a GPU. All batches of a step score the same positions."""
        order = torch.from_numpy(generator.permutation(len(self._ids)))
        offsets = seeds.generator(self.seed, seeds.Student.OFFSETS, self.done)
        plan = [(rows, slice(int(offsets.integers(STRIDE)), None, STRIDE)) for rows in order.split(self.step_rows)]
        plan = plan[first:]
        parts = [[(part, places) for part in rows.split(self._batch)] for rows, places in plan]
        flat = [one for step in parts for one in step]
        made: Generator[Ready]
        if self.bench.device.type == "cuda" and self._states.decision.place != "recompute":
            made = ahead(lambda part: self._ready(*part), flat)
        else:
            made = (self._ready(*part) for part in flat)
        with contextlib.closing(made):
            for (rows, _), step in zip(plan, parts, strict=True):
                yield Step(itertools.islice(made, len(step)), len(rows))

    def _ready(self, rows: Tensor, positions: slice) -> Ready:
        device = self.bench.device
        wanted = sorted({layer for side in self._targets for layer in side})
        states = self._states.batch(rows, wanted, positions)
        ids = self._compact[rows]
        if device.type == "cuda":
            ids = ids.pin_memory().to(device, non_blocking=True)
            states = [s if s.is_cuda else s.pin_memory().to(device, non_blocking=True) for s in states]
        elif device.type != "cpu":
            ids, states = ids.to(device), [s.to(device) for s in states]
        return Ready(ids, dict(zip(wanted, states, strict=True)), positions)

    @torch.no_grad()
    def _write_back(self) -> None:
        self._table[self._rows] = self._embeddings.detach()

    def body_state(self) -> Mapping[str, Tensor]:
        """The whole body, with its table written back."""
        self._write_back()
        return self.student.body.state_dict()

    def restore_body(self, state: Mapping[str, Tensor]) -> None:
        self.student.body.load_state_dict(state)
        with torch.no_grad():
            self._embeddings.copy_(self._table[self._rows])


def _compact(ids: Tensor) -> tuple[Tensor, Tensor]:
    rows, places = torch.unique(ids, return_inverse=True)
    return rows, places
