"""Evaluations of a trial again, with other seeds: written here, read with the trials. Plain SQL."""

from __future__ import annotations

import time

import sqlalchemy as sa

from kdnas.store import changes
from kdnas.store import tables as t
from kdnas.store.database import Store
from kdnas.store.patience import patient


@patient
def seeds(store: Store, study_id: int, number: int) -> set[int]:
    """The seeds with which a trial has been evaluated again."""
    c = t.repeat.c
    with store.connect() as connection:
        found = connection.execute(sa.select(c.seed).where(c.study_id == study_id, c.number == number))
        return set(found.scalars())


@patient
def add(
    store: Store,
    study_id: int,
    number: int,
    seed: int,
    *,
    loss: float,
    raw_loss: float,
    latency_ms: float,
    teacher_latency_ms: float,
) -> None:
    """One more evaluation of a trial; the trial's row counts as changed, since its mean has."""
    with store.begin() as connection:
        revision = changes.bump(connection, study_id)
        r = t.repeat.c  # written before, where the answer got lost
        connection.execute(sa.delete(t.repeat).where(r.study_id == study_id, r.number == number, r.seed == seed))
        connection.execute(
            t.repeat.insert().values(
                study_id=study_id,
                number=number,
                seed=seed,
                loss=loss,
                raw_loss=raw_loss,
                latency_ms=latency_ms,
                teacher_latency_ms=teacher_latency_ms,
                time=time.time(),
            )
        )
        connection.execute(
            sa.update(t.trial)
            .where(t.trial.c.study_id == study_id, t.trial.c.number == number)
            .values(revision=revision)
        )
