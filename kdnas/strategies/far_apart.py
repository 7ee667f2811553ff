"""Candidates that are begun before there are results to learn from: far from each other, so that they tell of all of
the space. Sees no result itself.

`Begun` stands around samplers of Optuna's, which begin with random candidates and wait for as many results. Several
workers begin more before the first have ended.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
from optuna import Study
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from kdnas.strategies.asked import Asked
from kdnas.strategies.without_replacement import Unseen, draw, exhausted
from kdnas.study.space import Candidate, SearchSpace
from kdnas.study.surrogate import Places

POOL = 4096  # candidates that are compared; smaller spaces are seen whole
RESULTS = (TrialState.COMPLETE, TrialState.PRUNED)


def pool(space: SearchSpace, rng: np.random.Generator, taken: Collection[str]) -> list[Candidate]:
    """Candidates that are not taken: of a small space all of them, of a larger one as many as are compared."""
    if space.product_size <= POOL:
        return [c for c in space.candidates() if space.key(c) not in taken]
    return list({space.key(c): c for c in (draw(space, rng, taken) for _ in range(POOL))}.values())


def far_from_all(
    space: SearchSpace, rng: np.random.Generator, taken: Collection[str], *, at_ends: bool = False
) -> Candidate:
    """The first at random, the next ones far from all that are taken: corners of the space, then its inside. With
    `at_ends` it is rather where all sizes are large or all small, since loss and latency are extreme there. Raises
    SpaceExhausted when nothing is left."""
    known = set(taken)  # without what constraints refuse
    if not known:
        return draw(space, rng, taken)
    free = pool(space, rng, taken)
    if not free:
        raise exhausted(space, taken)
    places = Places(space, [*map(space.from_ordinal, sorted(map(int, known))), *free])
    points = places.apart()
    there, here = points[: len(known)], points[len(known) :]
    nearest = np.full(len(here), np.inf)
    for one in there:
        nearest = np.minimum(nearest, ((here - one) ** 2).sum(1))
    if at_ends:
        nearest += places.at_ends()[len(known) :]
    return free[int(np.argmax(nearest + 1e-9 * rng.random(len(free))))]


def results_wanted(asked: Asked[Any], startup: int, fewest: int) -> int:
    """How many results a sampler that begins with `startup` random candidates is to wait for: as many, or the `fewest`
    from which it learns anything once so many have begun."""
    return startup if len(set(asked.taken)) < startup else min(startup, fewest)


class Begun(Unseen):
    """A sampler of Optuna's. Past its random candidates, and before the results that it is to wait for, it proposes
    what is far from all that has begun."""

    def __init__(self, inner: BaseSampler, asked: Asked[Any], startup: int, wanted: int) -> None:
        super().__init__(inner, asked.space, asked.taken, asked.rng)
        self.past_start = len(set(asked.taken)) >= startup
        self.wanted = wanted

    def propose(self, study: Study, trial: FrozenTrial) -> Candidate:
        if self.past_start and len(study.get_trials(deepcopy=False, states=RESULTS)) < self.wanted:
            return far_from_all(self.space, self.rng, self.taken, at_ends=True)
        return super().propose(study, trial)
