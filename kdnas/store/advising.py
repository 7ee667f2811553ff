"""What the next trials of a stored study are expected to gain (kdnas.study.advice). Plain SQL, nothing written."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from kdnas.store import queries
from kdnas.store import tables as t
from kdnas.store.database import Store
from kdnas.store.patience import patient
from kdnas.study.advice import NEXT, Advice, advice
from kdnas.study.constraints import of_study
from kdnas.study.ranked_rows import rank_of
from kdnas.study.ranking import Scored
from kdnas.study.rows import StudyRow
from kdnas.study.space import Candidate, SearchSpace


@patient
def space(store: Store, study_id: int) -> SearchSpace | None:
    """The study's space; None before its first worker has prepared, and where what is stored is none."""
    with store.connect() as connection:
        text = connection.execute(sa.select(t.study.c.space).where(t.study.c.study_id == study_id)).scalar_one()
    try:
        return None if text is None else SearchSpace.from_json(text)
    except (ValueError, KeyError, TypeError, AttributeError):  # advice is no reason to hide a damaged study's trials
        return None


def advised(
    store: Store, row: StudyRow, scored: Sequence[Scored] | None = None, following: int = NEXT
) -> Advice | None:
    """By the study's present α and β; `scored` where its trials are known already.

    None before it has a space and enough trials with a rank; for a study of a front or with constraints, whose gain no
    reward tells; and where a trial lies outside the space.
    """
    where = space(store, row.study_id)
    if where is None or of_study(row) or row.spec["strategy"].get("two_objectives"):
        return None
    if scored is None:
        scored = rank_of(row, queries.trial_rows(store, row.study_id))
    if not all(_within(where, s.row.candidate) for s in scored):
        return None
    finished = [(s.row.candidate, s.reward) for s in scored if s.rank is not None and s.reward is not None]
    return advice(where, finished, [s.row.candidate for s in scored], following)


def _within(space: SearchSpace, candidate: Candidate) -> bool:
    return all(d.name in candidate and candidate[d.name] in d.choices for d in space.dimensions)
