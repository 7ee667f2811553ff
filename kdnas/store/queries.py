"""What the store tells: every query that screens, exports and the command line ask. Plain SQL, nothing written.

A screen calls `changed` first, which costs microseconds, and then asks only for rows whose revision is new.
"""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import sqlalchemy as sa

from kdnas.store import tables as t
from kdnas.store.database import Store
from kdnas.store.patience import patient
from kdnas.store.sound_rows import require_objects
from kdnas.store.study_figures import study_rows_of, workers_of
from kdnas.study.loan import STUDIES
from kdnas.study.rows import CurvePoint, EpisodeRow, EventRow, LogRow, RunRow, StudyRow, TrialRow, WorkerRow
from kdnas.system.errors import UsageError, nearest

_IN = 500  # values in one IN (…): SQLite allows 32,766, and a short list is planned better


@patient
def changed(store: Store) -> int:
    """A number that differs whenever another connection has committed something since the last call."""
    if store.is_sqlite:
        with store.watching() as connection:
            return int(connection.execute("PRAGMA data_version").fetchone()[0])
    with store.connect() as connection:
        parts = (
            sa.func.coalesce(sa.func.sum(t.study.c.revision), 0),
            sa.select(sa.func.coalesce(sa.func.max(t.log.c.log_id), 0)).scalar_subquery(),
            sa.select(sa.func.coalesce(sa.func.max(t.event.c.event_id), 0)).scalar_subquery(),
            sa.select(sa.func.coalesce(sa.func.max(t.run.c.run_id), 0)).scalar_subquery(),
        )
        return sum(int(part) for part in connection.execute(sa.select(*parts)).one())


# ---------------------------------------------------------------------------- studies


@patient
def study_rows(store: Store) -> list[StudyRow]:
    """Every study, the one that changed last first."""
    with store.connect() as connection:
        return study_rows_of(connection)


@patient
def find_study(store: Store, name: str) -> StudyRow | None:
    """One study; None where there is none of that name."""
    with store.connect() as connection:
        found = study_rows_of(connection, name=name)
        return found[0] if found else None


@patient
def study_row(store: Store, name: str) -> StudyRow:
    """One study. Raises UsageError where there is none of that name: with the campaign's command where it is a
    campaign's, else with the nearest name."""
    with store.connect() as connection:
        found = study_rows_of(connection, name=name)
        if found:
            return found[0]
        names = list(connection.execute(sa.select(t.study.c.name).order_by(t.study.c.name)).scalars())
    from kdnas.store.campaigns import find_campaign  # loads pydantic, which listing studies does not need

    if find_campaign(store, name) is not None:
        raise UsageError(
            f"{name} is a campaign, and a study is wanted here.",
            f"See its members with: kdnas campaign {name} --status",
        )
    hint = nearest(name, names) if names else "Begin one with `kdnas search`."
    raise UsageError(f"There is no study {name!r} in {store.place}.", hint)


@patient
def study_of(store: Store, study_id: int) -> StudyRow:
    """One study by its number. Raises UsageError where it was deleted."""
    with store.connect() as connection:
        found = study_rows_of(connection, study_id=study_id)
        if not found:
            raise UsageError("The study was deleted.", "Begin another one.")
        return found[0]


# ---------------------------------------------------------------------------- trials


@patient
def trial_rows(store: Store, study_id: int, since: int = -1) -> list[TrialRow]:
    """Trials that changed after the study's revision `since`, by number; all of them by default."""
    return [row for batch in trial_batches(store, study_id, since) for row in batch]


@patient
def trials_of(store: Store, study_id: int, numbers: Sequence[int]) -> list[TrialRow]:
    """The trials of these numbers, by number; those that there are not are left out."""
    parts = (numbers[start : start + _IN] for start in range(0, len(numbers), _IN))
    chosen = (t.trial.c.number.in_(part) for part in parts)
    return [row for those in chosen for batch in _batches(store, study_id, those, 2000) for row in batch]


def trial_batches(store: Store, study_id: int, since: int = -1, size: int = 2000) -> Iterator[list[TrialRow]]:
    """The same in lists of at most `size`, read as one: whoever keeps them in another form needs no room for all."""
    yield from _batches(store, study_id, t.trial.c.revision > since, size)


def _batches(store: Store, study_id: int, those: sa.ColumnElement[bool], size: int) -> Iterator[list[TrialRow]]:
    c = t.trial.c
    with store.connect() as connection:
        remarks = {
            row.number: row for row in connection.execute(sa.select(t.remark).where(t.remark.c.study_id == study_id))
        }
        repeats: dict[int, list[Any]] = defaultdict(list)
        for row in connection.execute(sa.select(t.repeat).where(t.repeat.c.study_id == study_id)):
            repeats[row.number].append(row)
        # One statement, so that rows that change while it is read are told by the next one and never missed.
        query = sa.select(t.trial).where(c.study_id == study_id, those).order_by(c.number)
        with connection.execution_options(yield_per=size).execute(query) as found:
            for part in found.partitions():
                candidates = _decoded([row.candidate for row in part])
                configs = _decoded([row.config for row in part])
                extras = _decoded([row.extra for row in part])
                yield [
                    _trial_row(row, candidate, config, extra, remarks.get(row.number), repeats.get(row.number, []))
                    for row, candidate, config, extra in zip(part, candidates, configs, extras, strict=True)
                ]


def _decoded(texts: list[str | None]) -> list[dict[str, Any]]:
    """JSON objects, those that are missing empty; as one text, which takes half the time of one by one."""
    decoded: list[dict[str, Any]] = json.loads(f"[{','.join(text or '{}' for text in texts)}]")
    require_objects(decoded, texts)
    return decoded


def averages(
    loss: float | None, raw_loss: float | None, repeats: Sequence[Any]
) -> tuple[float | None, float | None, float | None]:
    """Mean loss, mean raw loss and the loss's sample standard deviation over a trial and its repeats."""
    if not repeats or loss is None or raw_loss is None:
        return None, None, None
    losses = [loss, *(r.loss for r in repeats)]
    mean_raw = statistics.fmean([raw_loss, *(r.raw_loss for r in repeats)])
    return statistics.fmean(losses), mean_raw, statistics.stdev(losses)


def _trial_row(
    row: Any,
    candidate: dict[str, Any],
    config: dict[str, Any],
    extra: dict[str, Any],
    remark: Any,
    repeats: list[Any],
) -> TrialRow:
    mean_loss, mean_raw, spread = averages(row.loss, row.raw_loss, repeats)
    return TrialRow(
        number=row.number,
        slot=row.slot,
        state=row.state,
        candidate=candidate,
        config=config,
        origin=row.origin,
        predicted=row.predicted,
        seed=row.seed,
        reward=row.reward,
        alpha=row.alpha,
        beta=row.beta,
        loss=row.loss,
        raw_loss=row.raw_loss,
        latency_ms=row.latency_ms,
        latency_p90_ms=row.latency_p90_ms,
        latency_low_ms=row.latency_low_ms,
        latency_high_ms=row.latency_high_ms,
        latency_count=row.latency_count,
        latency_flag=row.latency_flag,
        teacher_latency_ms=row.teacher_latency_ms,
        parameters=row.parameters,
        memory_mib=row.memory_mib,
        extra=extra,
        epoch=row.epoch,
        epochs=row.epochs,
        progress=row.progress,
        phase=row.phase,
        error=row.error,
        reused_from=row.reused_from,
        started=row.started,
        ended=row.ended,
        revision=row.revision,
        repeats=len(repeats),
        mean_loss=mean_loss,
        mean_raw_loss=mean_raw,
        loss_spread=spread,
        marked=bool(remark.marked) if remark else False,
        tags=tuple(remark.tags.split()) if remark else (),
        note=remark.note if remark else "",
        worker_id=row.worker_id,
    )


def curves(store: Store, study_id: int, numbers: Iterable[int]) -> dict[int, list[CurvePoint]]:
    """Trial number → its finished epochs in order; a trial without any has an empty list."""
    wanted = sorted(set(numbers))
    found: dict[int, list[CurvePoint]] = {number: [] for number in wanted}
    c = t.curve.c
    with store.connect() as connection:
        for start in range(0, len(wanted), _IN):
            query = (
                sa.select(c.number, c.epoch, c.loss, c.raw_loss, c.train_loss, c.seconds, c.tokens)
                .where(c.study_id == study_id, c.number.in_(wanted[start : start + _IN]))
                .order_by(c.number, c.epoch)
            )
            for row in connection.execute(query):
                found[row.number].append(CurvePoint(*row))
    return found


# ---------------------------------------------------------------------------- the rest of a study


@patient
def workers(store: Store, study_id: int) -> list[WorkerRow]:
    """Every worker that the study has had, oldest first."""
    with store.connect() as connection:
        return workers_of(connection, study_id)


@patient
def episodes(store: Store, study_id: int) -> list[EpisodeRow]:
    """The controller's rounds in order, without its weights."""
    c = t.episode.c
    query = (
        sa.select(c.episode, c.epsilon, c.pool_size, c.controller_loss, c.global_best, c.previous_best, c.facts, c.time)
        .where(c.study_id == study_id)
        .order_by(c.episode)
    )
    with store.connect() as connection:
        return [
            EpisodeRow(
                row.episode,
                row.epsilon,
                row.pool_size,
                row.controller_loss,
                row.global_best,
                row.previous_best,
                json.loads(row.facts),
                row.time,
            )
            for row in connection.execute(query)
        ]


@patient
def logs(store: Store, study_id: int, after: int = 0, limit: int = 1000) -> list[LogRow]:
    """Lines with an id over `after`, oldest first: the last `limit` of them."""
    c = t.log.c
    query = (
        sa.select(c.log_id, c.worker_id, c.time, c.level, c.line)
        .where(c.study_id == study_id, c.log_id > after)
        .order_by(c.log_id.desc())
        .limit(limit)
    )
    with store.connect() as connection:
        return [LogRow(*row) for row in reversed(connection.execute(query).all())]


@patient
def events(store: Store, study_id: int) -> list[EventRow]:
    """What was changed on the study, oldest first; of a loan who lent, without the trials."""
    c = t.event.c
    query = sa.select(c.time, c.kind, c.detail).where(c.study_id == study_id).order_by(c.event_id)
    with store.connect() as connection:
        return [EventRow(row.time, row.kind, _short(json.loads(row.detail))) for row in connection.execute(query)]


def _short(detail: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in detail.items() if key != STUDIES}


@patient
def runs(store: Store, study_id: int) -> list[RunRow]:
    """Full distillations and task scores, oldest first."""
    c = t.run.c
    with store.connect() as connection:
        return [
            RunRow(
                run_id=row.run_id,
                kind=row.kind,
                number=row.number,
                folder=row.folder,
                state=row.state,
                progress=row.progress,
                doing=row.doing,
                result=json.loads(row.result) if row.result else {},
                error=row.error,
                started=row.started,
                ended=row.ended,
            )
            for row in connection.execute(sa.select(t.run).where(c.study_id == study_id).order_by(c.run_id))
        ]


@patient
def provenance(store: Store, study_id: int) -> dict[str, Any]:
    """Versions, fingerprints, protocol and cache decision, as the first worker found them; empty before that."""
    with store.connect() as connection:
        text = connection.execute(sa.select(t.study.c.provenance).where(t.study.c.study_id == study_id)).scalar_one()
    return json.loads(text) if text else {}
