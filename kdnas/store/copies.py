"""Copies studies from one store to another, with all that both sides keep of them: backups, and what brings them back.

What is read is one moment of the source, whatever its workers do meanwhile. In the copy nobody is at work: its first
worker takes up what was running, as after a death.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from optuna.storages._rdb.models import BaseModel
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DataError

from kdnas.store import campaign_studies, sound_rows
from kdnas.store import tables as t
from kdnas.store.database import Store
from kdnas.store.optuna_storage import optuna_storage, put_away
from kdnas.study.states import AT_WORK, RunState, WorkerState
from kdnas.system.errors import UsageError, first_line, nearest

ROWS = 1000  # read and written at once
OPTUNAS: Mapping[str, sa.Table] = BaseModel.metadata.tables
OF_TRIALS = (
    *("trial_params", "trial_values", "trial_intermediate_values"),
    *("trial_user_attributes", "trial_system_attributes"),
)
OF_STUDY = ("study_directions", "study_user_attributes", "study_system_attributes")
OURS = (t.slot, t.trial, t.curve, t.repeat, t.remark, t.episode, t.event, t.log, t.run)


def copy(source: Store, target: Store, names: Sequence[str] | None = None) -> list[str]:
    """The names of the studies that were copied: those of `names`, or all. A campaign comes with the studies of its
    members. Raises UsageError, and copies nothing, where the source has one not or the target has one already, and
    where a row of the source holds what its table has no place for."""
    put_away(optuna_storage(target))
    with source.connect() as reading, target.begin() as writing, _damage_told(source.place):
        if not source.is_sqlite:
            reading.execution_options(isolation_level="REPEATABLE READ")
        there = list(reading.execute(sa.select(t.study.c.name).order_by(t.study.c.study_id)).scalars())
        taken = set(writing.execute(sa.select(t.study.c.name)).scalars())
        taken |= set(writing.execute(sa.select(OPTUNAS["studies"].c.study_name)).scalars())
        chosen = there if names is None else list(dict.fromkeys(names))
        for name in chosen:
            if name not in there:
                raise UsageError(f"There is no study {name!r} in {source.place}.", nearest(name, there))
            if name in taken:
                raise UsageError(f"There is a study {name!r} in {target.place} already.", "Rename or delete it first.")
        in_use = campaign_studies.names_in_use(writing)
        for name in chosen:
            _copy_study(reading, writing, name)
        _copy_campaigns(reading, writing, target.place, set(chosen), names is None)
        campaign_studies.require_none_of(chosen, in_use)
        _copy_latencies(reading, writing)
    return chosen


@contextlib.contextmanager
def _damage_told(place: str) -> Iterator[None]:
    """What rows of the source make of whoever reads them, or of the tables that they are written to, is a line."""
    try:
        yield
    except (LookupError, ValueError, TypeError, DataError) as error:
        said = first_line(getattr(error, "orig", None) or error)
        raise _damaged(place, said) from error


def _damaged(place: str, said: str) -> UsageError:
    return UsageError(
        f"The store {place} is damaged: {said}.", "Nothing was copied. Name the studies that are whole, one by one."
    )


def _require_sound(table: sa.Table, row: Any) -> None:
    """Raises ValueError."""
    wrong = sound_rows.fault(table, row._mapping)
    if wrong is not None:
        raise ValueError(f"in a row of {table.name}, {wrong}")


def _copy_study(reading: Connection, writing: Connection, name: str) -> None:
    own = reading.execute(sa.select(t.study).where(t.study.c.name == name)).one()
    _require_sound(t.study, own)
    old = own.study_id
    studies, trials = OPTUNAS["studies"], OPTUNAS["trials"]
    new = writing.execute(studies.insert().values(study_name=name).returning(studies.c.study_id)).scalar_one()
    _copy_rows(reading, writing, trials, trials.c.study_id == old, {"study_id": new}, without="trial_id")
    ids = sa.select(trials.c.number, trials.c.trial_id)
    by_number = {row.number: row.trial_id for row in writing.execute(ids.where(trials.c.study_id == new))}
    trial_ids = {row.trial_id: by_number[row.number] for row in reading.execute(ids.where(trials.c.study_id == old))}
    for table in (OPTUNAS[name] for name in OF_STUDY):
        _copy_rows(reading, writing, table, table.c.study_id == old, {"study_id": new}, trial_ids=trial_ids)
    mine = sa.select(trials.c.trial_id).where(trials.c.study_id == old)
    for table in (OPTUNAS[name] for name in OF_TRIALS):
        _copy_rows(reading, writing, table, table.c.trial_id.in_(mine), {}, trial_ids=trial_ids)
    writing.execute(t.study.insert().values(**{**own._mapping, "study_id": new}))
    worker_ids = {None: None}
    for worker in reading.execute(sa.select(t.worker).where(t.worker.c.study_id == old).order_by(t.worker.c.worker_id)):
        _require_sound(t.worker, worker)
        values: dict[str, Any] = {**worker._mapping, "study_id": new, "lock": None}
        if values["state"] in AT_WORK:  # at work on another store
            values |= {"state": WorkerState.DEAD, "doing": None, "ended": values["heartbeat"]}
        del values["worker_id"]
        made = t.worker.insert().values(**values).returning(t.worker.c.worker_id)
        worker_ids[worker.worker_id] = writing.execute(made).scalar_one()
    for table in OURS:
        _copy_rows(reading, writing, table, table.c.study_id == old, {"study_id": new}, worker_ids=worker_ids)
    # A distillation or an evaluation that runs there does not run here.
    here = sa.and_(t.run.c.study_id == new, t.run.c.state == RunState.RUNNING)
    writing.execute(sa.update(t.run).where(here).values(state=RunState.FAILED, error="It ran when this was copied."))


def _copy_campaigns(reading: Connection, writing: Connection, place: str, studies: set[str], every: bool) -> None:
    """Campaigns of which `studies` has all that have begun, or every one. In the copy nobody runs them."""
    if not sa.inspect(reading).has_table(t.campaign.name):  # a store of before there were any
        return
    taken = set(writing.execute(sa.select(t.campaign.c.name)).scalars())
    ids: Mapping[str, int] = {
        row.name: row.study_id for row in writing.execute(sa.select(t.study.c.name, t.study.c.study_id))
    }
    m = t.campaign_member.c
    for own in reading.execute(sa.select(t.campaign).order_by(t.campaign.c.campaign_id)).all():
        of = reading.execute(sa.select(t.campaign_member).where(m.campaign_id == own.campaign_id)).all()
        begun = {member.study for member in of if member.study_id is not None}
        if not every and not (begun and begun <= studies):
            continue
        if own.name in taken:
            raise UsageError(f"There is a campaign {own.name!r} in {place} already.", "Delete it first.")
        _require_sound(t.campaign, own)
        values = {**own._mapping, "host": None, "pid": None, "lock": None}
        del values["campaign_id"]
        made = t.campaign.insert().values(**values).returning(t.campaign.c.campaign_id)
        new = writing.execute(made).scalar_one()
        for member in of:
            _require_sound(t.campaign_member, member)
            known = ids.get(member.study) if member.study_id is not None else None
            row = {**member._mapping, "campaign_id": new, "study_id": known}
            writing.execute(t.campaign_member.insert().values(**row))
        for table in (t.campaign_score, t.campaign_decision):
            _copy_rows(reading, writing, table, table.c.campaign_id == own.campaign_id, {"campaign_id": new})


def _copy_rows(
    reading: Connection,
    writing: Connection,
    table: sa.Table,
    those: sa.ColumnElement[bool],
    changes: Mapping[str, Any],
    *,
    without: str | None = None,
    trial_ids: Mapping[int, int] | None = None,
    worker_ids: Mapping[Any, Any] | None = None,
) -> None:
    """Rows of one table with other numbers; keys that the database counts are counted anew."""
    keys = list(table.primary_key)
    counted = keys[0].name if len(keys) == 1 and keys[0].autoincrement is not False else without
    order = sorted(table.primary_key, key=lambda column: column.name)
    for part in reading.execute(sa.select(table).where(those).order_by(*order)).partitions(ROWS):
        rows = []
        for row in part:
            _require_sound(table, row)
            values = {**row._mapping, **changes}
            values.pop(counted or "", None)
            if trial_ids is not None and "trial_id" in values:
                values["trial_id"] = trial_ids[values["trial_id"]]
            if trial_ids is not None and ":parent:" in str(values.get("key")):  # NSGA-II's parents, by their numbers
                values["value_json"] = json.dumps([trial_ids[one] for one in json.loads(values["value_json"])])
            if worker_ids is not None and "worker_id" in values:
                values["worker_id"] = worker_ids.get(values["worker_id"])
            rows.append(values)
        writing.execute(table.insert(), rows)


def _copy_latencies(reading: Connection, writing: Connection) -> None:
    """Shapes that were measured; what the target knows stays."""
    c = t.latency.c
    known = {tuple(row) for row in writing.execute(sa.select(c.device, c.protocol, c.shape))}
    found = reading.execute(sa.select(t.latency)).all()
    for each in found:
        _require_sound(t.latency, each)
    rows = [row._mapping for row in found]
    new = [dict(row) for row in rows if (row["device"], row["protocol"], row["shape"]) not in known]
    if new:
        writing.execute(t.latency.insert(), new)
