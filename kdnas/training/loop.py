"""The one training loop: an epoch's steps in order, a distillation epoch by epoch, its state and how it is taken up.

`steps` is the frame of an epoch, for distillation and ordinary training alike; `Stepwise` is the distillation that all
recipes share. A recipe says which batches an epoch has and what a step's loss is. Knows no model and no data.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from kdnas.system import seeds
from kdnas.system.errors import UsageError
from kdnas.training.contract import Bench, Epoch, OnStep, Student, Training
from kdnas.training.optimiser import Group, Optimiser

Batch = TypeVar("Batch")


def steps(
    optimiser: Optimiser,
    batches: Iterable[Batch],
    count: int,
    *,
    done: int,
    epochs: int,
    noise: int,
    device: torch.device,
    learn: Callable[[Batch, int], None],
    after: Callable[[int, int], None] = lambda step, count: None,
    on_step: OnStep | None = None,
) -> None:
    """One epoch of `count` steps, after `done` of `epochs`. `noise` seeds torch's own draws; the caller's stay as they
    were. `learn` is given a batch and its step, counted from the training's beginning, and leaves gradients behind."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(noise)
        for place, batch in enumerate(batches):
            step = done * count + place
            optimiser.schedule(step, epochs * count)
            learn(batch, step)
            optimiser.step()
            after(step, count)
            if on_step is not None:
                on_step(place + 1, count)


class Stepwise(Training, Generic[Batch]):
    """One distillation. `count` are the rows of the training data; the trained parameters are those of `named`."""

    def __init__(self, bench: Bench, student: Student, count: int, epochs: int, seed: int) -> None:
        self.bench, self.student, self.count = bench, student, count
        self.epochs, self.seed, self.done = epochs, seed, 0
        self._seconds, self._tokens = 0.0, 0
        settings = bench.spec.training
        named = self.named()
        parts: tuple[list[torch.nn.Parameter], list[torch.nn.Parameter]] = ([], [])
        for name, parameter in named.items():
            parts[0 if parameter.dim() >= 2 and self.decays(name, parameter) else 1].append(parameter)
        groups = [
            Group(part, settings.learning_rate, decay)
            for part, decay in zip(parts, (settings.weight_decay, 0.0), strict=True)
        ]
        self.optimiser = Optimiser(named, groups, warmup=settings.warmup, clip=settings.clip)

    # ------------------------------------------------------------------------ what a recipe says

    @abstractmethod
    def feed(self, generator: np.random.Generator) -> tuple[Iterable[Batch], int]:
        """The batches of one epoch and their number, which is the same in every epoch."""

    @abstractmethod
    def step_loss(self, batch: Batch, step: int) -> Tensor:
        """The mean loss over the batch, to be differentiated; `step` counts from the beginning."""

    @abstractmethod
    def size(self, batch: Batch) -> int:
        """Rows in the batch."""

    @abstractmethod
    def tokens(self, batch: Batch) -> int:
        """Tokens learned from in the batch."""

    def named(self) -> dict[str, torch.nn.Parameter]:
        """What is trained, by the names of the state; tied parameters once."""
        return {name: p for name, p in self.student.body.named_parameters() if p.requires_grad}

    @abstractmethod
    def decays(self, name: str, parameter: torch.nn.Parameter) -> bool:
        """Whether a matrix is decayed: embeddings are not."""

    def before_epoch(self) -> None:
        """What precedes an epoch's steps."""
        return None

    def after_step(self, step: int, count: int) -> None:
        """What follows a step of the optimiser; `step` counts from the beginning, `count` are an epoch's."""
        return None

    def before_score(self) -> None:
        """What follows an epoch's last step."""
        return None

    # ------------------------------------------------------------------------ the contract

    def run_epoch(self, on_step: OnStep | None = None) -> Epoch:
        begin = time.perf_counter()
        self.before_epoch()
        self.student.body.train()
        losses = torch.zeros((), device=self.bench.device)

        def learn(batch: Batch, step: int) -> None:
            nonlocal losses
            loss = self.step_loss(batch, step)
            loss.backward()
            losses += loss.detach() * self.size(batch)
            self._tokens += self.tokens(batch)

        batches, count = self.feed(seeds.generator(self.seed, seeds.Student.BATCHES, self.done))
        steps(
            self.optimiser,
            batches,
            count,
            done=self.done,
            epochs=self.epochs,
            noise=seeds.number(self.seed, seeds.Student.NOISE, self.done),
            device=self.bench.device,
            learn=learn,
            after=self.after_step,
            on_step=on_step,
        )
        self.done += 1
        self.before_score()
        score = self.bench.score(self.student)
        self._seconds += time.perf_counter() - begin
        return Epoch(self.done, self.epochs, score, float(losses) / self.count, self._seconds, self._tokens)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        parts = {"body": self.body_state(), "optimiser": self.optimiser.state()}
        if self.student.aids is not None:
            parts["aids"] = self.student.aids.state_dict()
        tensors = {f"{part}.{n}": t.detach().clone() for part, found in parts.items() for n, t in found.items()}
        facts = {"done": self.done, "epochs": self.epochs, "seed": self.seed}
        return tensors, {**facts, "seconds": self._seconds, "tokens": self._tokens}

    def restore(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        if facts["epochs"] != self.epochs or facts["seed"] != self.seed:
            raise UsageError(
                f"The checkpoint is of a training over {facts['epochs']} epochs with seed {facts['seed']}.",
                f"This one runs over {self.epochs} with seed {self.seed}; start it afresh.",
            )
        parts: dict[str, dict[str, Tensor]] = {"body": {}, "aids": {}, "optimiser": {}}
        for name, tensor in tensors.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = tensor
        self.restore_body(parts["body"])
        if self.student.aids is not None:
            self.student.aids.load_state_dict(parts["aids"])
        self.optimiser.restore(parts["optimiser"])
        self.done, self._seconds = int(facts["done"]), float(facts["seconds"])
        self._tokens = int(facts["tokens"])

    def body_state(self) -> Mapping[str, Tensor]:
        """Of the body, what training changes."""
        return self.optimiser.named

    @torch.no_grad()
    def restore_body(self, state: Mapping[str, Tensor]) -> None:
        """Take up what `body_state` gave."""
        for name, parameter in self.optimiser.named.items():
            parameter.copy_(state[name])
