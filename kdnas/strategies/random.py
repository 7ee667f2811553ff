"""Random search without replacement: the baseline of all others. Sees no result."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from optuna import Study
from optuna.trial import FrozenTrial

from kdnas.strategies.asked import Asked
from kdnas.strategies.without_replacement import WholeSampler, draw
from kdnas.study.space import Candidate, SearchSpace
from kdnas.study.spec_strategies import StrategyOptions


def sampler(asked: Asked[StrategyOptions]) -> RandomSampler:
    return RandomSampler(asked.space, asked.taken, asked.rng)


class RandomSampler(WholeSampler):
    def __init__(self, space: SearchSpace, taken: Collection[str], rng: np.random.Generator) -> None:
        super().__init__(space, taken)
        self.rng = rng

    def propose(self, study: Study, trial: FrozenTrial) -> Candidate:
        return draw(self.space, self.rng, self.taken)
