"""What is said of a stored study beside its trials: what the next ones are expected to gain (kdnas.study.advice), and
which strategy `auto` takes (kdnas.study.strategy_choice). Plain SQL, nothing written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from kdnas.store import queries
from kdnas.store import tables as t
from kdnas.store.database import Store
from kdnas.store.patience import patient
from kdnas.study.advice import NEXT, Advice, advice
from kdnas.study.constraints import of_study
from kdnas.study.ranked_rows import figures_of, rank_of
from kdnas.study.ranking import Scored
from kdnas.study.rows import StudyRow
from kdnas.study.space import Candidate, SearchSpace
from kdnas.study.spec_strategies import AutoStrategy
from kdnas.study.strategy_choice import words

MOST = 300  # finished trials up to which advice takes no time to speak of; of 2,000 it takes 40 s and 4 GiB


@dataclass(frozen=True)
class Remarks:
    """What a screen says of a study beside its trials; None of each where there is nothing to say."""

    strategy: str | None = None
    advice: Advice | None = None


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

    None before it has a space and enough trials with a rank; for a study of a front, whose gain no reward tells; while
    no trial keeps the constraints; and where a trial lies outside the space.
    """
    where, limits = space(store, row.study_id), of_study(row)
    if where is None or row.spec["strategy"].get("two_objectives"):
        return None
    if scored is None:
        scored = rank_of(row, queries.trial_rows(store, row.study_id))
    if not all(_within(where, s.row.candidate) for s in scored):
        return None
    ranked = [s for s in scored if s.rank is not None and s.reward is not None]
    finished = [(s.row.candidate, s.reward) for s in ranked if s.reward is not None]
    violations = [limits.scaled(figures_of(s, limits)) for s in ranked] if limits else []
    return advice(where, finished, [s.row.candidate for s in scored], following, violations)


def advised_soon(store: Store, row: StudyRow, scored: Sequence[Scored] | None = None) -> Advice | None:
    """What `advised` says, for whoever looks at a study; None, too, past `MOST` finished trials."""
    return advised(store, row, scored) if row.done <= MOST else None


def taken(store: Store, row: StudyRow) -> str | None:
    """What strategy `auto` takes in this study, and why; None for another strategy, and before there is a space."""
    options = row.spec["strategy"]
    where = space(store, row.study_id) if options["name"] == "auto" else None
    if where is None:
        return None
    auto = AutoStrategy(two_objectives=bool(options.get("two_objectives")))
    return words(auto, where, row.trials)


def remarks(store: Store, row: StudyRow) -> Remarks:
    """Of a study whose strategy is `auto`, or that is to end by the advice: it goes by what is said here."""
    if row.spec["strategy"]["name"] != "auto" and not row.spec["budget"].get("stop_when_done"):
        return Remarks()
    return Remarks(taken(store, row), advised_soon(store, row))


def _within(space: SearchSpace, candidate: Candidate) -> bool:
    return all(d.name in candidate and candidate[d.name] in d.choices for d in space.dimensions)
