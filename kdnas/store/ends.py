"""When a study's wall time ends, what its trials took, and what people make of its end. Plain SQL.

The end stands in the study's spec, as its constraints do, so that all that reads the spec knows of it; the history says
what it was before. Times are by the clock that all of a store's users share.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from kdnas.store import changes
from kdnas.store import tables as t
from kdnas.store.database import Store, clock
from kdnas.store.patience import patient
from kdnas.study.space import Candidate
from kdnas.study.states import SlotState, TrialState, Wanted
from kdnas.study.time_budget import EVENT, MOST_TRIALS, RECENT, Cost, End, end_of
from kdnas.system import moments


@patient
def now(store: Store) -> float:
    """UTC seconds."""
    with store.connect() as connection:
        return clock(connection)


@patient
def present(store: Store, study_id: int) -> tuple[End | None, float]:
    """The study's end, and what time it is now."""
    with store.connect() as connection:
        return end_on(connection, study_id), clock(connection)


def end_on(connection: Connection, study_id: int) -> End | None:
    """The study's end, as part of a transaction."""
    return end_of(_spec(connection, study_id))


def _spec(connection: Connection, study_id: int) -> dict[str, Any]:
    text = connection.execute(sa.select(t.study.c.spec).where(t.study.c.study_id == study_id)).scalar_one()
    found: dict[str, Any] = json.loads(text)
    return found


@patient
def costs(store: Store, study_id: int, group: Callable[[Candidate], str]) -> list[Cost]:
    """What the last trials took; `group` says which candidates take about as long."""
    c = t.trial.c
    query = (
        sa.select(c.started, c.ended, c.candidate)
        .where(c.study_id == study_id, c.state.in_((TrialState.DONE, TrialState.PRUNED)), c.ended.is_not(None))
        .order_by(c.ended.desc(), c.number.desc())
        .limit(RECENT)
    )
    with store.connect() as connection:
        rows = connection.execute(query).all()
    return [Cost(row.ended - row.started, group(json.loads(row.candidate))) for row in rows]


@patient
def estimate(store: Store, study_id: int) -> float | None:
    """What a trial was expected to take when the study's time was set, in seconds; None where nobody knew."""
    with store.connect() as connection:
        said = changes.recorded(connection, study_id, EVENT, last=True)
    found = None if said is None else said.get("trial_s")
    return float(found) if isinstance(found, int | float) else None


@patient
def set_end(store: Store, study_id: int, until: float, trial_s: float | None = None) -> End:
    """The study's time ends then from now on; it goes on where it had ended. What it has of a number of trials still
    limits it, unless all of them are begun: then the time decides alone. `trial_s`: what a trial is expected to take.
    """
    with store.begin() as connection:
        changes.bump(connection, study_id)
        spec = _spec(connection, study_id)
        s = t.slot.c
        free = sa.select(s.slot).where(s.study_id == study_id, s.state == SlotState.FREE).limit(1)
        spent = connection.execute(free).first() is None
        before = spec["budget"].get("until")
        budget = {**spec["budget"], "hours": None, "until": moments.utc_text(until)}
        if spent:
            budget["trials"] = MOST_TRIALS
        connection.execute(
            sa.update(t.study)
            .where(t.study.c.study_id == study_id)
            .values(spec=json.dumps({**spec, "budget": budget}), finished=None, ending=None)
        )
        changes.record(connection, study_id, EVENT, detail(before, budget["until"], trial_s))
        return End(until, budget["trials"] == MOST_TRIALS)


def detail(before: str | None, until: str, trial_s: float | None) -> dict[str, Any]:
    """An entry of the history."""
    return {"from": before, "to": until, **({} if trial_s is None else {"trial_s": round(trial_s, 3)})}


@patient
def one_more(store: Store, study_id: int) -> None:
    """Makes a slot where none is free, for a study whose trials only its time limits and that is to run."""
    s, c = t.slot.c, t.study.c
    free = sa.select(s.slot).where(s.study_id == study_id, s.state == SlotState.FREE).limit(1)
    with store.connect() as connection:
        if connection.execute(free).first() is not None:
            return
    with store.begin() as connection:
        if changes.hold(connection, study_id) != Wanted.RUN or connection.execute(free).first() is not None:
            return
        changes.bump(connection, study_id)
        trials = connection.execute(sa.select(c.trials).where(c.study_id == study_id)).scalar_one()
        changes.add_slots(connection, study_id, range(trials, trials + 1))
        connection.execute(sa.update(t.study).where(c.study_id == study_id).values(trials=trials + 1))


def trim(connection: Connection, study_id: int) -> int:
    """Takes away the last slots that nobody has begun or planned, of a study that ended by its time; how many stay."""
    s = t.slot.c
    taken = sa.or_(s.state != SlotState.FREE, s.candidate.is_not(None))
    last = connection.execute(sa.select(sa.func.max(s.slot)).where(s.study_id == study_id, taken)).scalar_one()
    stay = 0 if last is None else int(last) + 1
    connection.execute(sa.delete(t.slot).where(s.study_id == study_id, s.slot >= stay))
    connection.execute(sa.update(t.study).where(t.study.c.study_id == study_id).values(trials=stay))
    return stay
