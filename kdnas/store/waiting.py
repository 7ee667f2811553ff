"""Trials that have their score and wait for their latency: written down, claimed to be timed, and let go again.

Such a trial's slot is `waiting`, and so is its own row; Optuna's trial still runs, so that no strategy ranks it. The
slot's worker is the one that times it now, or nobody. `slots.finish` ends it. Imports no Optuna.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from kdnas.store import changes, study_end
from kdnas.store import tables as t
from kdnas.store.database import Store
from kdnas.store.notices import News
from kdnas.store.patience import patient
from kdnas.store.slots import require_held
from kdnas.study.space import Candidate
from kdnas.study.states import TIMING, WAITS, SlotState, TrialState, Wanted


@dataclass(frozen=True)
class Waiting:
    """A trial that one worker is to time, and what its training found."""

    slot: int
    number: int
    candidate: Candidate
    loss: float
    raw_loss: float
    parameters: int
    memory_mib: float
    extra: Mapping[str, float]
    epoch: int
    scored: float  # when its training ended, UTC seconds


@patient
def scored(store: Store, study_id: int, slot: int, worker_id: int, number: int, **columns: Any) -> None:
    """The worker's trial has its score, which `columns` hold, and waits for its latency from now on; nobody holds its
    slot. Raises SlotTaken."""
    s, c = t.slot.c, t.trial.c
    with store.begin() as connection:
        revision = changes.bump(connection, study_id, News.SLOT)
        mine = sa.and_(s.study_id == study_id, s.slot == slot, s.trial == number)
        state = connection.execute(sa.select(s.state).where(mine)).scalar_one_or_none()
        if state in (SlotState.WAITING, SlotState.DONE, SlotState.FAILED):
            return  # written before; the answer got lost
        held = sa.and_(mine, s.state == SlotState.RUNNING, s.worker_id == worker_id)
        values = {"state": SlotState.WAITING, "worker_id": None, "attempts": 0}  # those of the timing are counted anew
        require_held(connection.execute(sa.update(t.slot).where(held).values(**values)).rowcount, slot)
        connection.execute(
            sa.update(t.trial)
            .where(c.study_id == study_id, c.number == number)
            .values(
                state=TrialState.WAITING, phase=WAITS, progress=1.0, ended=time.time(), revision=revision, **columns
            )
        )


@patient
def claim(store: Store, study_id: int, worker_id: int) -> Waiting | None:
    """The trial that has waited longest and that nobody times, now held by the worker; None where there is none or
    people want no new one. A worker that holds one gets that one again: the answer to its claim may have been lost."""
    s, c = t.slot.c, t.trial.c
    own, free = s.worker_id == worker_id, s.worker_id.is_(None)
    waits = sa.and_(s.study_id == study_id, s.state == SlotState.WAITING)
    query = (
        sa.select(t.trial, s.worker_id.label("timed_by"))
        .join_from(t.slot, t.trial, sa.and_(c.study_id == s.study_id, c.number == s.trial))
        .order_by(free, c.ended, s.slot)
        .limit(1)
    )
    with store.connect() as connection:  # a worker comes here before each of its trials
        if connection.execute(query.where(waits, sa.or_(own, free))).first() is None:
            return None
    with store.begin() as connection:
        wanted = changes.hold(connection, study_id)
        row = connection.execute(query.where(waits, sa.or_(own, free if wanted == Wanted.RUN else sa.false()))).first()
        if row is None:
            return None
        if row.timed_by != worker_id:
            _hold(connection, study_id, row.slot, worker_id, TIMING, s.attempts + 1)
        return Waiting(
            slot=row.slot,
            number=row.number,
            candidate=json.loads(row.candidate),
            loss=row.loss,
            raw_loss=row.raw_loss,
            parameters=row.parameters,
            memory_mib=row.memory_mib,
            extra=json.loads(row.extra or "{}"),
            epoch=row.epoch,
            scored=row.ended,
        )


@patient
def let_go(store: Store, study_id: int, worker_id: int, *, attempts: int | None) -> list[int]:
    """The worker times nothing any more: what it held waits again; the numbers of these trials.

    `attempts` is the cap where it died over them: at it a trial fails instead. None where it was stopped on purpose,
    which counts as no attempt.
    """
    s, c = t.slot.c, t.trial.c
    held = sa.and_(s.study_id == study_id, s.state == SlotState.WAITING, s.worker_id == worker_id)
    with store.connect() as connection:
        if connection.execute(sa.select(s.slot).where(held).limit(1)).first() is None:
            return []
    with store.begin() as connection:
        changes.bump(connection, study_id, News.SLOT)
        rows = connection.execute(sa.select(s.slot, s.trial, s.attempts).where(held)).all()
        for row in rows:
            if attempts is None or row.attempts < attempts:
                _hold(connection, study_id, row.slot, None, WAITS, row.attempts - (attempts is None))
                continue
            error = f"a worker died each of the {row.attempts} times that it was timed"
            failed = {"state": SlotState.FAILED, "error": error}
            connection.execute(sa.update(t.slot).where(s.study_id == study_id, s.slot == row.slot).values(**failed))
            revision = changes.bump(connection, study_id)
            connection.execute(
                sa.update(t.trial)
                .where(c.study_id == study_id, c.number == row.trial)
                .values(state=TrialState.FAILED, error=error, phase=None, revision=revision)
            )
        study_end.finish(connection, study_id, None)
    return [row.trial for row in rows]


def _hold(connection: Connection, study_id: int, slot: int, worker_id: int | None, phase: str, attempts: Any) -> None:
    """The waiting slot is this worker's, or nobody's, from now on, and its trial says so."""
    s, c = t.slot.c, t.trial.c
    here = sa.and_(s.study_id == study_id, s.slot == slot)
    connection.execute(sa.update(t.slot).where(here).values(worker_id=worker_id, attempts=attempts))
    number = sa.select(s.trial).where(here).scalar_subquery()
    connection.execute(
        sa.update(t.trial)
        .where(c.study_id == study_id, c.number == number)
        .values(phase=phase, revision=changes.bump(connection, study_id))
    )
