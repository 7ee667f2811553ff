"""Begins or takes up a study. Starts no process and runs no trial."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kdnas.store import changes, lending, limits, queries
from kdnas.store.database import Store, open_store
from kdnas.study.rows import StudyRow
from kdnas.study.spec import StudySpec, from_values
from kdnas.study.spec_constraints import ConstraintsSpec
from kdnas.study.spec_differences import differences
from kdnas.study.states import Wanted


@dataclass(frozen=True)
class Begun:
    """A study that is there now."""

    row: StudyRow
    resumed: bool

    @property
    def study_id(self) -> int:
        return self.row.study_id

    @property
    def name(self) -> str:
        return self.row.name


def begin(
    spec: StudySpec,
    storage: str | Path,
    *,
    trials: int | None = None,
    alpha: float | None = None,
    beta: float | None = None,
    constraints: ConstraintsSpec | None = None,
) -> Begun:
    """The study, created or taken up again, and wanted to run. Raises UsageError, with what differs, where one of that
    name was begun with another spec.

    On taking up, `trials`, `alpha`, `beta` and `constraints` change the study. Without them a larger budget in the spec
    raises the study's, and the spec's α, β and constraints replace the study's only where they are not those that it
    was begun with, so that running the same spec again undoes no later change.
    """
    from kdnas.store.studies import create_study, delete_study, refuse_other_spec

    with open_store(storage, create=True) as store:
        row = queries.find_study(store, spec.name)
        if row is not None:
            known = from_values(row.spec)
            if "strategy" not in spec.model_fields_set:  # the default has been another one
                spec = spec.model_copy(update={"strategy": known.strategy})
            differing = differences(known, spec)
            if not differing:
                _take_up(store, row, known, spec, trials, alpha, beta, constraints)
                return Begun(queries.study_of(store, row.study_id), resumed=True)
            if row.space_size is not None or row.workers:
                refuse_other_spec(spec.name, differing)
            # It never came to anything: its teacher or its data could not be had.
            delete_study(store, spec.name)
        lending.require_lender(store, spec)
        return Begun(queries.study_of(store, create_study(store, spec)), resumed=False)


def _take_up(
    store: Store,
    row: StudyRow,
    known: StudySpec,
    spec: StudySpec,
    trials: int | None,
    alpha: float | None,
    beta: float | None,
    constraints: ConstraintsSpec | None,
) -> None:
    if trials is not None or spec.budget.trials > row.trials:
        changes.set_trials(store, row.study_id, trials or spec.budget.trials)
    if alpha is not None or beta is not None:
        new = (row.alpha if alpha is None else alpha, row.beta if beta is None else beta)
        changes.set_reward(store, row.study_id, *new)
    elif spec.reward != known.reward:
        changes.set_reward(store, row.study_id, spec.reward.alpha, spec.reward.beta)
    if constraints is not None:
        changes.set_constraints(store, row.study_id, constraints)
    elif spec.constraints != limits.begun_with(store, row.study_id):
        changes.set_constraints(store, row.study_id, spec.constraints)
    changes.set_wanted(store, row.study_id, Wanted.RUN)
