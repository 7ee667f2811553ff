"""Long jobs on one candidate or folder as rows that screens watch: full distillation and task scores.

Plain SQL; runs nothing. A job taken up again keeps its row.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from kdnas.store import tables
from kdnas.store.changes import bump
from kdnas.store.database import Store
from kdnas.store.patience import patient
from kdnas.study.states import RunState


@patient
def begin(
    store: Store, study_id: int, kind: str, folder: str, *, number: int | None = None, worker_id: int | None = None
) -> int:
    """The row of a job that starts now; an unfinished one of the same kind and folder is taken up again."""
    run = tables.run
    now = time.time()
    with store.begin() as connection:
        bump(connection, study_id)
        found = connection.execute(
            sa.select(run.c.run_id)
            .where(run.c.study_id == study_id, run.c.kind == kind, run.c.folder == folder, run.c.state != RunState.DONE)
            .order_by(run.c.run_id.desc())
            .limit(1)
        ).scalar()
        fresh = {"state": RunState.RUNNING, "doing": "starting", "error": None, "ended": None, "worker_id": worker_id}
        if found is not None:
            connection.execute(run.update().where(run.c.run_id == found).values(number=number, **fresh))
            run_id = int(found)
        else:
            added = connection.execute(
                run.insert().values(
                    study_id=study_id, kind=kind, number=number, folder=folder, progress=0.0, started=now, **fresh
                )
            )
            key = added.inserted_primary_key
            assert key is not None
            run_id = int(key[0])
    return run_id


def progress(store: Store, run_id: int, share: float, doing: str, result: Mapping[str, Any] | None = None) -> None:
    """How far a job is (0 … 1), what it is at, and, where given, what it has found so far."""
    values: dict[str, Any] = {"progress": min(1.0, max(0.0, share)), "doing": doing}
    if result is not None:
        values["result"] = json.dumps(result)
    _change(store, run_id, values)


def end(store: Store, run_id: int, result: Mapping[str, Any]) -> None:
    """A job that has done what it was for."""
    done = {"state": RunState.DONE, "progress": 1.0, "doing": None, "error": None, "ended": time.time()}
    _change(store, run_id, {**done, "result": json.dumps(result)})


def fail(store: Store, run_id: int, error: str) -> None:
    """A job that ended with an error, which people read; it can be taken up again."""
    _change(store, run_id, {"state": RunState.FAILED, "error": error, "ended": time.time()})


@patient
def _change(store: Store, run_id: int, values: Mapping[str, Any]) -> None:
    run = tables.run
    with store.begin() as connection:
        study_id = connection.execute(sa.select(run.c.study_id).where(run.c.run_id == run_id)).scalar()
        if study_id is None:
            return  # the study was deleted meanwhile; the job goes on for its folder's sake
        bump(connection, study_id)
        connection.execute(run.update().where(run.c.run_id == run_id).values(**values))
