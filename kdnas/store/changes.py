"""What people change on a study: pause and stop, budget, α/β, names, marks, notes; and lines for its log.

Everything is one short transaction that workers and other screens see at their next look. Imports no Optuna.
"""

from __future__ import annotations

import functools
import json
import math
import time
from collections.abc import Iterable, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError

from kdnas.store import campaign_studies, study_remarks
from kdnas.store import tables as t
from kdnas.store.complaints import StoreError
from kdnas.store.database import Store
from kdnas.store.notices import News, channel, notify
from kdnas.store.patience import patient
from kdnas.study.constraints import EVENT, PART
from kdnas.study.plain_values import unwritable
from kdnas.study.spec import NAME
from kdnas.study.spec_constraints import ConstraintsSpec
from kdnas.study.spec_part import FLOOR
from kdnas.study.states import SlotState, Wanted
from kdnas.study.time_budget import end_of
from kdnas.system.errors import BadOptionError, UsageError


def gone() -> StoreError:
    return StoreError("The study was deleted.", "Begin another one.")


def bump(connection: Connection, study_id: int, news: News | None = None, **columns: Any) -> int:
    """The study's next revision, and other columns of its row; those who listen are told of the news.

    First statement of a writing transaction: on PostgreSQL it also makes writers of one study wait for each other, so
    that revisions are committed in their order. Raises StoreError for a study that is gone."""
    told = news is not None and connection.dialect.name == "postgresql"
    given = {"of_study": study_id, "at": time.time()} | ({"channel": channel(study_id, news)} if news and told else {})
    statement = _next_revision(told)
    new = connection.execute(statement.values(**columns) if columns else statement, given).scalar_one_or_none()
    if new is None:
        raise gone()
    return int(new)


@functools.cache
def _next_revision(told: bool) -> Any:
    """Made once: that takes longer than to run it. `told`: it also tells those who listen."""
    c = t.study.c
    notice = (sa.func.pg_notify(sa.bindparam("channel"), ""),) if told else ()
    made = sa.update(t.study).where(c.study_id == sa.bindparam("of_study"))
    return made.values(revision=c.revision + 1, updated=sa.bindparam("at")).returning(c.revision, *notice)


def hold(connection: Connection, study_id: int) -> Wanted:
    """What people want of the study's workers, in a transaction that may yet find nothing to write: until its end
    nobody else writes to the study. Raises StoreError for a study that is gone."""
    c = t.study.c
    query = sa.select(c.wanted).where(c.study_id == study_id).with_for_update()
    wanted = connection.execute(query).scalar_one_or_none()
    if wanted is None:
        raise gone()
    return Wanted(wanted)


@patient
def set_wanted(store: Store, study_id: int, wanted: str) -> None:
    """Lets the workers know at their next look. Raises ValueError for what is no Wanted."""
    wanted = Wanted(wanted)
    with store.begin() as connection:
        bump(connection, study_id)
        c = t.study.c
        before = connection.execute(sa.select(c.wanted).where(c.study_id == study_id)).scalar_one()
        if before != wanted:
            connection.execute(sa.update(t.study).where(c.study_id == study_id).values(wanted=wanted))
            record(connection, study_id, "wanted", {"from": before, "to": wanted})


@patient
def set_trials(store: Store, study_id: int, trials: int) -> None:
    """A new budget. Raising it opens a finished study again; it cannot fall below what has begun or is planned."""
    if not 1 <= trials <= 1_000_000:
        raise BadOptionError("budget.trials", f"{trials} trials is out of range.", "Give 1 to 1,000,000.")
    with store.begin() as connection:
        bump(connection, study_id)
        row = connection.execute(
            sa.select(t.study.c.trials, t.study.c.spec).where(t.study.c.study_id == study_id)
        ).one()
        before, limited = row.trials, with_trials(row.spec, trials)
        if trials == before and limited is None:
            return
        s = t.slot.c
        taken = connection.execute(
            sa.select(sa.func.max(s.slot)).where(
                s.study_id == study_id, sa.or_(s.state != SlotState.FREE, s.candidate.is_not(None))
            )
        ).scalar_one()
        least = 0 if taken is None else taken + 1
        if trials < least:
            raise BadOptionError(
                "budget.trials",
                f"The budget cannot be {trials}: {least} trials are finished, running or planned.",
                f"Give at least {least}.",
            )
        connection.execute(sa.delete(t.slot).where(s.study_id == study_id, s.slot >= trials))
        add_slots(connection, study_id, range(before, trials))
        again = {"finished": None, "ending": None} if trials > before else {}
        connection.execute(
            sa.update(t.study)
            .where(t.study.c.study_id == study_id)
            .values(trials=trials, **again, **({} if limited is None else {"spec": limited}))
        )
        record(connection, study_id, "budget", {"from": before, "to": trials})


def with_trials(spec: str, trials: int) -> str | None:
    """The stored spec of a study that only its time limited, now that a number of trials does, too; None where any
    other's stays as it is."""
    values = json.loads(spec)
    end = end_of(values)
    if end is None or not end.open:
        return None
    return json.dumps({**values, "budget": {**values["budget"], "trials": trials}})


def add_slots(connection: Connection, study_id: int, slots: Iterable[int]) -> None:
    rows = [{"study_id": study_id, "slot": slot, "state": SlotState.FREE, "attempts": 0} for slot in slots]
    if rows:
        connection.execute(t.slot.insert(), rows)


@patient
def set_reward(store: Store, study_id: int, alpha: float, beta: float) -> None:
    """α/β with which trials are told from now on; finished ones keep what they were told with beside their figures."""
    if not (math.isfinite(alpha) and -2 <= alpha <= 0):
        raise BadOptionError("reward.alpha", f"α = {alpha:g} is out of range.", "Give −2 to 0.")
    if not (math.isfinite(beta) and FLOOR <= beta <= 10):
        raise BadOptionError("reward.beta", f"β = {beta:g} is out of range.", f"Give {FLOOR:g} to 10.")
    with store.begin() as connection:
        bump(connection, study_id)
        c = t.study.c
        before = connection.execute(sa.select(c.alpha, c.beta).where(c.study_id == study_id)).one()
        if (before.alpha, before.beta) == (alpha, beta):
            return
        connection.execute(sa.update(t.study).where(c.study_id == study_id).values(alpha=alpha, beta=beta))
        change = {"from": {"alpha": before.alpha, "beta": before.beta}, "to": {"alpha": alpha, "beta": beta}}
        record(connection, study_id, "reward", change)


@patient
def set_constraints(store: Store, study_id: int, constraints: ConstraintsSpec) -> None:
    """The constraints from now on, of finished trials, too. They stand in the study's spec, so that all that reads it
    knows of them; its history says what they were."""
    new = constraints.model_dump(mode="json")
    with store.begin() as connection:
        bump(connection, study_id)
        c = t.study.c
        spec = json.loads(connection.execute(sa.select(c.spec).where(c.study_id == study_id)).scalar_one())
        before = spec.get(PART) or dict.fromkeys(new)
        if before == new:
            return
        # A study that ended because constraints left nothing to propose goes on with its free slots.
        free = sa.select(t.slot.c.slot).where(t.slot.c.study_id == study_id, t.slot.c.state == SlotState.FREE).limit(1)
        again = {} if connection.execute(free).first() is None else {"finished": None, "ending": None}
        connection.execute(
            sa.update(t.study).where(c.study_id == study_id).values(spec=json.dumps({**spec, PART: new}), **again)
        )
        record(connection, study_id, EVENT, {"from": before, "to": new})


@patient
def set_remark(
    store: Store,
    study_id: int,
    number: int,
    *,
    marked: bool | None = None,
    tags: Iterable[str] | None = None,
    note: str | None = None,
) -> None:
    """Mark, tag or annotate a trial; what is None stays as it is. A tag is one word."""
    words = None if tags is None else list(dict.fromkeys(tags))
    for word in words or ():
        if not word or word.split() != [word]:
            raise BadOptionError("tags", f"The tag {word!r} is not one word.", "Write it without spaces.")
    with store.begin() as connection:
        revision = bump(connection, study_id)
        stamped = connection.execute(
            sa.update(t.trial)
            .where(t.trial.c.study_id == study_id, t.trial.c.number == number)
            .values(revision=revision)
        ).rowcount
        if not stamped:
            raise UsageError(f"The study has no trial {number}.", "See `kdnas show` for its trials.")
        here = sa.and_(t.remark.c.study_id == study_id, t.remark.c.number == number)
        row = connection.execute(sa.select(t.remark).where(here)).first()
        if row is None:
            connection.execute(
                t.remark.insert().values(
                    study_id=study_id,
                    number=number,
                    marked=bool(marked),
                    tags=" ".join(words or ()),
                    note=note or "",
                )
            )
            return
        connection.execute(
            sa.update(t.remark)
            .where(here)
            .values(
                marked=row.marked if marked is None else marked,
                tags=row.tags if words is None else " ".join(words),
                note=row.note if note is None else note,
            )
        )


@patient
def set_study_tags(
    store: Store, study_id: int, *, add: Iterable[str] = (), remove: Iterable[str] = ()
) -> tuple[str, ...]:
    """The study's tags afterwards, in the order in which they were added. Raises BadOptionError for a tag that is not
    one word, UsageError for one to remove that the study has not."""
    new, gone = list(dict.fromkeys(add)), list(dict.fromkeys(remove))
    for word in new:
        require_tag(word)
    with store.begin() as connection:
        bump(connection, study_id)
        before = study_remarks.tags(connection, study_id)
        for word in gone:
            if word not in before:
                known = f"It has: {' '.join(before)}." if before else "It has none."
                raise UsageError(f"The study has no tag {word!r}.", known)
        after = tuple(word for word in dict.fromkeys((*before, *new)) if word not in gone)
        study_remarks.put(connection, study_id, study_remarks.TAGS, list(after))
        return after


@patient
def replace_study_tags(store: Store, study_id: int, tags: Iterable[str]) -> None:
    """These tags instead of those that the study has. Raises BadOptionError."""
    words = list(dict.fromkeys(tags))
    for word in words:
        require_tag(word)
    with store.begin() as connection:
        bump(connection, study_id)
        study_remarks.put(connection, study_id, study_remarks.TAGS, words)


@patient
def set_study_note(store: Store, study_id: int, note: str) -> None:
    """The study's note; an empty one takes it away. Raises BadOptionError for text that no store can take."""
    if (wrong := unwritable(note)) is not None:
        raise BadOptionError("note", f"The note {wrong}.", "Write it in UTF-8.")
    with store.begin() as connection:
        bump(connection, study_id)
        study_remarks.put(connection, study_id, study_remarks.NOTE, note)


def require_tag(word: str) -> None:
    """Raises BadOptionError for what is not one word that can be seen and typed."""
    if not word or word.split() != [word] or not word.isprintable():
        raise BadOptionError("tags", f"The tag {word!r} is not one word.", "Write it without blanks, as in good-one.")


def rename(store: Store, study_id: int, name: str) -> None:
    """Another name for the study, in our tables and in Optuna's; a campaign that it is a member of follows. Raises
    UsageError where the name is taken or not plain, and while that campaign runs."""
    if not NAME.fullmatch(name):
        raise BadOptionError(
            "name",
            f"The name {name!r} does not fit.",
            "Use 1 to 80 letters, digits, dots, dashes and underscores, a letter or digit first.",
        )
    with store.begin() as connection:
        bump(connection, study_id)
        c = t.study.c
        row = connection.execute(sa.select(c.name, c.spec).where(c.study_id == study_id)).one()
        if name == row.name:
            return
        campaign_studies.follow(connection, study_id, name)
        spec = json.loads(row.spec) | {"name": name}
        try:
            connection.execute(
                sa.update(t.study).where(c.study_id == study_id).values(name=name, spec=json.dumps(spec))
            )
            connection.execute(
                sa.text("UPDATE studies SET study_name = :name WHERE study_id = :id"), {"name": name, "id": study_id}
            )
        except IntegrityError:
            raise UsageError(f"There is a study {name!r} already.", "Choose another name.") from None
        record(connection, study_id, "renamed", {"from": row.name, "to": name})


@patient
def add_log(store: Store, study_id: int, level: str, line: str, worker_id: int | None = None) -> None:
    """One line for the study's log; level: debug, info, warning or error."""
    with store.begin() as connection:
        connection.execute(
            t.log.insert().values(
                study_id=study_id, worker_id=worker_id, time=time.time(), level=level, line=line.strip()
            )
        )


@patient
def add_event(store: Store, study_id: int, kind: str, detail: Mapping[str, Any]) -> None:
    """One entry of the study's history."""
    with store.begin() as connection:
        bump(connection, study_id)
        record(connection, study_id, kind, detail)


def recorded(connection: Connection, study_id: int, kind: str, *, last: bool = False) -> Any:
    """What the first entry of the kind in the study's history says, or the last; None where it has none."""
    e = t.event.c
    order = e.event_id.desc() if last else e.event_id
    query = sa.select(e.detail).where(e.study_id == study_id, e.kind == kind).order_by(order).limit(1)
    detail = connection.execute(query).scalar_one_or_none()
    return None if detail is None else json.loads(detail)


def record(connection: Connection, study_id: int, kind: str, detail: Mapping[str, Any]) -> None:
    """An entry of the study's history as part of the transaction that changes it; its workers are told."""
    connection.execute(
        t.event.insert().values(study_id=study_id, time=time.time(), kind=kind, detail=json.dumps(dict(detail)))
    )
    notify(connection, study_id, News.WISH)
