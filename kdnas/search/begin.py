"""Begins or takes up a study. Starts no process and runs no trial."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kdnas.store import changes, queries
from kdnas.store.database import open_store
from kdnas.study.spec import StudySpec, from_values
from kdnas.study.spec_differences import differences
from kdnas.study.states import Wanted


@dataclass(frozen=True)
class Begun:
    """A study that is there now."""

    study_id: int
    name: str
    resumed: bool


def begin(
    spec: StudySpec,
    storage: str | Path,
    *,
    trials: int | None = None,
    alpha: float | None = None,
    beta: float | None = None,
) -> Begun:
    """The study, created or taken up again, and wanted to run. Raises UsageError, with what differs, where one of that
    name was begun with another spec.

    On taking up, `trials`, `alpha` and `beta` change the study. Without them a larger budget in the spec raises the
    study's, and the spec's α and β replace the study's only where they are not those that it was begun with, so that
    running the same spec again undoes no later change.
    """
    from kdnas.store.studies import create_study, delete_study

    with open_store(storage, create=True) as store:
        before = {row.name: row for row in queries.study_rows(store)}
        row = before.get(spec.name)
        if row is not None and row.space_size is None and not row.workers and differences(from_values(row.spec), spec):
            # It never came to anything: its teacher or its data could not be had.
            delete_study(store, spec.name)
            row = None
        study_id = create_study(store, spec)
        if row is not None:
            if trials is not None or spec.budget.trials > row.trials:
                changes.set_trials(store, study_id, trials or spec.budget.trials)
            if alpha is not None or beta is not None:
                new = (row.alpha if alpha is None else alpha, row.beta if beta is None else beta)
                changes.set_reward(store, study_id, *new)
            elif spec.reward != from_values(row.spec).reward:
                changes.set_reward(store, study_id, spec.reward.alpha, spec.reward.beta)
            changes.set_wanted(store, study_id, Wanted.RUN)
        return Begun(study_id, spec.name, resumed=row is not None)
