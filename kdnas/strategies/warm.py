"""A warm start: strategies that learn from what other studies lend, while the study has few trials of its own.

`surrogate` asks a model of both (`kdnas.study.transfer`), which learns from the own trials how far to believe the lent
ones. `tpe`, `gp` and `lstm` see lent trials as if they had been evaluated here, each with what that model predicts of
it, and none once it no longer believes them; their first proposals are the model's. Reads no store.
"""

from __future__ import annotations

import copy
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from optuna import Study
from optuna.trial import FrozenTrial, TrialState, create_trial

from kdnas.strategies.asked import Asked
from kdnas.strategies.one_objective import CONSTRAINT
from kdnas.strategies.optuna_space import distributions, from_parameters, parameters
from kdnas.strategies.surrogate import LATENCY, LEAST, QUALITY, REWARD, SurrogateSampler, finished
from kdnas.strategies.without_replacement import WholeSampler
from kdnas.study.expected_gain import area_gained, chance_to_keep, expected_improvement
from kdnas.study.loan import LentTrial, Loan
from kdnas.study.reward import quality
from kdnas.study.space import Candidate, SearchSpace
from kdnas.study.spec_strategies import AutoStrategy, StrategyOptions, SurrogateStrategy
from kdnas.study.strategy_choice import stage
from kdnas.study.surrogate import Places, Surrogate
from kdnas.study.transfer import Lent, Transfer

ENOUGH = 60  # own trials from which the lent ones no longer count
FIRST = 3  # proposals of `tpe` and `gp` that are the model's
BELIEVED = 0.5  # probability that no study that lends says anything, from which on lent trials are not shown
BORNE_OUT = 0.25  # the same for `lstm`, whose controller takes what it is taught for true


def sampler(asked: Asked[StrategyOptions], made: WholeSampler) -> WholeSampler:
    """What proposes with the loan that is asked with, around the sampler that would without it."""
    options = asked.options
    if isinstance(options, AutoStrategy):
        options = stage(options, asked.space, asked.slot).options
    if not options.borrows() or asked.loan is None:
        return made
    return WarmSampler(replace(asked, options=options), made, asked.loan)


class WarmSampler(WholeSampler):
    def __init__(self, asked: Asked[StrategyOptions], inner: WholeSampler, loan: Loan) -> None:
        super().__init__(asked.space, asked.taken)
        self.inner, self.loan = inner, loan
        own = asked.options
        two = own.for_the_front()
        self.whole = isinstance(own, SurrogateStrategy)
        options = own if isinstance(own, SurrogateStrategy) else SurrogateStrategy(two_objectives=two)  # type: ignore[call-arg]
        self.model = LentSurrogate(replace(asked, options=options), loan)  # type: ignore[arg-type]

    def propose(self, study: Study, trial: FrozenTrial) -> Candidate:
        known = finished(study)
        if len(known) >= ENOUGH:
            return self.inner.propose(study, trial)
        if self.whole or len(known) < FIRST:
            return self.model.propose(study, trial)
        return self.inner.propose(shown(study, self.space, self.loan, known), trial)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self.inner.before_trial(study, trial)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        self.inner.after_trial(study, trial, state, values)


# ---------------------------------------------------------------------------- surrogate


class LentSurrogate(SurrogateSampler):
    """`surrogate` with models that know of lent trials. Its first candidates are those that they say are best; they lie
    far apart only where nobody believes the lent trials by then."""

    def __init__(self, asked: Asked[SurrogateStrategy], loan: Loan) -> None:
        super().__init__(asked)
        self.loan = loan
        self.doubts: list[float] = []

    def propose(self, study: Study, trial: FrozenTrial) -> Candidate:
        known = finished(study)
        if not known:
            return self._best_by_loan(len(study.directions) > 1)
        self.doubts = []
        chosen = super().propose(study, trial)
        if len(set(self.taken)) < self.startup and min(self.doubts) > BELIEVED:
            return self._far_from_all()
        return chosen

    def _begins(self, known: Sequence[FrozenTrial]) -> bool:
        return False

    def _further(self) -> Sequence[Candidate]:
        return [trial.candidate for trial in self.loan.trials]

    def _fitted(self, places: Places, known: np.ndarray, figures: np.ndarray, of: str) -> Surrogate | Transfer:
        if of not in (REWARD, QUALITY, LATENCY, *(limit.field for limit in self.loan.limits.limits)):
            return super()._fitted(places, known, figures, of)  # a constraint by which lent trials are not judged
        model = Transfer(places, known, figures, lent_figures(self.loan, len(places.points), of))
        if of in (REWARD, QUALITY, LATENCY):
            self.doubts.append(model.none)
        return model

    def _best_by_loan(self, two: bool) -> Candidate:
        """What the lent trials alone say is best."""
        pool = self._pool((), ())
        places = Places(self.space, [*pool, *self._further()])
        return pool[int(np.argmax(worth_by_loan(places, len(pool), self.loan, two)))]


def worth_by_loan(places: Places, pool: int, loan: Loan, two: bool = False) -> np.ndarray:
    """What lent trials alone, the last of the places, say of the first `pool` of them; the most is best."""
    free = np.arange(pool)

    def told(of: str) -> Any:
        nothing = np.arange(0)
        return Transfer(places, nothing, np.zeros(0), lent_figures(loan, len(places.points), of)).predict(free)

    chance = chance_to_keep((told(one.field) for one in loan.limits.limits), pool)
    if not two:
        return np.asarray(chance * np.exp(told(REWARD).mean))
    losses, times = 1 - np.exp(told(QUALITY).mean), np.exp(told(LATENCY).mean)
    none = np.zeros(0)
    slowest = max(trial.ratio for trial in loan.trials)
    return np.asarray(chance * area_gained(none, none, losses, times, (1.0, max(slowest, float(times.max())))))


def lent_figures(loan: Loan, places: int, of: str) -> list[Lent]:
    """What each study that lends found, by rows of places of which the lent candidates are the last; `of` is one of the
    surrogate's figures, or a constraint."""
    first, found = places - len(loan.trials), []
    for lender in loan.lenders:
        rows = np.arange(first, first + len(lender.trials))
        found.append(Lent(rows, np.asarray([_figure(loan, trial, of) for trial in lender.trials])))
        first += len(lender.trials)
    return found


def _figure(loan: Loan, trial: LentTrial, of: str) -> float:
    if of == REWARD:
        return float(np.log(max(loan.reward(trial), LEAST)))
    if of == QUALITY:
        return float(np.log(quality(trial.loss)))
    if of == LATENCY:
        return float(np.log(max(trial.ratio, LEAST)))
    return loan.violations(trial)[of]


# ---------------------------------------------------------------------------- tpe, gp and lstm


@dataclass(frozen=True)
class Foretold:
    """What the model predicts of each lent trial [n], were it evaluated here, by the figure; empty where it does not
    believe them."""

    trials: tuple[LentTrial, ...]
    figures: Mapping[str, np.ndarray]


def foretold(space: SearchSpace, loan: Loan, known: Sequence[Candidate], figures: Mapping[str, np.ndarray]) -> Foretold:
    """Of the own trials: their candidates and, by what they are, their figures (logarithms) [n]."""
    places = Places(space, [*known, *(trial.candidate for trial in loan.trials)])
    rows = np.arange(len(known))
    models = {
        of: Transfer(places, rows, own, lent_figures(loan, len(places.points), of)) for of, own in figures.items()
    }
    if min(model.none for model in models.values()) > BELIEVED:
        return Foretold((), {of: np.zeros(0) for of in figures})
    lent = np.arange(len(known), len(places.points))
    return Foretold(loan.trials, {of: model.predict(lent).mean for of, model in models.items()})


def shown(study: Study, space: SearchSpace, loan: Loan, known: Sequence[FrozenTrial]) -> Study:
    """The study as a sampler of Optuna's is to see it: with lent trials before its own."""
    own = np.asarray([t.values for t in known])
    if len(study.directions) > 1:
        figures = {
            QUALITY: np.log([quality(loss) for loss in own[:, 0]]),
            LATENCY: np.log(np.maximum(own[:, 1], LEAST)),
        }
    else:
        figures = {REWARD: np.log(np.maximum(own[:, 0], LEAST))}
    told = foretold(space, loan, [from_parameters(space, t.params) for t in known], figures)
    values = [np.exp(told.figures[of]) if of != QUALITY else 1 - np.exp(told.figures[of]) for of in figures]
    asked = distributions(space)
    judged = any(t.constraints for t in known)
    lent = []
    for place, trial in enumerate(told.trials):
        violations = loan.violations(trial) if judged else {}
        made = create_trial(
            params=parameters(space, trial.candidate),
            distributions=asked,
            values=[float(one[place]) for one in values],
            system_attrs={f"{CONSTRAINT}{name}": by for name, by in violations.items()},
        )
        made.number = place - len(told.trials)
        lent.append(made)
    return _with(study, lent)


def _with(study: Study, lent: list[FrozenTrial]) -> Study:
    seen = copy.copy(study)
    own = study._get_trials

    def trials(
        deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        return [*(t for t in lent if states is None or t.state in states), *own(deepcopy, states, use_cache)]

    seen._get_trials = seen.get_trials = trials  # type: ignore[method-assign]
    return seen


@dataclass(frozen=True)
class Lessons:
    """What a strategy without Optuna learns from a loan: lent candidates with the rewards that they would have here,
    and the free candidate that the model finds best, with the reward that it predicts."""

    rewards: tuple[tuple[Candidate, float], ...]
    best: tuple[Candidate, float] | None


def lessons(
    space: SearchSpace, loan: Loan, pool: Sequence[Candidate], known: Sequence[tuple[Candidate, float]]
) -> Lessons:
    """Of the own finished candidates and their rewards; nothing once these are enough, or do not bear the loan out.
    Before there are any, no rewards: the best candidate alone shows what the loan is worth.

    Where there are constraints, rewards are lowered by what a trial misses, those of lent trials as the own ones; then
    nothing is found best, since such a reward is no figure to extrapolate."""
    if len(known) >= ENOUGH:
        return Lessons((), None)
    rewards = np.asarray([reward for _, reward in known])
    kept = rewards[rewards > 0]
    figures = np.log(np.maximum(rewards, 0.1 * kept.min() if len(kept) else 1.0))
    lent = [trial.candidate for trial in loan.trials]
    places = Places(space, [*(c for c, _ in known), *pool, *lent])
    model = Transfer(places, np.arange(len(known)), figures, lent_figures(loan, len(places.points), REWARD))
    if model.none > BORNE_OUT:
        return Lessons((), None)
    told = np.exp(model.predict(np.arange(len(places.points) - len(lent), len(places.points))).mean)
    best = None
    if loan.limits:
        misses = np.asarray([sum(max(0.0, by) for by in loan.violations(trial).values()) for trial in loan.trials])
        least = float(told[misses == 0].min()) if (misses == 0).any() else 0.0
        told = np.where(misses > 0, np.minimum(told, least) - misses, told)
    elif pool:
        found = model.predict(np.arange(len(known), len(known) + len(pool)))
        worth = expected_improvement(found, float(figures.max())) if len(known) else found.mean
        place = int(np.argmax(worth))
        best = pool[place], float(np.exp(found.mean[place]))
    return Lessons(tuple(zip(lent, map(float, told), strict=True)) if known else (), best)
