"""What people ask of a study now, in one statement: what a worker looks at before each step. Writes nothing."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from kdnas.store import tables as t
from kdnas.store.database import Store, clock_column
from kdnas.store.patience import patient
from kdnas.study import constraints
from kdnas.study.constraints import PART, Limits, limits_of
from kdnas.study.states import Wanted
from kdnas.study.time_budget import End, end_of


@dataclass(frozen=True)
class Present:
    """A study as people want it at one moment."""

    wanted: Wanted
    alpha: float
    beta: float
    limits: Limits
    end: End | None
    clock: float  # UTC seconds, by the clock that all who use the store share
    teacher_ms: float | None  # the study's one time of the teacher, once a trial has measured it
    reward_changed: bool  # whether α and β have ever been others
    ever_constrained: bool  # whether the study has constraints or had some


@functools.cache
def _query(dialect: str) -> sa.Select[Any]:
    """Made once: that takes longer than to ask."""
    c, e = t.study.c, t.event.c
    study_id: sa.BindParameter[int] = sa.bindparam("study_id")

    def recorded(kind: str) -> sa.ColumnElement[bool]:
        return sa.exists().where(e.study_id == study_id, e.kind == kind)

    return sa.select(
        c.wanted,
        c.alpha,
        c.beta,
        c.spec,
        c.teacher_latency_ms,
        clock_column(dialect).label("clock"),
        recorded("reward").label("reward_changed"),
        recorded(constraints.EVENT).label("ever_constrained"),
    ).where(c.study_id == study_id)


@patient
def present(store: Store, study_id: int) -> Present | None:
    """None where the study was deleted."""
    with store.look() as connection:
        row = connection.execute(_query(connection.dialect.name), {"study_id": study_id}).first()
    if row is None:
        return None
    spec: dict[str, Any] = json.loads(row.spec)
    limits = limits_of(spec.get(PART), row.teacher_latency_ms)
    return Present(
        wanted=Wanted(row.wanted),
        alpha=row.alpha,
        beta=row.beta,
        limits=limits,
        end=end_of(spec),
        clock=row.clock,
        teacher_ms=row.teacher_latency_ms,
        reward_changed=bool(row.reward_changed),
        ever_constrained=bool(limits) or bool(row.ever_constrained),
    )
