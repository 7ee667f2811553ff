"""Begins and deletes studies: Optuna's study and our rows for it, under one number and one name."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import sqlalchemy as sa
from optuna.exceptions import DuplicatedStudyError

from kdnas.store import campaign_studies, changes, lending, optuna_storage, queries
from kdnas.store import tables as t
from kdnas.store.database import Store, clock, clock_column, creation_lock
from kdnas.store.notices import News, notify
from kdnas.store.patience import patient
from kdnas.study.ground import SOURCE, ground_of, require_same_ground
from kdnas.study.loan import Lender
from kdnas.study.space import Candidate
from kdnas.study.spec import StudySpec, from_values
from kdnas.study.spec_differences import differences
from kdnas.study.states import Wanted, WorkerState
from kdnas.study.time_budget import end_of
from kdnas.system import liveness
from kdnas.system.errors import UsageError


def create_study(store: Store, spec: StudySpec, *, enqueue: Sequence[Candidate] = ()) -> int:
    """The study's number in the store; the study is begun where it does not exist, `enqueue` evaluated first.

    Raises UsageError for the name of a campaign, and where one of that name was begun with another spec, with what
    differs. What a begun study
    may change (budget, α, β, device) is not compared, and not changed here.
    """
    for _ in range(2):
        found = _find(store, spec.name)
        if found is not None:
            if enqueue:
                raise UsageError(f"There is a study {spec.name!r} already.", "Choose another name.")
            _require_same(found, spec)
            return int(found.study_id)
        with store.look() as connection:
            campaign_studies.require_no_campaign(connection, spec.name)
        study_id = _begin(store, spec, enqueue)
        if study_id is not None:
            return study_id
    raise UsageError(f"Somebody else began a study {spec.name!r} at this moment.", "Try again.")


def delete_study(store: Store, name: str) -> None:
    """Removes a study with all its trials from Optuna's tables and ours, in one transaction. Raises UsageError while a
    worker lives, and for a member of a campaign that has not ended."""
    row = queries.study_row(store, name)
    if row.workers:
        raise UsageError(
            f"The study {name!r} has {row.workers} running worker{'s' if row.workers > 1 else ''}.",
            f"Stop it first: kdnas stop {name}.",
        )
    with store.begin() as connection:
        campaign_studies.require_dispensable(connection, row.study_id)
        connection.execute(sa.delete(t.study).where(t.study.c.study_id == row.study_id))
        notify(connection, row.study_id, News.WISH)
        optuna_storage.delete_rows(connection, name)


def _find(store: Store, name: str) -> Any:
    with store.connect() as connection:
        return connection.execute(sa.select(t.study).where(t.study.c.name == name)).first()


def _require_same(found: Any, spec: StudySpec) -> None:
    differing = differences(from_values(json.loads(found.spec)), spec)
    if differing:
        refuse_other_spec(spec.name, differing)


def refuse_other_spec(name: str, differing: Mapping[str, tuple[object, object]]) -> NoReturn:
    """Raises UsageError: what differs between the spec that a study was begun with and the one that is asked for."""
    listed = "; ".join(f"{field} is {old!r}, asked for {new!r}" for field, (old, new) in differing.items())
    raise UsageError(
        f"The study {name!r} was begun with another spec: {listed}.",
        "Give the study another name, or leave these as they were.",
    )


def _begin(store: Store, spec: StudySpec, enqueue: Sequence[Candidate]) -> int | None:
    """None where another process was faster."""
    storage = optuna_storage.optuna_storage(store)
    with optuna_storage.explained(store), optuna_storage.hushed():
        try:
            study_id = storage.create_new_study(optuna_storage.directions(spec), spec.name)
        except DuplicatedStudyError:
            # Left by a process that died between Optuna's rows and ours, or about to get ours from one that lives.
            study_id = storage.get_study_id_from_name(spec.name)
            if storage.get_study_directions(study_id) != optuna_storage.directions(spec):
                storage.delete_study(study_id)
                return None
        finally:
            storage.engine.dispose()
    now = time.time()
    end = end_of(spec.model_dump(mode="json"))
    trials = len(enqueue) if end is not None and end.open else max(spec.budget.trials, len(enqueue))
    with creation_lock(store), store.begin() as connection:  # two may have found Optuna's row at the same moment
        if connection.execute(sa.select(t.study.c.name).where(t.study.c.study_id == study_id)).first() is not None:
            return None
        connection.execute(
            t.study.insert().values(
                study_id=study_id,
                name=spec.name,
                spec=spec.model_dump_json(),
                trials=trials,
                alpha=spec.reward.alpha,
                beta=spec.reward.beta,
                wanted=Wanted.RUN,
                revision=0,
                created=now,
                updated=now,
            )
        )
        changes.add_slots(connection, study_id, range(trials))
        for slot, candidate in enumerate(enqueue):
            connection.execute(
                sa.update(t.slot)
                .where(t.slot.c.study_id == study_id, t.slot.c.slot == slot)
                .values(candidate=json.dumps(candidate), origin="enqueued")
            )
        changes.record(connection, study_id, "created", {"spec": spec.model_dump(mode="json")})
    return study_id


# ---------------------------------------------------------------------------- workers


def enter(store: Store, study_id: int, *, lock: str | None, device: str | None, task: str) -> int:
    """A row for this process among the study's workers; its number."""
    with store.begin() as connection:
        changes.bump(connection, study_id)
        now = clock(connection)
        return int(
            connection.execute(
                t.worker.insert()
                .values(
                    study_id=study_id,
                    host=liveness.this_host(),
                    pid=os.getpid(),
                    lock=lock,
                    device=device,
                    state=WorkerState.STARTING,
                    task=task,
                    started=now,
                    heartbeat=now,
                )
                .returning(t.worker.c.worker_id)
            ).scalar_one()
        )


def beat(
    store: Store, study_id: int, worker_id: int, *, state: str, doing: str | None, device: str | None, news: bool
) -> None:
    """The worker lives, and this is what it does. `news`: that is a revision of the study, as another state is. All
    else screens see when they next look at its workers, so that hundreds of these need not queue to say that they
    live. Raises StoreError for a study that is gone."""
    with store.begin() as connection:
        if news:
            changes.bump(connection, study_id)
        values = {"heartbeat": clock_column(connection.dialect.name), "state": state, "doing": doing, "device": device}
        mine = sa.update(t.worker).where(t.worker.c.worker_id == worker_id)
        if not connection.execute(mine.values(**values)).rowcount:
            raise changes.gone()


def leave(
    store: Store, study_id: int, worker_id: int, *, device: str | None, error: str | None, at_fault: bool = True
) -> None:
    """The worker ends, as it should or with an error. `device`: where it worked, also where no heartbeat told it. Where
    the error is not the study's (not `at_fault`), it counts as dead: the study has not failed."""
    failed = WorkerState.FAILED if at_fault else WorkerState.DEAD
    with store.begin() as connection:
        changes.bump(connection, study_id)
        now = clock(connection)
        task = connection.execute(
            sa.update(t.worker)
            .where(t.worker.c.worker_id == worker_id)
            .values(
                heartbeat=now,
                ended=now,
                state=WorkerState.ENDED if error is None else failed,
                doing=None,
                device=device,
                error=error,
            )
            .returning(t.worker.c.task)
        ).scalar_one()
        if error is not None and at_fault and task == "search":
            connection.execute(
                sa.update(t.study)
                .where(t.study.c.study_id == study_id, t.study.c.finished.is_(None))
                .values(ending=error)
            )


@patient
def wanted(store: Store, study_id: int) -> str:
    """What people ask of the workers now: run, pause, stop or abandon."""
    with store.look() as connection:
        found = connection.execute(
            sa.select(t.study.c.wanted).where(t.study.c.study_id == study_id)
        ).scalar_one_or_none()
    return found or Wanted.ABANDON  # a deleted study wants nothing more


@patient
def prepared(
    store: Store, study_id: int, space: str, provenance: Mapping[str, Any], lent: tuple[Lender, ...] = ()
) -> None:
    """What a worker found when it had prepared, and what other studies lend; the first one's is the study's from then
    on.

    Raises UsageError where the ground or the space is no longer the one that the study was begun with.
    """
    c = t.study.c
    with store.begin() as connection:
        changes.bump(connection, study_id)
        row = connection.execute(sa.select(c.name, c.space, c.provenance).where(c.study_id == study_id)).one()
        recorded = _on_same_ground(row, provenance)
        if row.space is not None and row.space != space:
            raise UsageError(
                "The teacher's search space is no longer the one that the study was begun with.",
                "Bring back the teacher and the kdnas of that time, or begin another study.",
            )
        connection.execute(
            sa.update(t.study).where(c.study_id == study_id).values(space=space, provenance=json.dumps(recorded))
        )
        if row.space is None:
            lending.write(connection, study_id, lent)
        # What an earlier worker failed of no longer holds.
        connection.execute(sa.update(t.study).where(c.study_id == study_id, c.finished.is_(None)).values(ending=None))


@patient
def require_ground(store: Store, study_id: int, provenance: Mapping[str, Any]) -> None:
    """Raises UsageError where the provenance is of another ground than the study's; records what the study lacks."""
    c = t.study.c
    with store.begin() as connection:
        row = connection.execute(sa.select(c.name, c.provenance).where(c.study_id == study_id)).one()
        recorded = _on_same_ground(row, provenance)
        if row.provenance is not None and recorded != json.loads(row.provenance):
            connection.execute(sa.update(t.study).where(c.study_id == study_id).values(provenance=json.dumps(recorded)))


def _on_same_ground(row: Any, provenance: Mapping[str, Any]) -> dict[str, Any]:
    """The study's provenance, with the fingerprints that an earlier version did not record. Raises UsageError."""
    now: dict[str, Any] = json.loads(json.dumps(dict(provenance), default=str))
    if row.provenance is None:
        return now
    recorded: dict[str, Any] = json.loads(row.provenance)
    require_same_ground(
        ground_of(recorded),
        ground_of(now),
        f"the study {row.name!r} was begun with",
        "Bring back what was there then, or begin another study.",
    )
    known = ground_of(recorded)
    new = [name for name in (*ground_of(now), SOURCE) if name not in known and name in now]
    return recorded | {name: now[name] for name in new}
