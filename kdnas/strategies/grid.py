"""Every candidate in the order of the space: for spaces small enough to see whole. Sees no result."""

from __future__ import annotations

from optuna import Study
from optuna.trial import FrozenTrial

from kdnas.strategies.asked import Asked
from kdnas.strategies.without_replacement import WholeSampler, exhausted
from kdnas.study.space import Candidate
from kdnas.study.spec_strategies import StrategyOptions


def sampler(asked: Asked[StrategyOptions]) -> GridSampler:
    return GridSampler(asked.space, asked.taken)


class GridSampler(WholeSampler):
    def propose(self, study: Study, trial: FrozenTrial) -> Candidate:
        for candidate in self.space.candidates():
            if self.space.key(candidate) not in self.taken:
                return candidate
        raise exhausted(self.space, self.taken)
