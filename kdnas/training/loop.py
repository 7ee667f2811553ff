"""The one training loop: an epoch's steps in order, a distillation epoch by epoch, its state and how it is taken up.

`steps` is the frame of an epoch, for distillation and ordinary training alike; `Stepwise` is the distillation that all
recipes share. A recipe says which batches an epoch has and what a step's loss is. Knows no model and no data.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from kdnas.system import interrupts, seeds
from kdnas.system.errors import UsageError
from kdnas.training import activations
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
    begun: int = 0,
    draws: Mapping[str, Tensor] | None = None,
) -> None:
    """One epoch of `count` steps, after `done` of `epochs`. `noise` seeds torch's own draws; the caller's stay as they
    were. `learn` is given a batch and its step, counted from the training's beginning, and leaves gradients behind.

    An epoch that is taken up after `begun` steps gets the batches after them, and `draws`, where torch's generators
    stood then (`generators`)."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(noise)
        if draws:
            torch.set_rng_state(draws["cpu"].cpu())
            if device.type == "cuda" and "cuda" in draws:
                torch.cuda.set_rng_state(draws["cuda"].cpu(), device)
        for place, batch in enumerate(batches, begun):
            interrupts.check()
            step = done * count + place
            optimiser.schedule(step, epochs * count)
            learn(batch, step)
            optimiser.step()
            after(step, count)
            if on_step is not None:
                on_step(place + 1, count)


@dataclass(frozen=True)
class Step(Generic[Batch]):
    """What one step of the optimiser learns from: batches, one after the other, and their rows together."""

    batches: Iterable[Batch]
    rows: int


def generators(device: torch.device) -> dict[str, Tensor]:
    """Where torch's generators stand now, on the CPU and on the training's own device."""
    found = {"cpu": torch.get_rng_state()}
    return found | {"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else found


class Stepwise(Training, Generic[Batch]):
    """One distillation. `count` are the rows of the training data; the trained parameters are those of `named`.

    A step's loss is the mean over the rows of all its batches, as if they were one: `training.accumulate` batches of
    `data.batch_size` rows need the memory of one. Warm-up, schedule and `step` count steps of the optimiser.
    """

    def __init__(self, bench: Bench, student: Student, count: int, epochs: int, seed: int) -> None:
        self.bench, self.student, self.count = bench, student, count
        self.epochs, self.seed, self.done, self.step = epochs, seed, 0, 0
        self._seconds, self._tokens = 0.0, 0
        self._losses = torch.zeros((), device=bench.device)  # of the epoch's steps so far
        self._draws: dict[str, Tensor] = {}  # of an epoch that is taken up
        self._began: float | None = None  # when its running part did
        settings = bench.spec.training
        self._recompute = settings.checkpointing
        if self._recompute:
            activations.require(student.body)
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

    @property
    def step_rows(self) -> int:
        """Most rows of one step."""
        return self.bench.spec.data.batch_size * self.bench.spec.training.accumulate

    @abstractmethod
    def feed(self, generator: np.random.Generator, first: int = 0) -> tuple[Iterable[Step[Batch]], int]:
        """The steps of one epoch from the `first` on, and the number of all, which is the same in every epoch."""

    @abstractmethod
    def step_loss(self, batch: Batch, step: int) -> Tensor:
        """The mean loss over the batch, to be differentiated; `step` counts from the beginning. The means of a step's
        batches, weighed by their rows, are the mean over the step."""

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

    def before_step(self, given: Step[Batch], step: int) -> None:
        """What precedes a step's batches; `step` counts from the beginning."""
        return None

    def after_step(self, step: int, count: int) -> None:
        """What follows a step of the optimiser; `step` counts from the beginning, `count` are an epoch's."""
        return None

    def before_score(self) -> None:
        """What follows an epoch's last step."""
        return None

    def kept(self) -> Mapping[str, Tensor]:
        """What a recipe keeps from one step of an epoch to the next, beside weights and moments."""
        return {}

    def restore_kept(self, state: Mapping[str, Tensor]) -> None:
        """Take up what `kept` gave: nothing where a training is taken up between two epochs."""
        return None

    # ------------------------------------------------------------------------ the contract

    def run_epoch(self, on_step: OnStep | None = None) -> Epoch:
        self._began = time.perf_counter()
        if not self.step:
            self.before_epoch()
        self.student.body.train()

        def learn(given: Step[Batch], step: int) -> None:
            self.before_step(given, step)
            for batch in given.batches:
                loss, rows = self.step_loss(batch, step), self.size(batch)
                (loss if rows == given.rows else loss * (rows / given.rows)).backward()
                self._losses += loss.detach() * rows
                self._tokens += self.tokens(batch)

        def stepped(place: int, count: int) -> None:
            self.step = place
            if on_step is not None:
                on_step(place, count)

        plan, count = self.feed(seeds.generator(self.seed, seeds.Student.BATCHES, self.done), self.step)
        with activations.recomputed(self.student.body, self._recompute):
            steps(
                self.optimiser,
                plan,
                count,
                done=self.done,
                epochs=self.epochs,
                noise=seeds.number(self.seed, seeds.Student.NOISE, self.done),
                device=self.bench.device,
                learn=learn,
                after=self.after_step,
                on_step=stepped,
                begun=self.step,
                draws=self._draws,
            )
        self.done, self.step, self._draws = self.done + 1, 0, {}
        self.before_score()
        score = self.bench.score(self.student)
        self._seconds, self._began = self._spent(), None
        train_loss = float(self._losses) / self.count
        self._losses = torch.zeros((), device=self.bench.device)
        return Epoch(self.done, self.epochs, score, train_loss, self._seconds, self._tokens)

    def _spent(self) -> float:
        return self._seconds + (0.0 if self._began is None else time.perf_counter() - self._began)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        parts = {"body": self.body_state(), "optimiser": self.optimiser.state()}
        if self.student.aids is not None:
            parts["aids"] = self.student.aids.state_dict()
        if self.step:
            parts["epoch"] = {"losses": self._losses, **generators(self.bench.device)}
            parts["kept"] = self.kept()
        tensors = {f"{part}.{n}": t.detach().clone() for part, found in parts.items() for n, t in found.items()}
        facts = {"done": self.done, "epochs": self.epochs, "seed": self.seed}
        facts |= {"step": self.step} if self.step else {}
        return tensors, {**facts, "seconds": self._spent(), "tokens": self._tokens}

    def restore(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        if facts["epochs"] != self.epochs or facts["seed"] != self.seed:
            raise UsageError(
                f"The checkpoint is of a training over {facts['epochs']} epochs with seed {facts['seed']}.",
                f"This one runs over {self.epochs} with seed {self.seed}; start it afresh.",
            )
        parts: dict[str, dict[str, Tensor]] = {"body": {}, "aids": {}, "optimiser": {}, "epoch": {}, "kept": {}}
        for name, tensor in tensors.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = tensor
        self.restore_body(parts["body"])
        if self.student.aids is not None:
            self.student.aids.load_state_dict(parts["aids"])
        self.optimiser.restore(parts["optimiser"])
        self.done, self._seconds = int(facts["done"]), float(facts["seconds"])
        self._tokens, self.step, self._began = int(facts["tokens"]), int(facts.get("step", 0)), None
        self._draws = {name: tensor for name, tensor in parts["epoch"].items() if name != "losses"}
        self._losses = torch.zeros((), device=self.bench.device)
        self.restore_kept(parts["kept"])
        if self.step:
            self._losses += parts["epoch"]["losses"].to(self.bench.device)

    def body_state(self) -> Mapping[str, Tensor]:
        """Of the body, what training changes."""
        return self.optimiser.named

    @torch.no_grad()
    def restore_body(self, state: Mapping[str, Tensor]) -> None:
        """Take up what `body_state` gave."""
        for name, parameter in self.optimiser.named.items():
            parameter.copy_(state[name])
