"""When a study has ended: nothing is left to run, no candidate is left, or its time is over. Ends no trial."""

from __future__ import annotations

import time

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from kdnas.store import changes, ends
from kdnas.store import tables as t
from kdnas.store.database import Store
from kdnas.store.patience import patient
from kdnas.study.states import UNDER_WAY, SlotState


@patient
def finish_exhausted(store: Store, study_id: int, why: str) -> bool:
    """The study ends before its budget, since no candidate is left; unless a slot still runs or must run again."""
    with store.begin() as connection:
        changes.bump(connection, study_id)
        return finish(connection, study_id, why)


@patient
def finish_in_time(store: Store, study_id: int, why: str) -> bool:
    """The study ends since its time does, whatever is planned or was lost; whether it has ended, which it has not while
    a slot still runs."""
    with store.begin() as connection:
        changes.hold(connection, study_id)
        if connection.execute(sa.select(t.study.c.finished).where(t.study.c.study_id == study_id)).scalar_one():
            return True
        if not finish(connection, study_id, why, planned=False):
            return False  # a worker that waits asks again and again: nothing has changed
        changes.bump(connection, study_id)
        return True


@patient
def has_ended(store: Store, study_id: int) -> bool:
    """Whether the study has."""
    with store.look() as connection:
        return bool(
            connection.execute(sa.select(t.study.c.finished).where(t.study.c.study_id == study_id)).scalar_one_or_none()
        )


def finish(connection: Connection, study_id: int, early: str | None, *, planned: bool = True) -> bool:
    """Marks the study as finished when nothing is left to run; `early` says why it ends before its budget is spent, and
    `planned` whether slots that have a candidate are to run all the same."""
    s, c = t.slot.c, t.study.c
    left = sa.select(s.slot).where(s.study_id == study_id, s.state.in_((SlotState.FREE, *sorted(UNDER_WAY))))
    if early is not None:
        must = s.candidate.is_not(None) if planned else sa.false()
        left = left.where(sa.or_(s.state.in_(UNDER_WAY), must))
    # From the last one on, since slots end from the first on.
    if connection.execute(left.order_by(s.slot.desc()).limit(1)).first() is not None:
        return False
    trials = connection.execute(sa.select(c.trials).where(c.study_id == study_id)).scalar_one()
    end = ends.end_on(connection, study_id)
    if end is not None and end.open:
        if early is None:
            return False  # there will be more slots
        ends.trim(connection, study_id)
    ending = early or f"The budget of {trials} trial{'s' if trials != 1 else ''} is spent."
    connection.execute(
        sa.update(t.study).where(t.study.c.study_id == study_id).values(finished=time.time(), ending=ending)
    )
    changes.record(connection, study_id, "ended", {"ending": ending})
    return True
