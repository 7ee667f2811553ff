"""Whether a store is whole: the file, the version, and for each study whether both sides tell the same. Looks only.

What a death leaves half done is no damage: the next worker puts it right, and a finding says so.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from kdnas.store import migration, queries
from kdnas.store import tables as t
from kdnas.store.complaints import StoreError
from kdnas.store.database import Store, open_reader
from kdnas.store.sound_rows import fault
from kdnas.study.rows import StudyRow
from kdnas.study.spec_part import FLOOR
from kdnas.study.states import ENDED_SLOTS, SlotState, TrialState
from kdnas.system.errors import KdnasError

SETTLED = (*sorted(ENDED_SLOTS), SlotState.WAITING)  # states that a slot and its trial are in together
THEIRS = {TrialState.DONE: "COMPLETE", TrialState.PRUNED: "PRUNED", TrialState.FAILED: "FAIL"}
THEIRS |= {TrialState.REUSED: "COMPLETE", TrialState.LOST: "FAIL"}


@dataclass(frozen=True)
class Found:
    """`damaged` needs somebody; `unfinished` puts itself right at the next look of a worker."""

    state: Literal["whole", "unfinished", "damaged"]
    what: str
    hint: str = ""


def damage_of(place: str) -> StoreError | None:
    """What is wrong with a row of the store, for whoever may have fallen over it; None where all hold what their
    columns say, or nobody can look."""
    with contextlib.suppress(KdnasError), open_reader(place) as store, store.connect() as connection:
        there = set(sa.inspect(connection).get_table_names())
        for found in _rows(connection, {name: table for name, table in t.metadata.tables.items() if name in there}):
            return StoreError(f"The store {store.place} is damaged: {found.what}.", found.hint)
    return None


def check(store: Store) -> Iterator[Found]:
    """What is found of the store, the file first. Raises StoreError where it cannot be read at all."""
    with store.connect() as connection:
        yield from _file(store, connection)
        version = migration.version_of(connection, store.place)
        ours = {name: table for name, table in t.metadata.tables.items() if t.SINCE.get(name, 1) <= version}
        missing = sorted(set(ours) - set(sa.inspect(connection).get_table_names()))
        if missing:
            yield Found("damaged", f"tables are missing: {', '.join(missing)}", "Restore a backup of the store.")
            return
        theirs = sa.inspect(connection).has_table("trials") and sa.inspect(connection).has_table("studies")
        odd = list(_rows(connection, ours))
    if version < t.SCHEMA_VERSION:
        yield Found("unfinished", f"its tables are of version {version}", "The next command that writes migrates them.")
    yield from odd
    try:
        rows = queries.study_rows(store)
    except (TypeError, ValueError, LookupError):
        if odd:  # which has been said; of such rows there is no more to tell
            return
        raise
    for row in rows:
        with store.connect() as connection:
            found = list(_study(connection, row, theirs))
        yield from found or [Found("whole", f"{row.name}: {row.done} of {row.trials} trials, {row.status}")]
    if theirs:
        with store.connect() as connection:
            yield from _nameless(connection)


def _file(store: Store, connection: Connection) -> Iterator[Found]:
    if not store.is_sqlite:
        return
    said = [str(row[0]) for row in connection.exec_driver_sql("PRAGMA integrity_check(5)")]
    if said != ["ok"]:
        hint = "Copy the file, then try `sqlite3 FILE .recover` on the copy, or restore a backup."
        yield Found("damaged", f"{store.place}: {said[0]}", hint)
    broken = connection.exec_driver_sql("PRAGMA foreign_key_check").fetchall()
    if broken:
        names = ", ".join(sorted({str(row[0]) for row in broken}))
        yield Found("damaged", f"{len(broken)} rows belong to nothing, in {names}", "Restore a backup of the store.")
    if said == ["ok"] and not broken:
        yield Found("whole", f"{store.place}, every page and key")


def _rows(connection: Connection, ours: Mapping[str, sa.Table]) -> Iterator[Found]:
    """Tables with rows that hold what no such column holds."""
    for table in ours.values():
        wrong = [said for row in connection.execute(sa.select(table)) if (said := fault(table, row._mapping))]
        if wrong:
            what = f"{len(wrong)} row(s) of {table.name} are damaged: in the first, {wrong[0]}"
            yield Found("damaged", what, "Restore a backup of the store, or delete the study.")


def _study(connection: Connection, row: StudyRow, theirs: bool) -> Iterator[Found]:
    name, s, c = row.name, t.slot.c, t.trial.c
    if "unreadable" in row.spec:
        yield Found("damaged", f"{name}: its spec cannot be read", f"`kdnas delete {name}`, or restore a backup.")
    if not (-2 <= row.alpha <= 0 and FLOOR <= row.beta <= 10):
        hint = f"`kdnas rescore {name} --alpha -0.06 --beta 0.6 --use` sets others."
        yield Found("damaged", f"{name}: α {row.alpha:g} and β {row.beta:g} are out of bounds", hint)
    slots = connection.execute(sa.select(sa.func.count()).where(s.study_id == row.study_id)).scalar_one()
    if slots != row.trials:
        hint = f"`kdnas backup {name} FILE` saves what is there; restore an older backup where there is one."
        yield Found("damaged", f"{name}: {slots} slots for a budget of {row.trials}", hint)
    joined = sa.outerjoin(t.slot, t.trial, sa.and_(c.study_id == s.study_id, c.number == s.trial))
    ended = sa.select(s.slot).select_from(joined).where(s.study_id == row.study_id, s.state.in_(SETTLED))
    torn = list(
        connection.execute(ended.where(sa.or_(c.state.is_(None), c.state != s.state)).order_by(s.slot)).scalars()
    )
    if torn:
        listed = ", ".join(map(str, torn[:5])) + (" …" if len(torn) > 5 else "")
        yield Found("damaged", f"{name}: slots whose trials say something else: {listed}", "Restore a backup.")
    held = sa.select(sa.func.count()).where(s.study_id == row.study_id, s.state == SlotState.RUNNING)
    orphans = connection.execute(held).scalar_one() - row.running
    if orphans > 0:
        hint = f"`kdnas resume {name}` evaluates them again."
        yield Found("unfinished", f"{name}: {orphans} trials whose worker has died", hint)
    if not theirs:
        yield Found("damaged", f"{name}: Optuna's tables are gone", f"`kdnas delete {name}`, or restore a backup.")
    else:
        yield from _sides(connection, row)


def _sides(connection: Connection, row: StudyRow) -> Iterator[Found]:
    """Our rows beside Optuna's."""
    known = connection.execute(sa.text("SELECT study_name FROM studies WHERE study_id = :id"), {"id": row.study_id})
    if known.scalar_one_or_none() != row.name:
        hint = f"`kdnas delete {row.name}`, or restore a backup."
        yield Found("damaged", f"{row.name}: Optuna's tables do not know it", hint)
        return
    listed = connection.execute(sa.text("SELECT number, state FROM trials WHERE study_id = :id"), {"id": row.study_id})
    theirs = {number: str(state) for number, state in listed}
    c = t.trial.c
    ours = dict(connection.execute(sa.select(c.number, c.state).where(c.study_id == row.study_id)).all())
    untold = [n for n, state in ours.items() if state in THEIRS and theirs.get(n) == "RUNNING"]
    if untold:
        hint = f"The next worker tells it: `kdnas resume {row.name}`."
        yield Found("unfinished", f"{row.name}: Optuna does not know yet how {len(untold)} trials ended", hint)
    wrong = [n for n, state in ours.items() if state in THEIRS and theirs.get(n) not in (THEIRS[state], "RUNNING")]
    if wrong:
        yield Found("damaged", f"{row.name}: Optuna says otherwise of trials {wrong[:5]}", "Restore a backup.")


def _nameless(connection: Connection) -> Iterator[Found]:
    query = (
        "SELECT study_name FROM studies WHERE study_id NOT IN (SELECT study_id FROM kdnas_study) ORDER BY study_name"
    )
    for name in connection.execute(sa.text(query)).scalars():
        hint = "Beginning a study of that name takes it over; where another program keeps it here, let it be."
        yield Found("unfinished", f"{name}: begun in Optuna's tables only", hint)
