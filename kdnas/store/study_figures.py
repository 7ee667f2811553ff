"""What is counted of a study for its row: its state, its slots, its best trial, the time that is left.

Reads on the connection of whoever asks; `queries` is the face of it.
"""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from kdnas.store import tables as t
from kdnas.store.database import clock
from kdnas.study.reward import reward
from kdnas.study.rows import StudyRow, WorkerRow
from kdnas.study.space import SearchSpace
from kdnas.study.states import AT_WORK, ENDED_SLOTS, SlotState, Status, TrialState, Wanted, WorkerState
from kdnas.system import liveness
from kdnas.system.errors import KdnasError


def status(wanted: str, finished: bool, search_workers: Sequence[WorkerRow]) -> Status:
    """The state of a study from what was asked, what its search workers last said, and whether they are alive."""
    alive = [w for w in search_workers if w.alive]
    if alive:
        if wanted == Wanted.PAUSE:
            return Status.PAUSED if all(w.state == WorkerState.PAUSED for w in alive) else Status.PAUSING
        return Status.STOPPING if wanted in (Wanted.STOP, Wanted.ABANDON) else Status.RUNNING
    if finished:
        return Status.FINISHED
    if search_workers:
        last = max(search_workers, key=lambda w: (w.ended or w.heartbeat, w.worker_id))
        if last.state == WorkerState.FAILED:
            return Status.FAILED
        if last.state != WorkerState.ENDED:
            return Status.DEAD
    if wanted == Wanted.PAUSE:
        return Status.PAUSED
    if wanted == Wanted.RUN and not search_workers:
        return Status.NEW
    return Status.STOPPED


def study_rows_of(connection: Connection, found: Sequence[Any]) -> list[StudyRow]:
    ids = [row.study_id for row in found]
    busy: dict[int, list[int | None]] = defaultdict(list)
    running = sa.select(t.slot.c.study_id, t.slot.c.worker_id).where(
        t.slot.c.study_id.in_(ids), t.slot.c.state == SlotState.RUNNING
    )
    for study_id, worker_id in connection.execute(running):
        busy[study_id].append(worker_id)
    of_study = workers_of(connection, ids)
    rows = []
    for row in found:
        slots = _slots(connection, row.study_id)
        ended = _ended(connection, row.study_id)
        spec = _spec(row)
        best_number, best_reward = _best(connection, row, ended, spec["reward"]["loss"] == "raw")
        here = [w for w in of_study.get(row.study_id, []) if w.task == "search"]
        alive = [w for w in here if w.alive]
        done = slots.done + slots.pruned + slots.failed
        left = row.trials - done
        living = {w.worker_id for w in alive}
        rows.append(
            StudyRow(
                study_id=row.study_id,
                name=row.name,
                spec=spec,
                status=status(row.wanted, row.finished is not None, here),
                trials=row.trials,
                done=done,
                pruned=slots.pruned,
                failed=slots.failed,
                reused=ended.reused,
                running=sum(1 for worker_id in busy[row.study_id] if worker_id in living),
                alpha=row.alpha,
                beta=row.beta,
                best_reward=best_reward,
                best_number=best_number,
                workers=len(alive),
                hosts=tuple(sorted({w.host for w in alive})),
                heartbeat=max((w.heartbeat for w in here), default=None),
                teacher_latency_ms=row.teacher_latency_ms,
                space_size=_space_size(row.space),
                ending=f"{UNREADABLE} `kdnas delete {row.name}` removes it." if "unreadable" in spec else row.ending,
                created=row.created,
                updated=row.updated,
                revision=row.revision,
                eta_s=_eta(ended, left, len(alive)),
            )
        )
    return rows


# One look at every row for all that is counted: a study may have a hundred thousand, and a screen asks each second.


def _slots(connection: Connection, study_id: int) -> Any:
    """How many slots are `done`, `pruned`, `failed`."""
    c = t.slot.c
    counts = [sa.func.count().filter(c.state == state).label(state) for state in sorted(ENDED_SLOTS)]
    return connection.execute(sa.select(*counts).where(c.study_id == study_id)).one()


def _ended(connection: Connection, study_id: int) -> Any:
    """Trials `reused`, `finished` with the seconds `spent` on them, and `done`; of the done ones the highest `reward`
    and the ends of `alpha` and `beta`."""
    c = t.trial.c
    finished = c.state.in_((TrialState.DONE, TrialState.PRUNED, TrialState.FAILED))
    done = c.state == TrialState.DONE
    query = sa.select(
        sa.func.count().filter(c.state == TrialState.REUSED).label("reused"),
        sa.func.count().filter(finished).label("finished"),
        sa.func.sum(c.ended - c.started).filter(finished).label("spent"),
        sa.func.count().filter(done).label("done"),
        sa.func.max(c.reward).filter(done).label("reward"),
        *(
            end(column).filter(done).label(f"{word}_{column.name}")
            for word, end in (("least", sa.func.min), ("most", sa.func.max))
            for column in (c.alpha, c.beta)
        ),
    )
    return connection.execute(query.where(c.study_id == study_id)).one()


def _eta(ended: Any, left: int, workers: int) -> float | None:
    if not ended.finished or not workers:
        return None
    return float(ended.spent or 0.0) / ended.finished * left / workers


UNREADABLE = "The spec that this study was begun with cannot be read: its row is damaged."
_PARTS = (("teacher", "model"), ("data", "source"), ("recipe", "name"), ("strategy", "name"), ("reward", "loss"))


def _spec(row: Any) -> dict[str, Any]:
    """The spec of a study. A damaged one is no reason to show no study at all: it reads as dashes, and no StudySpec can
    be made of it."""
    try:
        spec = json.loads(row.spec)
        if all(isinstance(spec[part][name], str) for part, name in _PARTS):
            return dict(spec)
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    damaged: dict[str, Any] = {part: {name: "–"} for part, name in _PARTS}
    return {**damaged, "name": row.name, "seed": "–", "unreadable": True}


def _best(connection: Connection, row: Any, ended: Any, raw: bool) -> tuple[int | None, float | None]:
    """The best trial under the study's present α/β, by the mean over its repeats where there are any."""
    c, r = t.trial.c, t.repeat.c
    done = sa.and_(c.study_id == row.study_id, c.state == TrialState.DONE)
    repeated = connection.execute(sa.select(sa.func.count()).where(r.study_id == row.study_id)).scalar_one()
    told = (ended.least_alpha, ended.most_alpha, ended.least_beta, ended.most_beta)
    if not repeated and told in ((row.alpha, row.alpha, row.beta, row.beta), (None,) * 4):
        if ended.reward is None:
            return None, None
        first = sa.select(c.number).where(done, c.reward == ended.reward).order_by(c.number).limit(1)
        return connection.execute(first).scalar_one(), ended.reward
    key = (str(connection.engine.url), row.study_id, row.created, row.alpha, row.beta, ended.done, repeated)
    if key not in _bests:
        if len(_bests) > 100:
            _bests.clear()
        _bests[key] = _best_anew(connection, row, done, raw)
    return _bests[key]


_bests: dict[tuple[Any, ...], tuple[int | None, float | None]] = {}  # found by going through all trials, until one ends


def _best_anew(connection: Connection, row: Any, done: Any, raw: bool) -> tuple[int | None, float | None]:
    c, r = t.trial.c, t.repeat.c
    losses: dict[int, list[float]] = defaultdict(list)
    for again in connection.execute(sa.select(r.number, r.loss, r.raw_loss).where(r.study_id == row.study_id)):
        losses[again.number].append(again.raw_loss if raw else again.loss)
    best: tuple[int | None, float | None] = (None, None)
    for trial in connection.execute(
        sa.select(c.number, c.loss, c.raw_loss, c.latency_ms, c.teacher_latency_ms).where(done).order_by(c.number)
    ):
        loss = trial.raw_loss if raw else trial.loss
        if loss is None or not trial.latency_ms or not trial.teacher_latency_ms:
            continue
        mean = statistics.fmean([loss, *losses[trial.number]])
        try:
            value = reward(mean, trial.latency_ms, trial.teacher_latency_ms, row.alpha, row.beta)
        except ValueError:  # figures that have no reward
            continue
        if best[1] is None or value > best[1]:
            best = (trial.number, value)
    return best


_sizes: dict[str, int] = {}  # the size of a space with conditions is counted by walking it once


def _space_size(text: str | None) -> int | None:
    if text is None:
        return None
    if text not in _sizes:
        try:
            _sizes[text] = SearchSpace.from_json(text).size
        except (ValueError, KeyError, TypeError, RecursionError, KdnasError):  # damaged
            return None
    return _sizes[text]


def workers_of(connection: Connection, study_ids: list[int]) -> dict[int, list[WorkerRow]]:
    c = t.worker.c
    found: dict[int, list[WorkerRow]] = defaultdict(list)
    now: float | None = None
    for row in connection.execute(sa.select(t.worker).where(c.study_id.in_(study_ids)).order_by(c.worker_id)):
        lives = False
        if row.state in AT_WORK:
            now = clock(connection) if now is None else now
            lives = liveness.alive(row.worker_id, row.host, row.lock, row.heartbeat, now)
        found[row.study_id].append(
            WorkerRow(
                worker_id=row.worker_id,
                host=row.host,
                pid=row.pid,
                device=row.device,
                state=row.state if lives or row.state not in AT_WORK else WorkerState.DEAD,
                doing=row.doing if lives else None,
                task=row.task,
                error=row.error,
                started=row.started,
                heartbeat=row.heartbeat,
                ended=row.ended,
                alive=lives,
            )
        )
    return found
