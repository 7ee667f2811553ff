"""Puts right what dead workers left: slots that nobody works on, and trials of Optuna's that nobody will finish.

Every step looks again inside its own transaction, so that several workers may do this at once and a death in the
middle only means that the next one goes on. Our rows are written first, so a trial that has ended in them wins over
a running one of Optuna's, and Optuna never knows of a result that our slots do not.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy as sa
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.engine import Connection

from kdnas.store import changes, limits, slots, waiting
from kdnas.store import tables as t
from kdnas.store.database import Store, clock, clock_column
from kdnas.store.optuna_storage import explained
from kdnas.store.patience import patient
from kdnas.study import states
from kdnas.study.reference_time import factor
from kdnas.study.spec import StudySpec
from kdnas.system import liveness

TOLD: dict[str, TrialState] = {
    states.TrialState.DONE: TrialState.COMPLETE,
    states.TrialState.REUSED: TrialState.COMPLETE,
    states.TrialState.PRUNED: TrialState.PRUNED,
}


RUNNING, WAITING = states.SlotState.RUNNING, states.SlotState.WAITING
SEARCH, LATENCY = "search", "latency"  # tasks of workers: one that evaluates candidates, one that only times


def any_with(workers: Sequence[Any], task: str) -> bool:
    """Whether one of `at_work` that lives has the task; asks no database."""
    return any(row.task == task and _lives(row) for row in workers)


def any_dead(workers: Sequence[Any]) -> bool:
    """Whether one of `at_work` has died by now; asks no database."""
    return any(not _lives(row) for row in workers)


def close(store: Store, study: optuna.Study, study_id: int, spec: StudySpec) -> list[int]:
    """Frees the slots and ends the trials of dead workers; the numbers of the trials that were lost.

    Optuna's running trials are read first. Whoever had begun one of them by then held its slot already, so that the
    slots, read afterwards, show every worker that lives and has not yet written its trial into our rows.
    """
    with explained(store):
        running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    dead = [row for row in at_work(store, study_id) if not _lives(row)]
    lost = []
    with store.connect() as connection:
        s, w = t.slot.c, t.worker.c
        timed = s.worker_id.is_not(None)
        held = connection.execute(
            sa.select(
                s.slot,
                s.trial,
                s.worker_id,
                s.state.label("of_slot"),
                w.state,
                w.host,
                w.lock,
                w.heartbeat,
                *_here(connection),
            )
            .outerjoin_from(t.slot, t.worker, s.worker_id == w.worker_id)
            .where(s.study_id == study_id, sa.or_(s.state == RUNNING, sa.and_(s.state == WAITING, timed)))
        ).all()
    proposing = False
    for row in held:
        if row.state is not None and _lives(row):
            proposing |= row.trial is None
            continue
        if row.of_slot == WAITING:  # its score stays
            waiting.let_go(store, study_id, row.worker_id, attempts=spec.budget.attempts)
            continue
        if row.trial is not None:
            lost.append(row.trial)
        slots.give_up(store, study_id, row.slot, row.worker_id, attempts=spec.budget.attempts, why="its worker died")
    _tell_ended(store, study, study_id, spec, running, unknown_too=not proposing)
    if dead:
        w = t.worker.c
        with store.begin() as connection:
            changes.bump(connection, study_id)
            connection.execute(
                sa.update(t.worker)
                .where(w.worker_id.in_([row.worker_id for row in dead]), w.state.in_(states.AT_WORK))
                .values(state=states.WorkerState.DEAD, ended=clock(connection), doing=None)
            )
        for row in dead:
            if row.lock is not None and row.host == liveness.this_host():
                Path(row.lock).unlink(missing_ok=True)
    return lost


def _tell_ended(
    store: Store,
    study: optuna.Study,
    study_id: int,
    spec: StudySpec,
    running: Sequence[FrozenTrial],
    *,
    unknown_too: bool,
) -> None:
    """Tells Optuna of those of its running trials that have ended in our rows.

    `unknown_too`: fail those that our rows do not know at all, left by a death between Optuna's row and ours; only
    while no living worker can be at just that point.
    """
    if not running:
        return
    c = t.trial.c
    with store.connect() as connection:
        query = sa.select(c.number, c.state, c.reward, c.loss, c.raw_loss, c.latency_ms, c.teacher_latency_ms).where(
            c.study_id == study_id, c.number.in_([trial.number for trial in running])
        )
        ours = {row.number: row for row in connection.execute(query)}
    for trial in running:
        row = ours.get(trial.number)
        if row is None and unknown_too:
            tell(store, study, trial.number, TrialState.FAIL, None)
        elif row is not None and row.state not in (states.TrialState.RUNNING, states.TrialState.WAITING):
            state = TOLD.get(row.state, TrialState.FAIL)
            values = objectives(store, study_id, spec, row._asdict()) if row.state in TOLD else None
            tell(store, study, trial.number, state, values)


def tell(store: Store, study: optuna.Study, number: int, state: TrialState, values: list[float] | None) -> None:
    """Tells Optuna how a trial ended; no matter that it already knows."""
    # Another worker may be faster by a moment.
    with explained(store), contextlib.suppress(UpdateFinishedTrialError):
        study.tell(number, values=values if state == TrialState.COMPLETE else None, state=state, skip_if_finished=True)


def objectives(store: Store, study_id: int, spec: StudySpec, columns: Mapping[str, Any]) -> list[float]:
    """What Optuna is told of a finished trial: its reward, or its loss and its latency in milliseconds, for the study's
    one time of the teacher."""
    if spec.two_objectives:
        by = factor(columns["teacher_latency_ms"], limits.present(store, study_id).reference_ms)
        return [columns["raw_loss" if spec.reward.loss == "raw" else "loss"], columns["latency_ms"] * by]
    return [columns["reward"]]


@patient
def at_work(store: Store, study_id: int) -> Sequence[Any]:
    """The rows of the study's workers that have not said that they ended."""
    w = t.worker.c
    with store.look() as connection:
        return connection.execute(
            sa.select(w.worker_id, w.state, w.task, w.host, w.lock, w.heartbeat, *_here(connection)).where(
                w.study_id == study_id, w.state.in_(states.AT_WORK)
            )
        ).all()


def _here(connection: Connection) -> tuple[sa.ColumnElement[float], sa.ColumnElement[str]]:
    """Beside a worker's row: the time by the database's clock, and which store the row is of."""
    return clock_column(connection.dialect.name).label("now"), sa.literal(str(connection.engine.url)).label("store")


def _lives(row: Any) -> bool:
    return row.state in states.AT_WORK and liveness.alive(
        (row.store, row.worker_id), row.host, row.lock, row.heartbeat, row.now, surely_dead=True
    )
