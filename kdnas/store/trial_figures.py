"""The figures of a study's trials for who asks for them again and again: what changed since is read alone.

Plain SQL; computes no reward and judges no constraint.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from kdnas.store import tables as t
from kdnas.store.database import Store
from kdnas.store.patience import patient

_IN = 500  # values in one IN (…)


class TrialFigures:
    """Of one study: `rows` has the trials that were timed, by number, and `epochs` the losses after each epoch of
    these. A row has the columns number, loss, raw_loss, latency_ms, teacher_latency_ms, parameters."""

    def __init__(self, store: Store, study_id: int, *, epochs: bool) -> None:
        """`epochs`: whether anybody asks for them."""
        self._store, self._study_id, self._with_epochs = store, study_id, epochs
        self._revision = -1
        self.rows: dict[int, Any] = {}
        self.epochs: dict[int, dict[int, Any]] = {}

    def read(self) -> list[int]:
        """Numbers of the trials whose figures may be others than at the last call."""
        rows, points, revision = _changed(self._store, self._study_id, self._revision, self._with_epochs)
        self._revision = revision
        self.rows.update((row.number, row) for row in rows)
        for point in points:
            self.epochs.setdefault(point.number, {})[point.epoch] = point
        return [row.number for row in rows]


@patient
def _changed(store: Store, study_id: int, since: int, epochs: bool) -> tuple[Sequence[Any], Sequence[Any], int]:
    """Timed trials that changed after a revision, their epochs, and the last revision. Revisions are committed in their
    order (`changes.bump`), so none can come later that is not above it."""
    c, p = t.trial.c, t.curve.c
    columns = (c.number, c.loss, c.raw_loss, c.latency_ms, c.teacher_latency_ms, c.parameters, c.revision)
    query = sa.select(*columns).where(c.study_id == study_id, c.revision > since).order_by(c.revision)
    points: list[Any] = []
    with store.look() as connection:
        rows = connection.execute(query).all()
        last = rows[-1].revision if rows else since
        rows = [row for row in rows if (row.latency_ms or 0) > 0]
        numbers = [row.number for row in rows] if epochs else []
        for start in range(0, len(numbers), _IN):
            part = sa.select(p.number, p.epoch, p.loss, p.raw_loss).where(
                p.study_id == study_id, p.number.in_(numbers[start : start + _IN])
            )
            points += connection.execute(part)
    return rows, points, last
