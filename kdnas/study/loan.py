"""What other studies lend to one: their finished trials, as they were when it began, and which studies may.

A loan goes with a study from its beginning: whatever becomes of those that lent, it stays as it is. How far it is
believed is `kdnas.study.transfer`'s. Loads neither the spec nor a store.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from kdnas.study.constraints import NONE, Limits, figures
from kdnas.study.reward import reward

if TYPE_CHECKING:
    from kdnas.study.space import Candidate, SearchSpace

AUTO, NOBODY = "auto", "none"  # what a spec's `like` may be beside the name of a study
EVENT = "lent"  # in a study's history, when it began
STUDIES = "studies"  # the part of that entry that holds the trials
FEWEST = 6  # trials that a study must have to lend
MOST = 60  # of its trials that one study lends
LENDERS = 3  # studies that lend where none is named
SAVES = (  # by `python -m benchmarks.search --warm` on tables of two texts, medians of 100 searches
    "Between two recorded texts of one teacher, auto then found the best student in 1 evaluation, in the middle of 100 "
    "searches, and in 6 to 15 without; on both texts the best was the same."
)


@dataclass(frozen=True)
class LentTrial:
    """A finished trial of another study."""

    candidate: Candidate
    loss: float  # of the kind that the reward of the study that borrows sees
    ratio: float  # its latency over the teacher's
    parameters: int | None = None


@dataclass(frozen=True)
class Lender:
    """A study that lends, by the name that it had, and what it lends."""

    name: str
    trials: tuple[LentTrial, ...]

    def __str__(self) -> str:
        return f"{len(self.trials)} trials of {self.name}"


@dataclass(frozen=True)
class Loan:
    """What a study has borrowed, and by what it weighs it now."""

    lenders: tuple[Lender, ...]
    alpha: float = -0.06
    beta: float = 0.6
    limits: Limits = NONE

    def __bool__(self) -> bool:
        return bool(self.lenders)

    def __str__(self) -> str:
        """In words: `20 trials of films and 12 trials of sotu`."""
        return " and ".join(map(str, self.lenders))

    @cached_property
    def trials(self) -> tuple[LentTrial, ...]:
        return tuple(trial for lender in self.lenders for trial in lender.trials)

    def reward(self, trial: LentTrial) -> float:
        """At the α and β of the study that borrows."""
        return reward(trial.loss, trial.ratio, 1.0, self.alpha, self.beta)

    def violations(self, trial: LentTrial) -> dict[str, float]:
        """By how much it misses each constraint of the study that borrows, as samplers get it (`Limits.scaled`)."""
        found = figures(
            loss=trial.loss,
            latency_ms=trial.ratio,
            teacher_latency_ms=1.0,
            parameters=trial.parameters,
            reference_ms=self.limits.reference_ms,
        )
        return self.limits.scaled(found)

    def by_now(self, alpha: float, beta: float, limits: Limits) -> Loan:
        """The same trials, weighed as the study's own ones are now. Bounds on milliseconds mean nothing before the
        study has timed its teacher: until then lent trials are not judged by them."""
        if limits.reference_ms is None:
            limits = replace(limits, limits=tuple(one for one in limits.limits if one.figure != "latency_ms"))
        return replace(self, alpha=alpha, beta=beta, limits=limits)

    def to_values(self) -> list[dict[str, Any]]:
        """As plain values for JSON."""
        return [
            {"name": one.name, "trials": [[t.candidate, t.loss, t.ratio, t.parameters] for t in one.trials]}
            for one in self.lenders
        ]

    @staticmethod
    def from_values(values: Sequence[Mapping[str, Any]]) -> Loan:
        return Loan(tuple(Lender(one["name"], tuple(LentTrial(*t) for t in one["trials"])) for one in values))


def within(trials: Sequence[LentTrial], space: SearchSpace) -> list[LentTrial]:
    """Those whose candidates the space has."""
    names = {d.name for d in space.dimensions}
    return [
        trial
        for trial in trials
        if set(trial.candidate) == names
        and all(trial.candidate[d.name] in d.choices for d in space.dimensions)
        and space.canonical(trial.candidate) == trial.candidate
    ]


def some(trials: Sequence[LentTrial], worth: Sequence[float]) -> list[LentTrial]:
    """At most `MOST` of them, in their order: the better half of that, and as many of the others, evenly by rank."""
    if len(trials) <= MOST:
        return list(trials)
    ranked = sorted(range(len(trials)), key=lambda place: -worth[place])
    best, others = ranked[: MOST // 2], ranked[MOST // 2 :]
    many = MOST - len(best)
    spread = [others[round(i * (len(others) - 1) / (many - 1))] for i in range(many)]
    return [trials[place] for place in sorted({*best, *spread})]
