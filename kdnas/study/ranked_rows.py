"""Lists of rows, ranked and filtered: they go through the columns of `trial_columns`, so that screens and command line
agree. Reads no store.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kdnas.study.columns import floats
from kdnas.study.filter import Filter
from kdnas.study.ranking import LossKind, Scored, Standing
from kdnas.study.rows import TrialRow
from kdnas.study.trial_columns import Board


def rank(rows: Sequence[TrialRow], alpha: float, beta: float, loss: LossKind = "normalised") -> list[Scored]:
    """Every row, scored for α and β: the ranked ones first, the best at the head, then the others by trial number.

    Of several rows of one number the last one counts.
    """
    rows = list({row.number: row for row in rows}.values())
    board = Board(alpha, beta, loss)
    board.update(rows)
    return [board.at(place, rows[place]) for place in board.ranked_places().tolist()]


def passing(chosen: Filter, scored: Sequence[Scored]) -> list[Scored]:
    """Those of a ranking that the filter lets through, in their order."""
    if chosen.empty or not scored:
        return list(scored)
    board = Board(0.0, 1.0)
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
    )
