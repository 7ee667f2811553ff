"""Our own model of a small space: each proposal is the free candidate that is expected to gain most, all looked at.

The logarithm of the reward is nearly a sum of effects of single dimensions, which `kdnas.study.surrogate` learns from a
dozen trials. For the front, loss and latency have a model each. What other workers are at is drawn as it may come out,
so that two of them look in different places; for the front it counts as if it came out as predicted. Pruned trials
count with the reward at which they were stopped; failed ones are not seen. The models are made anew for each slot, from
finished trials alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from optuna import Study
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from kdnas.strategies.asked import Asked
from kdnas.strategies.far_apart import POOL, far_from_all, pool
from kdnas.strategies.optuna_space import from_parameters
from kdnas.strategies.without_replacement import WholeSampler
from kdnas.study.expected_gain import (
    LIKELY,
    area_gained,
    chance_to_keep,
    expected_improvement,
    improvement_beside,
)
from kdnas.study.reward import quality
from kdnas.study.space import Candidate
from kdnas.study.spec_strategies import SurrogateStrategy
from kdnas.study.surrogate import Places, Surrogate
from kdnas.study.transfer import Transfer

LEADERS = 5  # the best trials whose neighbours join the pool of a larger space
OUTCOMES = 32  # draws of what comes of the trials of other workers
DRAWS = 64  # of loss and latency, by which a candidate's share of the front is told
LEAST = 1e-300  # of a figure whose logarithm is taken
STEADY = 16  # finished trials that look for the bounds; from then on a candidate must be `LIKELY` to keep them all
REWARD, QUALITY, LATENCY = "reward", "quality", "latency"  # logarithms, of which there are models


def sampler(asked: Asked[SurrogateStrategy]) -> SurrogateSampler:
    return SurrogateSampler(asked)


def finished(study: Study) -> list[FrozenTrial]:
    """Trials with all values, pruned ones among them."""
    ended = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
    return [t for t in ended if t.values and len(t.values) == len(study.directions)]


class SurrogateSampler(WholeSampler):
    def __init__(self, asked: Asked[SurrogateStrategy]) -> None:
        super().__init__(asked.space, asked.taken)
        self.startup = asked.options.startup
        self.rng = asked.rng

    def propose(self, study: Study, trial: FrozenTrial) -> Candidate:
        known = finished(study)
        if self._begins(known):
            return self._far_from_all()
        others = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        pending = [t for t in others if t.number != trial.number and t.params]
        free = self._pool(known, study.directions)
        evaluated = [from_parameters(self.space, t.params) for t in [*known, *pending]]
        places = Places(self.space, [*evaluated, *free, *self._further()])
        rows = _Rows(len(known), len(pending), len(free))
        if len(study.directions) > 1:
            worth = self._for_the_front(places, rows, known)
        else:
            worth = self._for_the_reward(places, rows, known, study.directions[0])
        return free[int(np.argmax(worth))]

    # ------------------------------------------------------------------------ what a warm start does otherwise

    def _begins(self, known: Sequence[FrozenTrial]) -> bool:
        """Whether too little is known for a model."""
        return len(set(self.taken)) < self.startup or len(known) < 2  # without what constraints refuse

    def _further(self) -> Sequence[Candidate]:
        """Candidates that the models know beside the study's own."""
        return ()

    def _fitted(self, places: Places, known: np.ndarray, figures: np.ndarray, of: str) -> Surrogate | Transfer:
        """A model of figures [n] of the candidates at rows `known` [n]; `of` says what they are."""
        return Surrogate(places, known, figures)

    # ------------------------------------------------------------------------ what a candidate is worth

    def _for_the_reward(
        self, places: Places, rows: _Rows, known: Sequence[FrozenTrial], direction: StudyDirection
    ) -> np.ndarray:
        values = np.asarray([t.values[0] for t in known])
        if direction == StudyDirection.MINIMIZE:
            values = -values
        figures = np.log(np.maximum(values, LEAST)) if (values > 0).all() else values
        fit = partial(self._fitted, places, of=REWARD)
        model = fit(rows.known, figures)
        chance, of_pending, met = self._feasible(places, rows, known)
        if not met.any():
            return chance
        best = float(figures[met].max())
        if len(rows.pending) and isinstance(model, Surrogate):
            normal = self.rng.standard_normal((OUTCOMES, len(rows.pending)))
            gain = improvement_beside(model, rows.pending, rows.free, best, of_pending >= LIKELY, normal)
        else:
            gain = expected_improvement(rows.believing(model, fit, figures).predict(rows.free), best)
        return within(chance, gain, len(known))

    def _for_the_front(self, places: Places, rows: _Rows, known: Sequence[FrozenTrial]) -> np.ndarray:
        qualities = np.log([quality(t.values[0]) for t in known])
        latencies = np.log([max(t.values[1], LEAST) for t in known])
        drawn, slowest = [], float(np.exp(latencies).max())
        for of, figures in ((QUALITY, qualities), (LATENCY, latencies)):
            fit = partial(self._fitted, places, of=of)
            found = rows.believing(fit(rows.known, figures), fit, figures).predict(rows.free)
            if of == LATENCY:
                slowest = max(slowest, float(np.exp(found.mean.max())))
            drawn.append(np.exp(found.mean[:, None] + found.deviation[:, None] * self.rng.standard_normal(DRAWS)))
        chance, _, met = self._feasible(places, rows, known)
        if not met.any():
            return chance
        losses, times = 1 - np.exp(qualities), np.exp(latencies)
        # A candidate that may be slower than all before it is worth its low loss, too.
        gained = area_gained(losses[met], times[met], 1 - drawn[0], drawn[1], (1.0, slowest)).mean(1)
        return within(chance, gained, len(known))

    def _feasible(
        self, places: Places, rows: _Rows, known: Sequence[FrozenTrial]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The chance that each free candidate meets the constraints that trials tell Optuna of [free], that of those
        being evaluated [pending], and which trials do [known]; a study without any has chances of 1."""
        told = [t.constraints for t in known]
        met = np.asarray([all(value <= 0 for value in one.values()) for one in told])
        missed = []
        for name in sorted({name for one in told for name in one}):
            having = np.flatnonzero([name in one for one in told])
            violations = np.asarray([told[i][name] for i in having])
            open_ = np.concatenate([rows.free, rows.pending])
            missed.append(self._fitted(places, having, violations, name).predict(open_))
        chance = chance_to_keep(missed, len(rows.free) + len(rows.pending))
        return chance[: len(rows.free)], chance[len(rows.free) :], met

    # ------------------------------------------------------------------------ which candidates are looked at

    def _pool(self, known: Sequence[FrozenTrial], directions: Sequence[StudyDirection]) -> list[Candidate]:
        found = pool(self.space, self.rng, self.taken)
        if self.space.product_size <= POOL or not known:
            return found
        keyed = {self.space.key(c): c for c in found}
        sign = 1 if directions[0] == StudyDirection.MINIMIZE else -1
        for leader in sorted(known, key=lambda t: sign * t.values[0])[:LEADERS]:
            near = self.space.neighbours(from_parameters(self.space, leader.params))
            keyed |= {self.space.key(c): c for c in near if self.space.key(c) not in self.taken}
        return list(keyed.values())

    def _far_from_all(self) -> Candidate:
        """What several workers begin past the start, before there are two results, is at the ends, too."""
        past_start = len(set(self.taken)) >= self.startup
        return far_from_all(self.space, self.rng, self.taken, at_ends=past_start)


def within(chance: np.ndarray, gain: np.ndarray, trials: int) -> np.ndarray:
    """What candidates [n] are worth after so many finished trials: their gain, times the chance that they keep the
    constraints. Once `STEADY` trials have shown where the bounds are, those that are not `LIKELY` to keep them come
    last; where none is likely, the likeliest is the first. Without constraints every chance is 1."""
    worth = chance * gain
    if trials < STEADY:
        return np.asarray(worth)
    return np.where(chance >= min(LIKELY, float(chance.max())), worth, -1.0)


class _Rows:
    """Which rows of the places are finished, being evaluated, and free."""

    def __init__(self, known: int, pending: int, free: int) -> None:
        self.known = np.arange(known)
        self.pending = np.arange(known, known + pending)
        self.free = np.arange(known + pending, known + pending + free)

    def believing(
        self,
        found: Surrogate | Transfer,
        fit: Callable[[np.ndarray, np.ndarray], Surrogate | Transfer],
        figures: np.ndarray,
    ) -> Surrogate | Transfer:
        """The model `found` of the finished trials, made anew as if those that are being evaluated came out as it
        predicts."""
        if not len(self.pending):
            return found
        believed = np.concatenate([figures, found.predict(self.pending).mean])
        return fit(np.concatenate([self.known, self.pending]), believed)
