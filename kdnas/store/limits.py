"""The constraints of a study as they are now, and how far each of its trials misses them. Plain SQL; tells Optuna
nothing."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from kdnas.store import changes
from kdnas.store import tables as t
from kdnas.store.database import Store
from kdnas.store.patience import patient
from kdnas.store.trial_figures import TrialFigures
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


class Violations:
    """By how much the trials of one study miss its constraints; computed anew for trials that changed, and for all once
    the constraints did."""

    def __init__(self, figures: TrialFigures, *, raw: bool) -> None:
        """`raw`: the reward sees the raw loss."""
        self._figures, self._raw = figures, raw
        self._limits: Limits | None = None
        self._known: dict[int, Mapping[str, float]] = {}

    def now(self, limits: Limits, changed: Iterable[int]) -> Mapping[int, Mapping[str, float]]:
        """Trial number → field → by how much the finished trial misses it (`Limits.scaled`); at most 0 where it keeps
        it. Empty where nothing is constrained now. `changed`: the trials whose figures were read since the last
        call."""
        if not limits:
            self._limits, self._known = None, {}
            return {}
        if limits != self._limits:
            self._limits, changed = limits, list(self._figures.rows)
        for number in changed:
            row = self._figures.rows[number]
            if row.loss is not None:
                told = figures(
                    loss=row.raw_loss if self._raw else row.loss,
                    latency_ms=row.latency_ms,
                    teacher_latency_ms=row.teacher_latency_ms,
                    parameters=row.parameters,
                    reference_ms=limits.reference_ms,
                )
                self._known[number] = limits.scaled(told)
        return self._known


def of_row(row: Any, limits: Limits) -> dict[str, float | None]:
    """The figures that constraints bound, from columns of a trial; its `loss` is the one that the reward sees."""
    return figures(
        loss=row.loss,
        latency_ms=row.latency_ms,
        teacher_latency_ms=row.teacher_latency_ms,
        parameters=row.parameters,
        reference_ms=limits.reference_ms,
    )
