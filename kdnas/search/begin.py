"""Begins or takes up a study. Starts no process and runs no trial."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kdnas.store import changes, ends, lending, limits, queries
from kdnas.store.database import Store, open_store, reader_if_there
from kdnas.study.loan import AUTO, NOBODY
from kdnas.study.rows import Status, StudyRow
from kdnas.study.spec import StudySpec, from_values
from kdnas.study.spec_constraints import ConstraintsSpec
from kdnas.study.spec_differences import differences
from kdnas.study.spec_end import moment_of, require_use, resolved
from kdnas.study.states import Wanted
from kdnas.study.time_budget import EVENT, require_time
from kdnas.system.errors import UsageError


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
    anew: bool = False,
    trial_s: float | None = None,
) -> Begun:
    """The study, created or taken up again, and wanted to run. Raises UsageError, with what differs, where one of that
    name was begun with another spec.

    On taking up, `trials`, `alpha`, `beta` and `constraints` change the study. Without them the spec's α, β and
    constraints replace the study's, and its larger budget raises the study's, only where they are not those that it was
    begun with, so that running the same spec again undoes no later change. For the same reason the time in a spec
    is that of the study's beginning, or of the first spec that has one; with `anew`, it is counted from now. `trial_s`
    is what a trial is expected to take, in seconds, before any has ended. Raises UsageError for a study whose time is
    over.
    """
    from kdnas.store.studies import delete_study, refuse_other_spec

    if spec.like not in (AUTO, NOBODY):
        there = reader_if_there(storage)
        if there is None:
            raise lending.cannot_lend(spec, "there is no store yet")  # and none is left behind
        there.close()
    with open_store(storage, create=True) as store:
        row = queries.find_study(store, spec.name)
        if row is not None:
            known = from_values(row.spec)
            if "strategy" not in spec.model_fields_set:  # the default has been another one
                spec = spec.model_copy(update={"strategy": known.strategy})
            differing = differences(known, spec)
            if not differing:
                until = _until(store, row, spec, trials, anew)
                _take_up(store, row, known, spec, trials, alpha, beta, constraints)
                if until is not None:
                    ends.set_end(store, row.study_id, until, trial_s)
                return Begun(queries.study_of(store, row.study_id), resumed=True)
            if row.space_size is not None or row.workers:
                refuse_other_spec(spec.name, differing)
            # It never came to anything: its teacher or its data could not be had.
            delete_study(store, spec.name)
        lending.require_lender(store, spec)
        return Begun(queries.study_of(store, _create(store, spec, trial_s)), resumed=False)


def _create(store: Store, spec: StudySpec, trial_s: float | None) -> int:
    from kdnas.store.studies import create_study

    spec = resolved(spec, ends.now(store))
    study_id = create_study(store, spec)
    if spec.budget.until is not None:
        changes.add_event(store, study_id, EVENT, ends.detail(None, spec.budget.until, trial_s))
    return study_id


def _until(store: Store, row: StudyRow, spec: StudySpec, trials: int | None, anew: bool) -> float | None:
    """The end that a study gets as it is taken up; None where it keeps what it has. Raises UsageError where its time is
    over and it gets no more, and where nothing is left that more could be used for."""
    now = ends.now(store)
    if not anew and (row.end is not None or not spec.budget.timed):
        if trials is not None or row.status is not Status.FINISHED:
            require_time(row.name, row.end, now)
        return None
    if not spec.budget.timed and row.end is not None:
        raise UsageError(f"The end of {row.name} cannot be taken away.", "Give a later one, with --hours or --until.")
    require_use(row)
    return moment_of(spec.budget, now)


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
    other = spec.budget.trials != known.budget.trials
    if trials is not None or (other and not row.open and not spec.budget.open and spec.budget.trials > row.trials):
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
