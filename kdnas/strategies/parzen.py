"""Optuna's multivariate TPE on a finite space, to the same proposals in a fraction of the time.

Its estimators are built once for a proposal, however often it is drawn again. Every choice of a dimension is evaluated
once, as a table, and drawing and comparing are look-ups. What finished trials say is kept from slot to slot. Decides
nothing that Optuna's sampler would decide otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import numpy as np
from optuna import Study
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.samplers import TPESampler
from optuna.samplers._tpe._truncnorm import _log_gauss_mass
from optuna.samplers._tpe.parzen_estimator import _ParzenEstimator
from optuna.samplers._tpe.probability_distributions import (
    _BatchedCategoricalDistributions,
    _log_gauss_mass_unique,
    _unique_inverse_2d,
)
from optuna.samplers._tpe.sampler import (
    _get_infeasible_trial_score,
    _get_pruned_trial_score,
    _split_trials,
    default_gamma,
    default_gamma_multiobjective,
)
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

Space = dict[str, BaseDistribution]
# A trial's group in `_split`, its number, what orders it in its group, its parameters as numbers.
Row = tuple[int, int, Any, tuple[float, ...] | None]
RUNNING = 3  # the last group


class FiniteTPESampler(TPESampler):
    """`kept`: what this sampler's predecessors in the same study knew of finished trials."""

    def __init__(self, kept: dict[int, Any], **options: Any) -> None:
        super().__init__(**options)
        self._kept = kept
        self._model: _Model | None = None
        self._model_of: int | None = None  # the trial

    def _sample_relative(self, study: Study, trial: FrozenTrial, search_space: Space) -> dict[str, Any]:
        if self._model is not None and self._model_of == trial._trial_id:
            return self._model.propose(self._rng.rng, self._n_ei_candidates)
        return super()._sample_relative(study, trial, search_space)

    def _sample(self, study: Study, trial: FrozenTrial, search_space: Space) -> dict[str, Any]:
        self._model, self._model_of = self._modelled(study, trial, search_space), trial._trial_id
        return self._model.propose(self._rng.rng, self._n_ei_candidates)

    def _modelled(self, study: Study, trial: FrozenTrial, space: Space) -> _Model:
        # Constant liar: trials that run count as bad ones.
        states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
        trials = study.get_trials(deepcopy=False, states=states)
        if len(study.directions) > 1:
            others = [t for t in trials if t.number != trial.number]
            finished = sum(t.state != TrialState.RUNNING for t in others)
            split = _split_trials(study, others, default_gamma_multiobjective(finished))
            below, above = ([self._row(study, t, t.number, space) for t in part] for part in split)
        else:
            below, above = self._split(study, trials, trial.number, space)
        parameters = self._parzen_estimator_parameters
        weights = (np.ones(len(below)),) if len(study.directions) > 1 else ()
        return _Model(
            _ParzenEstimator(_columns(below, space), space, parameters, *weights),
            _ParzenEstimator(_columns(above, space), space, parameters),
            space,
        )

    def _split(
        self, study: Study, trials: Sequence[FrozenTrial], own: int, space: Space
    ) -> tuple[list[Row], list[Row]]:
        """The best of the trials without the `own` one, and the others, by number: complete ones by value before pruned
        ones by step before those that miss constraints; running ones are never among the best."""
        groups: tuple[list[Row], ...] = ([], [], [], [])
        kept = self._kept
        for trial in trials:
            number = trial.number
            known = kept.get(number)
            if known is None or known[0] is not trial:
                known = (trial, self._row(study, trial, number, space))
            row = known[1]
            groups[row[0]].append(row)
        groups[RUNNING][:] = [row for row in groups[RUNNING] if row[1] != own]
        n_below = default_gamma(sum(map(len, groups[:RUNNING])))
        below: list[Row] = []
        above: list[Row] = list(groups[RUNNING])
        upwards = study.direction == StudyDirection.MAXIMIZE
        for nth, group in enumerate(groups[:RUNNING]):
            ordered = sorted(group, key=itemgetter(2), reverse=upwards and nth == 0)
            room = max(0, n_below - len(below))
            below += ordered[:room]
            above += ordered[room:]
        below.sort(key=itemgetter(1))
        above.sort(key=itemgetter(1))
        return below, above

    def _row(self, study: Study, trial: FrozenTrial, number: int, space: Space) -> Row:
        known = self._kept.get(number)
        if known is not None and known[0] is trial:
            row: Row = known[1]
            return row
        values = self._get_params(trial, study)
        inside = space.keys() <= values.keys()
        numbers = tuple(one.to_internal_repr(values[name]) for name, one in space.items()) if inside else None
        if trial.state == TrialState.RUNNING:
            return RUNNING, number, None, numbers
        missed = _get_infeasible_trial_score(trial)
        if missed > 0:
            row = (2, number, missed, numbers)
        elif trial.state == TrialState.COMPLETE:
            row = (0, number, trial.values[0], numbers)
        else:
            row = (1, number, _get_pruned_trial_score(trial, study), numbers)
        self._kept[number] = (trial, row)
        return row


def _columns(rows: Sequence[Any], space: Space) -> dict[str, np.ndarray]:
    """Optuna's name → the rows' values as numbers; rows that lack a parameter are left out."""
    whole = np.array([row[-1] for row in rows if row[-1] is not None], dtype=float).reshape(-1, len(space))
    return {name: whole[:, place] for place, name in enumerate(space)}


class _Model:
    """Draws candidates as the better trials lie, and compares them with where the others do."""

    def __init__(self, below: _ParzenEstimator, above: _ParzenEstimator, space: Space) -> None:
        self._space = space
        self._below, self._above = _Tabulated(below, space), _Tabulated(above, space)
        self._shape = tuple(_size(one) for one in space.values())
        self._known: dict[int, float] = {}  # place in the space → log ratio of the densities

    def propose(self, rng: np.random.RandomState, draws: int) -> dict[str, Any]:
        """Of so many draws the one with the largest ratio, as Optuna's name → value."""
        drawn = self._below.sample(rng, draws)
        places = np.ravel_multi_index(tuple(drawn.T), self._shape).tolist()
        first = {place: at for at, place in enumerate(places) if place not in self._known}
        if first:
            new = drawn[list(first.values())]
            ratios = self._below.log_pdf(new) - self._above.log_pdf(new)
            self._known.update(zip(first, ratios.tolist(), strict=True))
        best = drawn[int(np.argmax([self._known[place] for place in places]))]
        return {
            name: one.to_external_repr(_value(one, int(at)))
            for (name, one), at in zip(self._space.items(), best, strict=True)
        }


@dataclass(frozen=True)
class _Table:
    """One dimension. `log_mass` [choices, kernels], `log_norm` [kernels] where it is to be taken off, and `below`
    [kernels, choices]: the probability of a choice or one before it."""

    log_mass: np.ndarray
    log_norm: np.ndarray | None
    below: np.ndarray


class _Tabulated:
    """One of Optuna's estimators, whose sums are added in the same order."""

    def __init__(self, estimator: _ParzenEstimator, space: Space) -> None:
        mixture = estimator._mixture_distribution
        self._weights, self._log_weights = mixture.weights, np.log(mixture.weights)
        self._tables = [_table(one, d) for one, d in zip(space.values(), mixture.distributions, strict=True)]

    def sample(self, rng: np.random.RandomState, size: int) -> np.ndarray:
        """Places among the choices [size, dimensions]; takes the same random numbers as Optuna's."""
        kernels = rng.choice(len(self._weights), p=self._weights, size=size)
        found = np.empty((size, len(self._tables)), dtype=int)
        numeric = [place for place, table in enumerate(self._tables) if table.log_norm is not None]
        quantiles = {n: rng.rand(size) for n, table in enumerate(self._tables) if table.log_norm is None}
        if numeric:
            quantiles |= zip(numeric, rng.uniform(low=0, high=1, size=(len(numeric), size)), strict=True)
        for place, quantile in quantiles.items():
            below = self._tables[place].below[kernels]
            found[:, place] = np.sum(below[:, :-1] < quantile[:, np.newaxis], axis=-1)
        return found

    def log_pdf(self, places: np.ndarray) -> np.ndarray:
        """Log density [n] at places [n, dimensions]."""
        each = np.zeros((len(places), len(self._weights)))
        for at, table in zip(places.T, self._tables, strict=True):
            each += table.log_mass[at]
            if table.log_norm is not None:
                each -= table.log_norm
        each += self._log_weights
        most = each.max(axis=1)
        most[np.isneginf(most)] = 0
        with np.errstate(divide="ignore"):
            return np.asarray(np.log(np.exp(each - most[:, None]).sum(axis=1)) + most)


def _table(one: BaseDistribution, kernels: Any) -> _Table:
    if isinstance(kernels, _BatchedCategoricalDistributions):
        return _Table(np.log(kernels.weights).T.copy(), None, np.cumsum(kernels.weights, axis=-1))
    choices = np.array([_value(one, place) for place in range(_size(one))], dtype=float)
    mu, sigma, which = _unique_inverse_2d(kernels.mu, kernels.sigma)
    half = kernels.step / 2
    mass = _log_gauss_mass_unique(
        ((choices - half)[:, None] - mu) / sigma,
        ((choices + half)[:, None] - mu) / sigma,
    )
    norm = _log_gauss_mass((kernels.adapted_low - mu) / sigma, (kernels.adapted_high - mu) / sigma)
    return _Table(mass[:, which], norm[which], np.cumsum(np.exp(mass - norm), axis=0).T[which])


def _size(one: BaseDistribution) -> int:
    if isinstance(one, CategoricalDistribution):
        return len(one.choices)
    assert isinstance(one, IntDistribution)
    return (one.high - one.low) // one.step + 1


def _value(one: BaseDistribution, place: int) -> float:
    """The choice at a place, as Optuna's number for it."""
    if isinstance(one, CategoricalDistribution):
        return place
    assert isinstance(one, IntDistribution)
    return one.low + place * one.step
