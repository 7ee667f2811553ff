"""A study's budget as a row of slots: claimed, proposed for, finished or freed, each in one transaction.

Our rows are written before Optuna is told, so that a result is never known to Optuna alone; what a death leaves
half done is put right by `orphans.close`. A slot that a lost trial has freed keeps its candidate, and the next
claim evaluates just that one. Imports no Optuna.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

from kdnas.store import changes, study_end
from kdnas.store import tables as t
from kdnas.store.database import Store
from kdnas.store.notices import News
from kdnas.store.patience import patient
from kdnas.store.slot_keys import SlotKeys
from kdnas.study.space import Candidate, SearchSpace
from kdnas.study.states import SlotState, TrialState, Wanted
from kdnas.system.errors import UsageError


@dataclass(frozen=True)
class Claim:
    """A slot that one worker holds."""

    slot: int
    candidate: Candidate | None  # planned (enqueued, an episode's, or of a trial that was lost)
    origin: str | None
    predicted: float | None
    taken: Set[str]  # keys of the candidates that other slots hold


@dataclass(frozen=True)
class Clash:
    """The proposed candidate belongs to another slot."""

    slot: int
    number: int | None  # its trial
    state: str  # the slot's


@dataclass(frozen=True)
class Left:
    """What a study still has to do, when nothing could be claimed."""

    wanted: str
    free: int  # slots that nobody holds
    running: int  # slots that are being worked on
    waiting: int = 0  # slots whose latency is still to be measured, or is being measured


Beside = Callable[[Connection], None]


def nothing(_connection: Connection) -> None:
    """Writes nothing."""


@patient
def claim(
    store: Store, study_id: int, worker_id: int, *, planned_only: bool = False, keys: SlotKeys | None = None
) -> Claim | Left:
    """The lowest free slot, now held by the worker; or what is left where none is free or people want no new trial.

    A worker that holds a slot without a trial gets that one again: the answer to its claim may have been lost.
    `planned_only` passes over slots without a candidate: for when no further candidate can be proposed. `keys` is what
    the caller has read of this study before.
    """
    s = t.slot.c
    keys = SlotKeys() if keys is None else keys
    with store.begin() as connection:
        # A worker that waits asks again and again: only what changes something counts as a revision.
        wanted = changes.hold(connection, study_id)
        keys.look(connection, study_id)
        own = keys.unbegun(worker_id)
        chosen = s.slot == own if own is not None else sa.and_(s.slot >= keys.below, s.state == SlotState.FREE)
        if planned_only and own is None:
            chosen = sa.and_(chosen, s.candidate.is_not(None))
        row = None
        if own is not None or wanted == Wanted.RUN:
            query = sa.select(t.slot).where(s.study_id == study_id, chosen)
            row = connection.execute(query.order_by(s.slot).limit(1)).first()
        if row is None:
            number = sa.select(sa.func.count()).where(s.study_id == study_id)
            return Left(
                wanted,
                free=connection.execute(number.where(s.state == SlotState.FREE)).scalar_one(),
                running=connection.execute(number.where(s.state == SlotState.RUNNING)).scalar_one(),
                waiting=connection.execute(number.where(s.state == SlotState.WAITING)).scalar_one(),
            )
        changes.bump(connection, study_id)
        connection.execute(
            sa.update(t.slot)
            .where(s.study_id == study_id, s.slot == row.slot)
            .values(state=SlotState.RUNNING, worker_id=worker_id, trial=None)
        )
        return Claim(
            slot=row.slot,
            candidate=json.loads(row.candidate) if row.candidate else None,
            origin=row.origin,
            predicted=row.predicted,
            taken=keys.taken(row.slot),
        )


@patient
def key_planned(store: Store, study_id: int, space: SearchSpace) -> list[str]:
    """Gives enqueued candidates their keys, now that the space is known. What is not in the space, or stands twice, is
    taken out of its slot, which the strategy then fills; one line for each of these."""
    s = t.slot.c
    complaints = []
    with store.begin() as connection:
        changes.bump(connection, study_id)
        known = set(
            connection.execute(
                sa.select(s.candidate_key).where(s.study_id == study_id, s.candidate_key.is_not(None))
            ).scalars()
        )
        rows = connection.execute(
            sa.select(s.slot, s.candidate)
            .where(s.study_id == study_id, s.candidate.is_not(None), s.candidate_key.is_(None))
            .order_by(s.slot)
        ).all()
        for row in rows:
            values: dict[str, Any] = {"candidate": None, "origin": None}
            try:
                space.indices(json.loads(row.candidate))
            except UsageError as error:
                complaints.append(f"The candidate enqueued for slot {row.slot} is left out: {error}")
            else:
                candidate = space.canonical(json.loads(row.candidate))
                key = space.key(candidate)
                if key in known:
                    complaints.append(f"The candidate enqueued for slot {row.slot} is left out: it stands there twice.")
                else:
                    known.add(key)
                    values = {"candidate": json.dumps(candidate), "candidate_key": key}
            connection.execute(sa.update(t.slot).where(s.study_id == study_id, s.slot == row.slot).values(**values))
    return complaints


@patient
def taken(store: Store, study_id: int, slot: int, keys: SlotKeys) -> Set[str]:
    """Keys of the candidates that other slots hold: ended, running or planned."""
    with store.connect() as connection:
        keys.look(connection, study_id)
    return keys.taken(slot)


@patient
def propose(
    store: Store,
    study_id: int,
    slot: int,
    worker_id: int,
    number: int,
    candidate: Candidate,
    key: str,
    *,
    config: Mapping[str, Any],
    origin: str,
    predicted: float | None,
    seed: int,
    epochs: int,
    beside: Beside = nothing,
) -> Clash | None:
    """Optuna's trial `number` evaluates the candidate in the slot from now on; counts an attempt.

    Nothing is written, and the other slot returned, where the candidate belongs to one. `beside` writes what else
    belongs to the transaction.
    """
    s = t.slot.c
    with store.begin() as connection:
        revision = changes.bump(connection, study_id)
        own = sa.and_(s.slot == slot, s.state == SlotState.RUNNING, s.worker_id == worker_id)
        held = sa.and_(s.study_id == study_id, own)
        query = sa.select(s.slot, s.trial, s.state).where(
            s.study_id == study_id, sa.or_(own, sa.and_(s.candidate_key == key, s.slot != slot))
        )
        for row in connection.execute(query):
            if row.slot != slot:
                return Clash(row.slot, row.trial, row.state)
            if row.trial == number:
                return None  # written before; the answer got lost
        beside(connection)
        require_held(
            connection.execute(
                sa.update(t.slot)
                .where(held)
                .values(
                    trial=number,
                    attempts=s.attempts + 1,
                    candidate=json.dumps(candidate),
                    candidate_key=key,
                    origin=origin,
                )
            ).rowcount,
            slot,
        )
        connection.execute(
            t.trial.insert().values(
                study_id=study_id,
                number=number,
                slot=slot,
                worker_id=worker_id,
                state=TrialState.RUNNING,
                candidate=json.dumps(candidate),
                candidate_key=key,
                config=json.dumps(dict(config)),
                origin=origin,
                predicted=predicted,
                seed=seed,
                epoch=0,
                epochs=epochs,
                progress=0.0,
                phase="building",
                started=time.time(),
                revision=revision,
            )
        )
    return None


@patient
def reuse(store: Store, study_id: int, slot: int, worker_id: int, number: int, of: int) -> Mapping[str, Any]:
    """Optuna's trial `number` proposed what trial `of` has a result for: a row that shows it, at no cost of budget.

    Gives the columns of the trial that is reused.
    """
    c = t.trial.c
    now = time.time()
    with store.begin() as connection:
        revision = changes.bump(connection, study_id)
        row = connection.execute(sa.select(t.trial).where(c.study_id == study_id, c.number == of)).one()
        there = connection.execute(sa.select(t.trial).where(c.study_id == study_id, c.number == number)).first()
        if there is not None:
            return dict(there._mapping)  # written before; the answer got lost
        values = dict(row._mapping) | {
            "number": number,
            "slot": slot,
            "worker_id": worker_id,
            "state": TrialState.REUSED,
            "reused_from": of,
            "started": now,
            "ended": now,
            "revision": revision,
        }
        connection.execute(t.trial.insert().values(**values))
    return values


@patient
def progress(store: Store, study_id: int, number: int, **columns: Any) -> None:
    """Whatever of a running trial's columns has changed."""
    c = t.trial.c
    with store.begin() as connection:
        revision = changes.bump(connection, study_id)
        changed = connection.execute(
            sa.update(t.trial)
            .where(c.study_id == study_id, c.number == number, c.state == TrialState.RUNNING)
            .values(revision=revision, **columns)
        ).rowcount
        require_held(changed, number)


@patient
def epoch(
    store: Store, study_id: int, number: int, point: Mapping[str, Any], *, beside: Beside = nothing, **columns: Any
) -> None:
    """One more finished epoch of a running trial: a point of its curve, and what it changes of the row. `beside` writes
    what else belongs to the transaction."""
    c = t.trial.c
    with store.begin() as connection:
        revision = changes.bump(connection, study_id)
        changed = connection.execute(
            sa.update(t.trial)
            .where(c.study_id == study_id, c.number == number, c.state == TrialState.RUNNING)
            .values(revision=revision, epoch=point["epoch"], **columns)
        ).rowcount
        require_held(changed, number)
        made = (sqlite if store.is_sqlite else postgresql).insert(t.curve)
        there = made.on_conflict_do_nothing()  # written before, where the answer got lost
        connection.execute(there.values(study_id=study_id, number=number, **point))
        beside(connection)


@patient
def rate(store: Store, study_id: int) -> tuple[float, float]:
    """α and β now."""
    with store.connect() as connection:
        row = connection.execute(sa.select(t.study.c.alpha, t.study.c.beta).where(t.study.c.study_id == study_id)).one()
    return row.alpha, row.beta


@patient
def counts(store: Store, study_id: int) -> dict[str, int]:
    """State → how many of the study's slots are in it."""
    s = t.slot.c
    with store.connect() as connection:
        query = sa.select(s.state, sa.func.count().label("number")).where(s.study_id == study_id).group_by(s.state)
        return {row.state: row.number for row in connection.execute(query)}


@patient
def finish(
    store: Store,
    study_id: int,
    slot: int,
    number: int,
    state: SlotState,
    *,
    timed_by: int | None = None,
    ended: float | None = None,
    **columns: Any,
) -> None:
    """The trial ended as done, pruned or failed, and its slot with it. Of one that waited for its latency, `timed_by`
    is the worker that holds it, and `ended` when it would have ended without the wait. Raises SlotTaken."""
    s, c = t.slot.c, t.trial.c
    with store.begin() as connection:
        # The first trial that was timed gives the study its one time of the teacher.
        teacher, known = columns.get("teacher_latency_ms"), t.study.c.teacher_latency_ms
        timed = {} if teacher is None else {"teacher_latency_ms": sa.func.coalesce(known, teacher)}
        revision = changes.bump(connection, study_id, News.SLOT, **timed)
        mine = sa.and_(s.study_id == study_id, s.slot == slot, s.trial == number)
        before = SlotState.RUNNING
        if timed_by is not None:  # another one may have timed it meanwhile
            before, mine = SlotState.WAITING, sa.and_(mine, s.worker_id == timed_by)
        if connection.execute(sa.select(s.state).where(mine)).scalar_one_or_none() == state:
            return  # written before; the answer got lost
        require_held(
            connection.execute(
                sa.update(t.slot).where(mine, s.state == before).values(state=state, error=columns.get("error"))
            ).rowcount,
            slot,
        )
        connection.execute(
            sa.update(t.trial)
            .where(c.study_id == study_id, c.number == number)
            .values(state=state, revision=revision, ended=ended or time.time(), phase=None, **columns)
        )
        study_end.finish(connection, study_id, None)


@patient
def give_up(store: Store, study_id: int, slot: int, worker_id: int, *, attempts: int | None, why: str) -> None:
    """The worker no longer holds the slot: its trial, if it had begun one, is lost and the slot free again.

    `attempts` is the cap where the worker died in the trial: at it the trial fails instead. None where it was
    stopped on purpose, which counts as no attempt.
    """
    s, c = t.slot.c, t.trial.c
    with store.begin() as connection:
        revision = changes.bump(connection, study_id, News.SLOT)
        row = connection.execute(
            sa.select(t.slot).where(
                s.study_id == study_id, s.slot == slot, s.worker_id == worker_id, s.state == SlotState.RUNNING
            )
        ).first()
        if row is None:
            return
        begun = row.trial is not None
        failed = begun and attempts is not None and row.attempts >= attempts
        error = f"its worker died in each of {row.attempts} attempts" if failed else None
        connection.execute(
            sa.update(t.slot)
            .where(s.study_id == study_id, s.slot == slot)
            .values(
                state=SlotState.FAILED if failed else SlotState.FREE,
                worker_id=worker_id if failed else None,
                attempts=row.attempts - (1 if begun and attempts is None else 0),
                error=error,
            )
        )
        if begun:
            connection.execute(
                sa.update(t.trial)
                .where(c.study_id == study_id, c.number == row.trial, c.state == TrialState.RUNNING)
                .values(
                    state=TrialState.FAILED if failed else TrialState.LOST,
                    error=error or why,
                    ended=time.time(),
                    phase=None,
                    revision=revision,
                )
            )
        study_end.finish(connection, study_id, None)


@patient
def give_back(store: Store, study_id: int, slot: int, worker_id: int) -> None:
    """The worker found no candidate for the slot."""
    s = t.slot.c
    with store.begin() as connection:
        changes.bump(connection, study_id, News.SLOT)
        connection.execute(
            sa.update(t.slot)
            .where(s.study_id == study_id, s.slot == slot, s.worker_id == worker_id, s.state == SlotState.RUNNING)
            .values(state=SlotState.FREE, worker_id=None)
        )


def require_held(rows: int, what: int) -> None:
    if rows != 1:
        raise SlotTaken(what)


class SlotTaken(Exception):  # noqa: N818 - another worker has it, which is nobody's fault
    """This worker was silent for so long that others took it for dead and gave its slot away."""

    def __init__(self, what: int) -> None:
        super().__init__(f"slot or trial {what} was given up for another worker while this one was silent")
