"""Which candidates earn more training: the rungs of a budget, and the rule that promotes from one to the next.

A candidate is held against those that reached the same rung before it, among the ones whose scores compare with its own
(of encoders: of one depth, since deeper students gain more from steps than their scores as built tell). Pure functions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from kdnas.study.spec import BudgetSpec


@dataclass(frozen=True)
class Reached:
    """How a candidate stood at a rung. `reward` None where the search looks for a front of loss and latency."""

    reward: float | None
    loss: float
    latency_ms: float
    miss: float = 0.0  # by how much it misses constraints on its latency, which no training changes

    def beats(self, other: Reached) -> bool:
        """By missing its constraints by less; else by a higher reward; without rewards, by no more loss and latency,
        and less of one of them."""
        if self.miss != other.miss:
            return self.miss < other.miss
        if self.reward is not None and other.reward is not None:
            return self.reward > other.reward
        own, theirs = (self.loss, self.latency_ms), (other.loss, other.latency_ms)
        return own != theirs and all(a <= b for a, b in zip(own, theirs, strict=True))


def ends(budget: BudgetSpec) -> tuple[int, ...]:
    """The number of epochs after which each rung ends: 0, then even parts of the budget's epochs, up to all of them."""
    count = len(budget.rungs)
    return (0, *(math.ceil(budget.epochs * rung / count) for rung in range(1, count + 1)))


def goes_on(own: Reached, others: Sequence[Reached], share: float) -> bool:
    """Whether `own` is among the best `share`, rounded up, of all that reached the rung so far, itself counted."""
    places = math.ceil(share * (len(others) + 1) - 1e-9)
    return sum(other.beats(own) for other in others) < places


def expected_epochs(budget: BudgetSpec) -> float:
    """Epochs that a candidate of many has: all of them without rungs."""
    if not budget.rungs:
        return float(budget.epochs)
    at, left, total = ends(budget), 1.0, 0.0
    for rung, share in enumerate(budget.rungs):
        left *= share
        total += left * (at[rung + 1] - at[rung])
    return total
