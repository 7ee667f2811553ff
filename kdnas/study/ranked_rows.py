"""Lists of rows, ranked and filtered: they go through the columns of `trial_columns`, so that screens and command line
agree. Reads no store.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kdnas.study.columns import floats
from kdnas.study.constraints import NONE, Limits, figures, of_study
from kdnas.study.filter import Filter
from kdnas.study.ranking import LossKind, Scored, Standing
from kdnas.study.rows import StudyRow, TrialRow
from kdnas.study.trial_columns import Board


def rank(
    rows: Sequence[TrialRow], alpha: float, beta: float, loss: LossKind = "normalised", limits: Limits = NONE
) -> list[Scored]:
    """Every row, scored for α and β under the constraints: the ranked ones first, the best at the head, then the others
    by trial number.

    Of several rows of one number the last one counts.
    """
    rows = list({row.number: row for row in rows}.values())
    board = Board(alpha, beta, loss, limits)
    board.update(rows)
    return [board.at(place, rows[place]) for place in board.ranked_places().tolist()]


def rank_of(
    study: StudyRow, rows: Sequence[TrialRow], alpha: float | None = None, beta: float | None = None
) -> list[Scored]:
    """A study's rows, ranked by its α, β and constraints of now, or by another α and β."""
    return rank(
        rows,
        study.alpha if alpha is None else alpha,
        study.beta if beta is None else beta,
        study.spec["reward"]["loss"],
        of_study(study),
    )


def figures_of(scored: Scored, limits: Limits) -> dict[str, float | None]:
    """What constraints bound of a trial."""
    row = scored.row
    return figures(
        loss=scored.loss_used,
        latency_ms=row.latency_ms,
        teacher_latency_ms=row.teacher_latency_ms,
        parameters=row.parameters,
        reference_ms=limits.reference_ms,
    )


def missed(scored: Scored, limits: Limits) -> str:
    """What a trial misses, in words; empty where it keeps all constraints, or has no result."""
    return limits.told(figures_of(scored, limits)) if scored.infeasible else ""


def nearest_of(scored: Sequence[Scored], limits: Limits) -> str:
    """Of a ranking in which nothing keeps the constraints: `nearest: trial 7, 5.6 ms for at most 5`; else empty."""
    first = next((s for s in scored if s.rank is not None), None)
    return "" if first is None or not first.infeasible else f"nearest: trial {first.number}, {missed(first, limits)}"


def nearest_miss(rows: Sequence[TrialRow], study: StudyRow) -> str:
    """The same of a study's rows."""
    return nearest_of(rank_of(study, rows), of_study(study))


def passing(chosen: Filter, scored: Sequence[Scored]) -> list[Scored]:
    """Those of a ranking that the filter lets through, in their order."""
    if chosen.empty or not scored:
        return list(scored)
    board = Board(0.0, 1.0, limits=Limits((), scored[0].reference_ms))
    board.update([s.row for s in scored])
    board.stand_as(_standing(scored), floats([s.loss_used for s in scored]))
    return [s for s, passes in zip(scored, board.mask(chosen).tolist(), strict=True) if passes]


def _standing(scored: Sequence[Scored]) -> Standing:
    place = np.array([s.rank or 0 for s in scored], dtype=np.int64)
    ranked = np.flatnonzero(place)
    return Standing(
        reward=floats([s.reward for s in scored]),
        rank=place,
        tie=np.array([s.tie for s in scored], dtype=bool),
        front=np.array([s.front for s in scored], dtype=bool),
        order=ranked[np.argsort(place[ranked], kind="stable")],
        miss=floats([s.miss for s in scored]),
    )
