"""No candidate twice: drawing one that no slot has, and the wrapper that makes Optuna's samplers keep to that.

`taken` are the keys (SearchSpace.key) of every candidate that the study has finished, is running or has planned.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from kdnas.strategies.optuna_space import distributions, from_parameters, parameters
from kdnas.study.space import Candidate, SearchSpace
from kdnas.system.errors import KdnasError

DRAWS = 1000  # random draws before the free candidates are listed instead
REDRAWS = 8  # how often a sampler of Optuna's may repeat itself before chance decides


class SpaceExhausted(KdnasError):  # noqa: N818 - not a fault: the search has seen everything
    """Every candidate of the space has been proposed; the search is over."""

    exit_code = 0

    def __init__(self, size: int) -> None:
        super().__init__(
            f"All {size} candidates of the search space have been tried; the search is complete.",
            "Widen the space to go on.",
        )


def check_room(space: SearchSpace, taken: Collection[str]) -> None:
    """Raise SpaceExhausted when no candidate is left."""
    if len(taken) >= space.size:
        raise SpaceExhausted(space.size)


def draw(space: SearchSpace, rng: np.random.Generator, taken: Collection[str]) -> Candidate:
    """One candidate that is not taken, all of them equally likely. Raises SpaceExhausted."""
    shape = np.asarray(space.shape)
    for _ in range(DRAWS):
        indices = tuple(int(i) for i in rng.integers(shape))
        drawn = space.at(indices)
        # A folded point would be drawn as often as it has names: only its own name counts.
        if space.indices(space.canonical(drawn)) == indices and space.key(drawn) not in taken:
            return drawn
    free = [c for c in space.candidates() if space.key(c) not in taken]
    if not free:
        raise SpaceExhausted(space.size)
    return free[int(rng.integers(len(free)))]


class WholeSampler(BaseSampler):
    """A sampler that proposes whole candidates, by a rule that reads finished trials and its seed alone."""

    def __init__(self, space: SearchSpace, taken: Collection[str]) -> None:
        self.space = space
        self.taken = taken

    @abstractmethod
    def propose(self, study: Study, trial: FrozenTrial) -> Candidate:
        """A candidate that is not taken."""

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return distributions(self.space)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return parameters(self.space, self.propose(study, trial))

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        raise KeyError(f"{param_name} is not a dimension of the study's search space")


class Planned(WholeSampler):
    """Proposes the candidate that the slot already holds: enqueued by a person, planned with an episode, or a lost
    trial's. `note` writes to the trial what the strategy writes to those that it proposes itself."""

    def __init__(
        self, space: SearchSpace, planned: Candidate, note: Callable[[Study, FrozenTrial], object] | None = None
    ) -> None:
        super().__init__(space, frozenset())
        self.planned = planned
        self.note = note

    def propose(self, study: Study, trial: FrozenTrial) -> Candidate:
        if self.note is not None:
            self.note(study, trial)
        return self.planned


class Unseen(WholeSampler):
    """One of Optuna's samplers, redrawn while it proposes what is taken, then replaced by a random free candidate."""

    def __init__(
        self, inner: BaseSampler, space: SearchSpace, taken: Collection[str], rng: np.random.Generator
    ) -> None:
        super().__init__(space, taken)
        self.inner = inner
        self.rng = rng
        # Optuna's own search spaces are in the order of names and leave out what has one value only.
        self.asked = {name: d for name, d in sorted(distributions(space).items()) if not d.single()}
        first = parameters(space, space.from_ordinal(0))
        self.settled = {name: value for name, value in first.items() if name not in self.asked}

    def propose(self, study: Study, trial: FrozenTrial) -> Candidate:
        for _ in range(REDRAWS):
            values = {**self.settled, **self.inner.sample_relative(study, trial, self.asked)}
            for name, distribution in self.asked.items():
                if name not in values:
                    values[name] = self.inner.sample_independent(study, trial, name, distribution)
            chosen = from_parameters(self.space, values)
            if self.space.key(chosen) not in self.taken:
                return chosen
        return draw(self.space, self.rng, self.taken)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self.inner.before_trial(study, trial)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        self.inner.after_trial(study, trial, state, values)
