"""What is counted of a study for its row: its state, its slots, its best trial, the time that is left.

All of it is one statement, whatever the number of studies. Only where trials have rewards of another α and β, or were
repeated, are the trials of a study gone through, until one more has ended. Reads on the connection of whoever asks;
`queries` is the face of it.
"""

from __future__ import annotations

import json
import math
import statistics
from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from itertools import groupby
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from kdnas.store import study_remarks
from kdnas.store import tables as t
from kdnas.store.database import clock_column
from kdnas.study.constraints import PART, Limits, figures, limits_of
from kdnas.study.reward import reward
from kdnas.study.rows import RUNG, StudyRow, WorkerRow
from kdnas.study.space import SearchSpace
from kdnas.study.states import AT_WORK, ENDED_SLOTS, SlotState, Status, TrialState, Wanted, WorkerState
from kdnas.study.time_budget import End, end_of, in_time, trials_in
from kdnas.system import liveness, time_left
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


def study_rows_of(connection: Connection, **wanted: int | str) -> list[StudyRow]:
    """The rows of all studies, or of the one whose `study_id` or `name` is given, the one that changed last first."""
    rows = []
    statement = _statement(connection.dialect.name, next(iter(wanted), None), study_remarks.there(connection))
    for _, group in groupby(connection.execute(statement, wanted), key=lambda row: row.study_id):
        of_study = list(group)  # a row for each of its workers, and one where there is none
        row = of_study[0]
        workers = [
            (_worker(connection, one, "worker_"), one.busy or 0) for one in of_study if one.worker_worker_id is not None
        ]
        here = [worker for worker, _ in workers if worker.task == "search"]
        alive = [worker for worker in here if worker.alive]
        spec = _spec(row)
        rungs = bool(spec.get("budget", {}).get("rungs"))
        limits = limits_of(spec.get(PART), row.teacher_latency_ms)
        best_number, best_reward = _best(connection, row, spec["reward"]["loss"] == "raw", rungs, limits)
        pruned, failed = row.slots_pruned or 0, row.slots_failed or 0
        done = (row.slots_done or 0) + pruned + failed
        rows.append(
            StudyRow(
                study_id=row.study_id,
                name=row.name,
                spec=spec,
                status=status(row.wanted, row.finished is not None, here),
                trials=row.trials,
                done=done,
                pruned=pruned,
                failed=failed,
                reused=row.reused or 0,
                running=sum(busy for worker, busy in workers if worker.task == "search" and worker.alive),
                waiting=row.slots_waiting or 0,
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
                **_time(row, end_of(spec), done, len(alive), max((w.heartbeat for w in alive), default=0.0)),
                tags=study_remarks.tags_of(row.tags),
                note=study_remarks.note_of(row.note),
            )
        )
    return rows


@cache
def _statement(dialect: str, by: str | None, remarks: bool) -> sa.Select[Any]:
    """Each study with what is counted of it, beside each of its workers, and the time by the database's clock.

    Of all studies, or of the one whose column `by` has the value of the parameter of that name. It takes longer to make
    than to run.
    """
    those = sa.true() if by is None else t.study.c[by] == sa.bindparam(by)
    ids = sa.select(t.study.c.study_id).where(those)
    parts = [of_study(ids) for of_study in (_slots, _ended, _repeated)]
    ended = parts[1]
    parts.append(_first_best(ids, ended))
    busy = (
        sa.select(t.slot.c.study_id, t.slot.c.worker_id, sa.func.count().label("busy"))
        .where(t.slot.c.study_id.in_(ids), t.slot.c.state == SlotState.RUNNING)
        .group_by(t.slot.c.study_id, t.slot.c.worker_id)
        .cte("busy_workers")
    )
    joined: sa.FromClause = t.study
    for part in parts:
        joined = joined.outerjoin(part, part.c.study_id == t.study.c.study_id)
    joined = joined.outerjoin(t.worker, t.worker.c.study_id == t.study.c.study_id)
    joined = joined.outerjoin(
        busy, sa.and_(busy.c.study_id == t.worker.c.study_id, busy.c.worker_id == t.worker.c.worker_id)
    )
    counted = [column for part in parts for column in part.columns if column.name != "study_id"]
    workers = [column.label(f"worker_{column.name}") for column in t.worker.columns]
    return (
        sa.select(
            t.study,
            *study_remarks.columns(remarks),
            *counted,
            *workers,
            busy.c.busy,
            clock_column(dialect).label("now"),
        )
        .select_from(joined)
        .where(those)
        .order_by(t.study.c.updated.desc(), t.study.c.study_id, t.worker.c.worker_id)
    )


# One look at every row for all that is counted: a study may have a hundred thousand, and a screen asks each second.


def _slots(ids: sa.Select[Any]) -> sa.CTE:
    """How many slots have ended, by how, and how many wait for a latency."""
    c = t.slot.c
    counted = (*sorted(ENDED_SLOTS), SlotState.WAITING)
    counts = [sa.func.count().filter(c.state == state).label(f"slots_{state}") for state in counted]
    return sa.select(c.study_id, *counts).where(c.study_id.in_(ids)).group_by(c.study_id).cte("slots")


def _ended(ids: sa.Select[Any]) -> sa.CTE:
    """Trials `reused` and `done_trials`; of the done ones the highest `reward` and the ends of `alpha` and `beta`. Of
    those that were `evaluated` here the seconds `spent`, their squares and the `longest`; of those `under_way` when
    they began."""
    c = t.trial.c
    finished = c.state.in_((TrialState.DONE, TrialState.PRUNED))
    evaluated = sa.and_(finished, c.ended.is_not(None))  # a score without training counts, too
    running = c.state == TrialState.RUNNING
    done = c.state == TrialState.DONE
    took = c.ended - c.started
    query = sa.select(
        c.study_id,
        sa.func.count().filter(c.state == TrialState.REUSED).label("reused"),
        sa.func.count().filter(evaluated).label("evaluated"),
        sa.func.sum(took).filter(evaluated).label("spent"),
        sa.func.sum(took * took).filter(evaluated).label("spent_squared"),
        sa.func.max(took).filter(evaluated).label("longest"),
        sa.func.count().filter(running).label("under_way"),
        sa.func.sum(c.started).filter(running).label("begun_sum"),
        sa.func.min(c.started).filter(running).label("first_begun"),
        sa.func.count().filter(done).label("done_trials"),
        sa.func.max(c.reward).filter(done).label("reward"),
        *(
            end(column).filter(done).label(f"{word}_{column.name}")
            for word, end in (("least", sa.func.min), ("most", sa.func.max))
            for column in (c.alpha, c.beta)
        ),
    )
    return query.where(c.study_id.in_(ids)).group_by(c.study_id).cte("ended_trials")


def _repeated(ids: sa.Select[Any]) -> sa.CTE:
    """How many evaluations with other seeds there are."""
    c = t.repeat.c
    query = sa.select(c.study_id, sa.func.count().label("repeated"))
    return query.where(c.study_id.in_(ids)).group_by(c.study_id).cte("repeats")


def _first_best(ids: sa.Select[Any], ended: sa.CTE) -> sa.CTE:
    """The first trial with the highest reward."""
    c = t.trial.c
    query = sa.select(c.study_id, sa.func.min(c.number).label("first_best"))
    query = query.join(ended, sa.and_(ended.c.study_id == c.study_id, ended.c.reward == c.reward))
    return query.where(c.study_id.in_(ids), c.state == TrialState.DONE).group_by(c.study_id).cte("bests")


def _time(row: Any, end: End | None, done: int, workers: int, now: float) -> dict[str, Any]:
    """When the study ends and how long the rest may take, as of the workers' last heartbeat."""
    mean = float(row.spent) / row.evaluated if row.evaluated else None
    told: dict[str, Any] = {"eta_s": None, "eta_spread_s": None, "trial_s": mean}
    found = (
        None if end is not None and end.open else _eta(row, row.trials - done - (row.slots_waiting or 0), workers, now)
    )
    if end is not None:
        told |= {"until": end.until, "open": end.open}
        going_on = workers and row.finished is None
        found = in_time(found, end, now) if going_on else None
        if going_on and mean is not None and row.evaluated >= time_left.FEWEST:
            most = _space_size(row.space) if end.open else row.trials
            expected = done + trials_in(end.until - now, mean, workers, _begun(row, now))
            told["expected"] = expected if most is None else min(expected, most)
    if found is not None:
        told |= {"eta_s": (found[0] + found[1]) / 2, "eta_spread_s": (found[1] - found[0]) / 2}
    return told


def _begun(row: Any, now: float) -> list[float]:
    """The ages of the trials that run: the oldest one's, and the others' mean."""
    if not row.under_way:
        return []
    oldest = max(0.0, now - row.first_begun)  # hosts' clocks may disagree
    others = max(0.0, row.under_way * now - row.begun_sum - oldest) / max(1, row.under_way - 1)
    return [oldest, *[others] * (row.under_way - 1)]


def _eta(row: Any, left: int, workers: int, now: float) -> time_left.Span | None:
    """How long so many trials may take, by those that were evaluated here."""
    if not row.evaluated or not workers or left <= 0:
        return None
    mean = float(row.spent) / row.evaluated
    deviation = math.sqrt(max(0.0, row.spent_squared - row.evaluated * mean**2) / max(1, row.evaluated - 1))
    return time_left.span(left, row.evaluated, mean, deviation, row.longest, _begun(row, now), workers)


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


def _best(connection: Connection, row: Any, raw: bool, rungs: bool, limits: Limits) -> tuple[int | None, float | None]:
    """The best trial under the study's present α/β, by the mean over its repeats where there are any; with rungs, of
    the trials that may be ranked; with constraints, of those that keep all of them."""
    reported = (row.least_alpha, row.most_alpha, row.least_beta, row.most_beta)
    if (
        not rungs
        and not limits
        and not row.repeated
        and reported in ((row.alpha, row.alpha, row.beta, row.beta), (None,) * 4)
    ):
        return row.first_best, row.reward
    counted = row.done_trials, row.repeated
    key = (str(connection.engine.url), row.study_id, row.created, row.alpha, row.beta, limits, *counted)
    if key not in _bests:
        if len(_bests) > 100:
            _bests.clear()
        _bests[key] = _best_anew(connection, row, raw, rungs, limits)
    return _bests[key]


_bests: dict[tuple[Any, ...], tuple[int | None, float | None]] = {}  # found by going through all trials, until one ends


def _best_anew(
    connection: Connection, row: Any, raw: bool, rungs: bool, limits: Limits
) -> tuple[int | None, float | None]:
    c, r = t.trial.c, t.repeat.c
    done = sa.and_(c.study_id == row.study_id, c.state == TrialState.DONE)
    wanted = [c.number, c.loss, c.raw_loss, c.latency_ms, c.teacher_latency_ms, c.parameters]
    wanted += [c.extra] if rungs else []
    losses: dict[int, list[float]] = defaultdict(list)
    for again in connection.execute(sa.select(r.number, r.loss, r.raw_loss).where(r.study_id == row.study_id)):
        losses[again.number].append(again.raw_loss if raw else again.loss)
    found: list[tuple[int, float, float, bool]] = []  # number, reward, rung, whether it keeps all constraints
    for trial in connection.execute(sa.select(*wanted).where(done).order_by(c.number)):
        loss = trial.raw_loss if raw else trial.loss
        if loss is None or not trial.latency_ms or not trial.teacher_latency_ms:
            continue
        mean = statistics.fmean([loss, *losses[trial.number]])
        try:
            value = reward(mean, trial.latency_ms, trial.teacher_latency_ms, row.alpha, row.beta)
        except ValueError:  # figures that have no reward
            continue
        rung = json.loads(trial.extra or "{}").get(RUNG, math.nan) if rungs else math.nan
        told = figures(
            loss=mean,
            latency_ms=trial.latency_ms,
            teacher_latency_ms=trial.teacher_latency_ms,
            parameters=trial.parameters,
            reference_ms=limits.reference_ms,
        )
        found.append((trial.number, value, rung, not limits.miss(told)))
    if rungs and found:
        import numpy as np  # not for a study without: the first screen does without it

        from kdnas.study.ranking import on_highest_rung

        ranked = on_highest_rung(np.array([rung for _, _, rung, _ in found], dtype=float))
        found = [trial for trial, stays in zip(found, ranked.tolist(), strict=True) if stays]
    best = max((trial for trial in found if trial[3]), key=lambda trial: trial[1], default=None)
    return (None, None) if best is None else best[:2]


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


def workers_of(connection: Connection, study_id: int) -> list[WorkerRow]:
    """Every worker that the study has had, oldest first."""
    c = t.worker.c
    query = sa.select(t.worker, clock_column(connection.dialect.name).label("now"))
    return [
        _worker(connection, row)
        for row in connection.execute(query.where(c.study_id == study_id).order_by(c.worker_id))
    ]


def _worker(connection: Connection, row: Any, prefix: str = "") -> WorkerRow:
    """From a row whose columns are those of the table, with `prefix` before their names, and `now`."""
    store = str(connection.engine.url)
    told = {name: getattr(row, prefix + name) for name in t.worker.columns.keys()}  # noqa: SIM118 - its names
    at_work = told["state"] in AT_WORK
    lives = at_work and liveness.alive(
        (store, told["worker_id"]), told["host"], told["lock"], told["heartbeat"], row.now
    )
    return WorkerRow(
        worker_id=told["worker_id"],
        host=told["host"],
        pid=told["pid"],
        device=told["device"],
        state=told["state"] if lives or not at_work else WorkerState.DEAD,
        doing=told["doing"] if lives else None,
        task=told["task"],
        error=told["error"],
        started=told["started"],
        heartbeat=told["heartbeat"],
        ended=told["ended"],
        alive=lives,
    )
