"""Optuna's multivariate TPE, for the reward or for the front of loss and latency.

Pruned trials count, below all complete ones of their step (Optuna's rule); failed ones are not seen, and no
candidate of theirs is proposed again.
"""

from __future__ import annotations

import warnings

from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler

from kdnas.strategies.asked import Asked
from kdnas.strategies.far_apart import Begun, results_wanted
from kdnas.strategies.parzen import FiniteTPESampler
from kdnas.study.spec_strategies import TpeStrategy

FEWEST = 5  # results from which it goes, once several workers have begun all random candidates


def sampler(asked: Asked[TpeStrategy]) -> Begun:
    return Begun(_tpe(asked), asked, asked.options.startup, _wanted(asked))


def _wanted(asked: Asked[TpeStrategy]) -> int:
    return results_wanted(asked, asked.options.startup, FEWEST)


def _tpe(asked: Asked[TpeStrategy]) -> BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        # Constant liar: what other workers are at counts as bad, so that two of them look in different places.
        return FiniteTPESampler(
            asked.kept,
            n_startup_trials=_wanted(asked),
            n_ei_candidates=asked.options.pool,
            multivariate=True,
            constant_liar=True,
            seed=asked.seed,
        )
