"""The candidates that a block library predicts to be best, as results correct what it predicts.

Without chance: the forecast holds for every candidate a loss and a latency, real ones where there are results. Where
each layer has sizes of its own it is of the best candidates only, and chance decides once all of them are taken. First
comes one candidate of each group, since losses are predicted within a group only. Then the free candidate of the
highest reward, or the one that adds most to the front of loss and latency. Predicts nothing itself.
"""

from __future__ import annotations

import numpy as np
from optuna import Study
from optuna.trial import FrozenTrial

from kdnas.strategies.asked import Asked
from kdnas.strategies.without_replacement import WholeSampler, draw, exhausted
from kdnas.study.forecast import Forecast
from kdnas.study.hypervolume import gains
from kdnas.study.reward import reward
from kdnas.study.space import Candidate
from kdnas.study.spec_strategies import BlocksStrategy


def sampler(asked: Asked[BlocksStrategy]) -> BlocksSampler:
    return BlocksSampler(asked)


class BlocksSampler(WholeSampler):
    def __init__(self, asked: Asked[BlocksStrategy]) -> None:
        super().__init__(asked.space, asked.taken)
        if asked.forecast is None:
            raise ValueError("the strategy blocks is asked without a forecast")
        self.forecast, self.options, self.rng = asked.forecast, asked.options, asked.rng

    def propose(self, study: Study, trial: FrozenTrial) -> Candidate:
        closed = np.array([key in self.taken for key in self.forecast.keys])
        if closed.all() and len(self.forecast.keys) < self.space.size:  # it was a forecast of the best ones only
            return draw(self.space, self.rng, self.taken)
        if closed.all():
            raise exhausted(self.space, self.taken)
        known = set(self.taken)  # without what constraints refuse
        taken = np.array([key in known for key in self.forecast.keys])
        worth = front_worth(self.forecast, taken) if self.options.two_objectives else rewards(self.forecast)
        groups = np.array(self.forecast.groups)
        fresh = ~np.isin(groups, groups[taken])  # of groups of which nothing has been proposed
        open_ = fresh & ~closed if (fresh & ~closed).any() else ~closed
        place = int(np.argmax(np.where(open_, worth, -np.inf)))  # of equal ones the first
        return self.space.from_ordinal(int(self.forecast.keys[place]))


def rewards(forecast: Forecast) -> np.ndarray:
    """The reward of each candidate [n] by the forecast."""
    pairs = zip(forecast.loss.tolist(), forecast.ratio.tolist(), strict=True)
    return np.array([reward(loss, ratio, 1.0, forecast.alpha, forecast.beta) for loss, ratio in pairs])


def front_worth(forecast: Forecast, taken: np.ndarray) -> np.ndarray:
    """What each candidate [n] would add to the hypervolume of those that are `taken` [n]; what adds nothing comes
    behind, the smallest product of loss and ratio first."""
    there = forecast.loss[taken], forecast.ratio[taken]
    found = gains(there, forecast.loss, forecast.ratio)
    behind = -forecast.loss * forecast.ratio / max(1.0, float(np.max(forecast.loss * forecast.ratio)))
    return np.where(found > 0, found, behind - 1.0)
