"""Regularised evolution (Real et al., 2019): the best of a few drawn from the youngest is changed in one place.

A fold over the finished trials: the population is the last `population` of them. Pruned trials take part, below
every complete one; failed trials do not, and no candidate of theirs is proposed again.
"""

from __future__ import annotations

import numpy as np
from optuna import Study
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from kdnas.strategies.asked import Asked
from kdnas.strategies.optuna_space import from_parameters
from kdnas.strategies.without_replacement import WholeSampler, draw
from kdnas.study.space import Candidate
from kdnas.study.spec_strategies import EvolutionStrategy

STEPS = 16  # changes in a row, each of one dimension, before chance decides


def sampler(asked: Asked[EvolutionStrategy]) -> EvolutionSampler:
    return EvolutionSampler(asked)


class EvolutionSampler(WholeSampler):
    def __init__(self, asked: Asked[EvolutionStrategy]) -> None:
        super().__init__(asked.space, asked.taken)
        self.options = asked.options
        self.rng = asked.rng

    def propose(self, study: Study, trial: FrozenTrial) -> Candidate:
        finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
        alive = sorted(finished, key=lambda t: t.number)[-self.options.population :]
        if len(alive) < self.options.population:
            return draw(self.space, self.rng, self.taken)
        sign = 1.0 if study.direction == StudyDirection.MAXIMIZE else -1.0
        drawn = [alive[i] for i in self.rng.choice(len(alive), size=self.options.tournament, replace=False)]
        parent = max(drawn, key=lambda t: _fitness(t, sign))
        child = from_parameters(self.space, parent.params)
        for _ in range(STEPS):
            near = self.space.neighbours(child)
            free = [c for c in near if self.space.key(c) not in self.taken]
            if free:
                return free[int(self.rng.integers(len(free)))]
            if near:
                child = near[int(self.rng.integers(len(near)))]
        return draw(self.space, self.rng, self.taken)


def _fitness(trial: FrozenTrial, sign: float) -> tuple[bool, float, float]:
    """Complete before pruned, then less of what it misses constraints by (Deb, 2000), then the reward."""
    value = trial.value
    missed = sum(max(0.0, by) for by in trial.constraints.values())
    return trial.state == TrialState.COMPLETE, -missed, -np.inf if value is None else sign * value
