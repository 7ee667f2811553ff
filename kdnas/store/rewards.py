"""The rewards of a study at its present α and β, where people have changed them. Plain SQL; tells Optuna nothing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from kdnas.store import tables as t
from kdnas.store.database import Store
from kdnas.store.patience import patient
from kdnas.study.ranking import LossKind
from kdnas.study.reward import reward


@dataclass(frozen=True)
class Rewards:
    """Trial number → reward of the finished trial, and of each of its epochs."""

    final: Mapping[int, float]
    by_epoch: Mapping[int, Mapping[int, float]]


@patient
def rescored(store: Store, study_id: int, loss: LossKind, *, epochs: bool) -> Rewards | None:
    """Every reward at the α and β of now; None where they have never been others, so that all were reported so.

    The rewards of single epochs only with `epochs`: who prunes compares them.
    """
    c, p, s = t.trial.c, t.curve.c, t.study.c
    with store.connect() as connection:
        changed = sa.select(sa.literal(1)).where(t.event.c.study_id == study_id, t.event.c.kind == "reward").limit(1)
        if connection.execute(changed).first() is None:
            return None
        alpha, beta = connection.execute(sa.select(s.alpha, s.beta).where(s.study_id == study_id)).one()
        seen = c.raw_loss if loss == "raw" else c.loss
        trials = connection.execute(
            sa.select(c.number, seen.label("loss"), c.latency_ms, c.teacher_latency_ms).where(
                c.study_id == study_id, c.latency_ms > 0, c.teacher_latency_ms > 0
            )
        ).all()
        points: Sequence[Any] = []
        if epochs:
            at = p.raw_loss if loss == "raw" else p.loss
            points = connection.execute(
                sa.select(p.number, p.epoch, at.label("loss")).where(p.study_id == study_id)
            ).all()
    times = {row.number: (row.latency_ms, row.teacher_latency_ms) for row in trials}
    by_epoch: dict[int, dict[int, float]] = defaultdict(dict)
    for point in points:
        if point.number in times:
            by_epoch[point.number][point.epoch] = reward(point.loss, *times[point.number], alpha, beta)
    final = {row.number: reward(row.loss, *times[row.number], alpha, beta) for row in trials if row.loss is not None}
    return Rewards(final, by_epoch)
