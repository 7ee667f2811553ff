"""The contract of a training: a student, epoch by epoch, that can be written down and taken up again.

Knows no recipe, no teacher and no data.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from kdnas.study.spec import StudySpec
from kdnas.system.errors import UsageError

OnStep = Callable[[int, int], None]
"""Called after each step with steps done and steps in all; what it raises ends the training there."""


@dataclass(frozen=True)
class Score:
    """How well a student does on the held-out part. `extra` holds the recipe's own figures (accuracy, perplexity …)."""

    loss: float  # normalised: 0 matches the teacher, 1 is no better than a constant prediction
    raw_loss: float
    extra: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Epoch:
    """One finished epoch of a distillation, as reported while it goes on."""

    epoch: int  # from 1; 0 before any step
    epochs: int
    score: Score  # on the held-out part, in eval mode
    train_loss: float  # mean over the epoch's steps, raw
    seconds: float  # since the distillation began
    tokens: int  # real tokens trained on so far


@dataclass
class Student:
    """A student on the bench: the body that is timed and saved, and what only its training needs (projections)."""

    body: torch.nn.Module
    aids: torch.nn.Module | None = None

    @property
    def size(self) -> int:
        """Parameters of the body, shared ones counted once."""
        return sum(p.numel() for p in self.body.parameters())

    def modules(self) -> torch.nn.ModuleList:
        """All that is trained."""
        return torch.nn.ModuleList([self.body] if self.aids is None else [self.body, self.aids])


class Training(ABC):
    """One distillation of one student, epoch by epoch, that can be written down and taken up again.

    The learning-rate schedule is laid over `epochs` from the start, so that stopping after some of them and going
    on later is the same training. The order of the batches and all dropout come from the seed and the epoch's number.
    """

    epochs: int
    done: int  # finished epochs
    step: int = 0  # steps done of the epoch after them

    def begin(self) -> Epoch:
        """Score the student as it was built, before any step, as epoch 0; the training goes on as if not asked.

        Raises UsageError where such a score says nothing of what the student will learn.
        """
        raise UsageError("Students of this recipe cannot be scored before they learn.", "Give 1 epoch or more.")

    @abstractmethod
    def run_epoch(self, on_step: OnStep | None = None) -> Epoch:
        """Train one epoch, or what is left of one that was taken up, and score the student on the held-out part."""

    @abstractmethod
    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Weights, aids and optimiser moments as tensors, the rest as plain JSON values; taken between epochs, or in
        `on_step` between two steps."""

    @abstractmethod
    def restore(self, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]) -> None:
        """Take up what `state` gave: what follows equals the uninterrupted training to the last bit on CPU."""


class Bench(Protocol):
    """What a training asks of the workbench that it runs on."""

    spec: StudySpec
    device: torch.device

    def score(self, student: Student) -> Score:
        """The held-out loss now, in eval mode."""
        ...
