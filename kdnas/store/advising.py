"""What the next trials of a stored study are expected to gain (kdnas.study.advice). Plain SQL, nothing written."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from kdnas.store import queries
from kdnas.store import tables as t
from kdnas.store.database import Store
from kdnas.store.patience import patient
from kdnas.study.advice import NEXT, Advice, advice
from kdnas.study.ranked_rows import rank
from kdnas.study.ranking import Scored
from kdnas.study.rows import StudyRow
from kdnas.study.space import SearchSpace


@patient
def space(store: Store, study_id: int) -> SearchSpace | None:
    """The study's space; None before its first worker has prepared."""
    with store.connect() as connection:
        text = connection.execute(sa.select(t.study.c.space).where(t.study.c.study_id == study_id)).scalar_one()
    return None if text is None else SearchSpace.from_json(text)


def advised(
    store: Store, row: StudyRow, scored: Sequence[Scored] | None = None, following: int = NEXT
) -> Advice | None:
    """By the study's present α and β; `scored` where its trials are known already. None before it has a space and
    enough trials with a rank."""
    where = space(store, row.study_id)
    if where is None:
        return None
    if scored is None:
        scored = rank(queries.trial_rows(store, row.study_id), row.alpha, row.beta, row.spec["reward"]["loss"])
    finished = [(s.row.candidate, s.reward) for s in scored if s.rank is not None and s.reward is not None]
    return advice(where, finished, [s.row.candidate for s in scored], following)
