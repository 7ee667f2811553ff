"""The constraints of a study as they are now, and how far each of its trials misses them. Plain SQL; tells Optuna
nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from kdnas.store import changes
from kdnas.store import tables as t
from kdnas.store.database import Store
from kdnas.store.patience import patient
from kdnas.study.constraints import EVENT, PART, Limits, figures, limits_of
from kdnas.study.spec_constraints import ConstraintsSpec


def limits_on(connection: Connection, study_id: int) -> Limits:
    """The study's constraints, as part of a transaction."""
    c = t.study.c
    row = connection.execute(sa.select(c.spec, c.teacher_latency_ms).where(c.study_id == study_id)).one()
    return limits_of(json.loads(row.spec).get(PART), row.teacher_latency_ms)


@patient
def present(store: Store, study_id: int) -> Limits:
    """The study's constraints of now."""
    with store.connect() as connection:
        return limits_on(connection, study_id)


@patient
def begun_with(store: Store, study_id: int) -> ConstraintsSpec:
    """The constraints that the study was begun with: before the first change of them, or those of now."""
    c = t.study.c
    with store.connect() as connection:
        first = changes.recorded(connection, study_id, EVENT)
        if first is not None:
            return ConstraintsSpec(**first["from"])
        text = connection.execute(sa.select(c.spec).where(c.study_id == study_id)).scalar_one()
    return ConstraintsSpec(**(json.loads(text).get(PART) or {}))


@patient
def violations(store: Store, study_id: int, *, raw: bool) -> Mapping[int, Mapping[str, float]] | None:
    """Trial number → field → by how much the finished trial misses it (`Limits.scaled`), under the constraints of now;
    at most 0 where it keeps it. None where the study never had a constraint. `raw`: the reward sees the raw loss."""
    c, e = t.trial.c, t.event.c
    with store.connect() as connection:
        limits = limits_on(connection, study_id)
        if not limits:
            had = sa.select(sa.literal(1)).where(e.study_id == study_id, e.kind == EVENT).limit(1)
            return None if connection.execute(had).first() is None else {}
        query = sa.select(
            c.number,
            (c.raw_loss if raw else c.loss).label("loss"),
            c.latency_ms,
            c.teacher_latency_ms,
            c.parameters,
        ).where(c.study_id == study_id, c.latency_ms > 0, c.loss.is_not(None))
        return {row.number: limits.scaled(of_row(row, limits)) for row in connection.execute(query)}


def of_row(row: Any, limits: Limits) -> dict[str, float | None]:
    """The figures that constraints bound, from columns of a trial; its `loss` is the one that the reward sees."""
    return figures(
        loss=row.loss,
        latency_ms=row.latency_ms,
        teacher_latency_ms=row.teacher_latency_ms,
        parameters=row.parameters,
        reference_ms=limits.reference_ms,
    )
