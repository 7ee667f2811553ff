"""Optuna's Gaussian process, for the reward or for the front of loss and latency (by the expected gain in hypervolume);
its acquisition is maximised over free candidates only.

Each proposal fits the process anew, so its cost grows with the trials: about a second at 100 of them, which is
why the spec allows it budgets up to 200 only. Pruned and failed trials are not seen. Several workers begin more
candidates before the first have ended: once as many have begun as are random, two results are enough.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import GPSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from kdnas.strategies.asked import Asked
from kdnas.strategies.far_apart import Begun, results_wanted
from kdnas.strategies.optuna_space import from_parameters, parameters
from kdnas.strategies.without_replacement import draw
from kdnas.study.space import Candidate
from kdnas.study.spec_strategies import GpStrategy

POOL = 2048  # candidates among which the acquisition is maximised; smaller spaces are seen whole
FEWEST = 2  # finished trials of which there is a process
LEADERS = 5  # the best trials whose neighbours join the pool of a larger space


def sampler(asked: Asked[GpStrategy]) -> Begun:
    startup = asked.options.startup
    return Begun(FiniteGPSampler(asked), asked, startup, results_wanted(asked, startup, FEWEST))


class FiniteGPSampler(GPSampler):
    """Optuna's sampler on a finite space: its continuous optimiser would return to evaluated points."""

    def __init__(self, asked: Asked[GpStrategy]) -> None:
        wanted = results_wanted(asked, asked.options.startup, FEWEST)
        super().__init__(seed=asked.seed, n_startup_trials=wanted, warn_independent_sampling=False)
        self.space = asked.space
        self.taken = asked.taken
        self.candidate_rng = asked.rng
        self.finished: list[FrozenTrial] = []
        self.sign = 1

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        self.sign = 1 if study.directions[0] == StudyDirection.MAXIMIZE else -1
        self.finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        return super().sample_relative(study, trial, search_space)

    def _optimize_acqf(self, acqf: Any, best_params: np.ndarray | None) -> np.ndarray:
        rows = [parameters(self.space, c) for c in self._pool()]
        points = acqf.search_space.get_normalized_params([None] * len(rows), rows)
        best: np.ndarray = points[int(np.argmax(acqf.eval_acqf_no_grad(points)))]
        return best

    def _pool(self) -> list[Candidate]:
        if self.space.product_size <= POOL:
            return [c for c in self.space.candidates() if self.space.key(c) not in self.taken]
        pool = [draw(self.space, self.candidate_rng, self.taken) for _ in range(POOL)]
        ranked = sorted(self.finished, key=lambda t: t.values[0] * self.sign, reverse=True)
        for leader in ranked[:LEADERS]:
            near = self.space.neighbours(from_parameters(self.space, leader.params))
            pool += [c for c in near if self.space.key(c) not in self.taken]
        return pool
