"""Who stops hopeless candidates early: Optuna's pruners, blind to trials that a dead worker has lost.

They compare the reward after each epoch. Optuna's successive halving also counts failed trials at a rung, and
Hyperband deals trials to brackets by their number, which a lost trial uses up; here both go by what a study would
have done without the death.
"""

from __future__ import annotations

import copy
from collections.abc import Container

import optuna
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.trial import FrozenTrial, TrialState

from kdnas.study.spec import BudgetSpec

SLOT = "slot"  # the trial's attribute that holds its slot's number


def pruner(budget: BudgetSpec, slot: int) -> BasePruner:
    """The pruner that a spec asks for, as the worker of one slot uses it."""
    match budget.pruner:
        case "median":
            return MedianPruner(n_startup_trials=5, n_warmup_steps=0)
        case "asha":
            return Asha(min_resource=1, reduction_factor=2)
        case "hyperband":
            return Hyperband(slot, min_resource=1, max_resource=max(1, budget.epochs), reduction_factor=2)
        case "none":
            return NopPruner()


class _Kept(optuna.Study):
    """A study without its failed and lost trials."""

    def get_trials(self, deepcopy: bool = True, states: Container[TrialState] | None = None) -> list[FrozenTrial]:
        return [t for t in super().get_trials(deepcopy, states) if t.state != TrialState.FAIL]


class Asha(SuccessiveHalvingPruner):
    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        kept = _Kept(study_name=study.study_name, storage=study._storage, sampler=study.sampler, pruner=self)
        return super().prune(kept, trial)


class Hyperband(HyperbandPruner):
    def __init__(self, slot: int, *, min_resource: int, max_resource: int, reduction_factor: int) -> None:
        super().__init__(min_resource=min_resource, max_resource=max_resource, reduction_factor=reduction_factor)
        self.slot = slot  # of the trial that has no attribute yet: the one that is being asked for

    def _get_bracket_id(self, study: optuna.Study, trial: FrozenTrial) -> int:
        if trial.state == TrialState.FAIL:
            return -1
        by_slot = copy.copy(trial)
        by_slot.number = trial.user_attrs.get(SLOT, self.slot)
        return super()._get_bracket_id(study, by_slot)
