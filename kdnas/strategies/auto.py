"""The strategy that the study's space and the slot's number ask for, and a line in the trial that says which it was.

The choice itself is `kdnas.study.strategy_choice`.
"""

from __future__ import annotations

import importlib
from dataclasses import replace

from optuna import Study
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial

from kdnas.strategies.asked import Asked
from kdnas.study.spec_strategies import AutoStrategy
from kdnas.study.strategy_choice import stage

PROPOSED_BY = "proposed_by"  # the trial's attribute with the strategy's name


def sampler(asked: Asked[AutoStrategy]) -> BaseSampler:
    taken = stage(asked.options, asked.space, asked.slot).options
    module = importlib.import_module(f"kdnas.strategies.{taken.name}")
    made: BaseSampler = module.sampler(replace(asked, options=taken))  # type: ignore[arg-type]
    return _told(made, taken.name)


def _told(made: BaseSampler, name: str) -> BaseSampler:
    """The sampler, which also writes to its trial who proposed."""
    before = made.before_trial

    def before_trial(study: Study, trial: FrozenTrial) -> None:
        study._storage.set_trial_system_attr(trial._trial_id, PROPOSED_BY, name)
        before(study, trial)

    made.before_trial = before_trial  # type: ignore[method-assign]
    return made
