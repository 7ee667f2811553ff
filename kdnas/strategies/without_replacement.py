"""No candidate twice: drawing one that no slot has, and the wrapper that makes Optuna's samplers keep to that.

`taken` are the keys (SearchSpace.key) of every candidate that the study has finished, is running or has planned; where
constraints refuse candidates, it is a `Refused`.
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
from kdnas.strategies.refused import Refusal, Refused
from kdnas.study.space import Candidate, SearchSpace
from kdnas.system.errors import KdnasError

DRAWS = 1000  # random draws before the free candidates are listed instead
LISTED = 1_000_000  # points of a space up to which they are
REDRAWS = 8  # how often a sampler of Optuna's may repeat itself before chance decides


class SpaceExhausted(KdnasError):  # noqa: N818 - not a fault: the search has seen everything
    """Every candidate of the space has been proposed; the search is over."""

    exit_code = 0

    def __init__(self, size: int, refusal: Refusal | None = None) -> None:
        if refusal is None:
            tried, hint = f"All {size} candidates of the search space have been tried", "Widen the space to go on."
        else:
            allowed = len(refusal.allowed)
            tried = f"All {allowed:,} of {size:,} candidates that keep to {refusal} have been tried"
            hint = "Widen the space, or loosen the constraint, to go on."
            if not allowed:
                tried = f"No candidate of this space keeps to {refusal}; the nearest has {refusal.nearest()}"
        super().__init__(f"{tried}; the search is complete.", hint)


def exhausted(space: SearchSpace, taken: Collection[str]) -> SpaceExhausted:
    """What to raise when no candidate is left."""
    return SpaceExhausted(space.size, taken.refusal if isinstance(taken, Refused) else None)


def check_room(space: SearchSpace, taken: Collection[str]) -> None:
    """Raise SpaceExhausted when no candidate is left."""
    if len(taken) >= space.size:
        raise exhausted(space, taken)


def draw(space: SearchSpace, rng: np.random.Generator, taken: Collection[str]) -> Candidate:
    """One candidate that is not taken, all of them equally likely; of a space that is too large to be listed, all
    points of its product. Raises SpaceExhausted, and KdnasError where no draw of such a space may be proposed."""
    shape = np.asarray(space.shape)
    large = space.product_size > LISTED
    for _ in range(DRAWS * 10 if large else DRAWS):
        indices = tuple(int(i) for i in rng.integers(shape))
        drawn = space.canonical(space.at(indices))
        # A folded point would be drawn as often as it has names: only its own name counts. Not where each of many
        # layers has sizes of its own: nearly all such candidates are of the most layers.
        if (large or space.indices(drawn) == indices) and space.key(drawn) not in taken:
            return drawn
    if large:
        kept = f" that keeps to {taken.refusal}" if isinstance(taken, Refused) else ""
        raise KdnasError(
            f"Of {space.size:,} candidates {DRAWS * 10:,} were drawn, and none{kept} is left to propose.",
            "Loosen the constraint, or narrow space.choices to such candidates.",
        )
    if isinstance(taken, Refused):  # which has looked at every candidate once, for whatever number of draws
        keys = taken.free()
    else:
        keys = [key for key in map(space.key, space.candidates()) if key not in taken]
    if not keys:
        raise exhausted(space, taken)
    return space.from_ordinal(int(keys[int(rng.integers(len(keys)))]))


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


class LookedAt(WholeSampler):
    """A sampler whose proposals are looked at once more, where that costs too much to look at all that it considers."""

    def __init__(self, inner: WholeSampler, space: SearchSpace, taken: Refused, rng: np.random.Generator) -> None:
        """`inner` must have been given this very `taken`: what is refused is taken from then on."""
        super().__init__(space, taken)
        self.inner = inner
        self.refused = taken
        self.rng = rng

    def propose(self, study: Study, trial: FrozenTrial) -> Candidate:
        for _ in range(REDRAWS):
            chosen = self.inner.propose(study, trial)
            key = self.space.key(chosen)
            if not self.refused.refusal.at_last(key):
                return chosen
            self.refused.add(key)
        return draw(self.space, self.rng, self.refused.at_last())

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self.inner.before_trial(study, trial)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        self.inner.after_trial(study, trial, state, values)
