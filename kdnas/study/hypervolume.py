"""How much of what is possible a study's front covers: the hypervolume of loss against latency ratio.

For points (l, r) that are to be small and a reference point (L, R), the area that they dominate together:

    H = area of the union of [l_i, L] × [r_i, R]  over all points with l_i < L and r_i < R

after E. Zitzler and L. Thiele (1998), "Multiobjective optimization using evolutionary algorithms: a comparative case
study", PPSN V, who call it the size of the space covered. In two dimensions it is a sum over the front in the order of
one coordinate. Unlike the best reward it depends on neither α nor β. Pure numpy; reads no store and draws nothing.
"""

from __future__ import annotations

from bisect import bisect_left

import numpy as np

from kdnas.study.trial_columns import Board

REFERENCE = (1.0, 1.0)
"""Normalised loss of a constant prediction, and the teacher's own latency: who is no better in one covers nothing."""

_FIRST, _MOST = 64, 4096  # points compared at once with the front before them


def hypervolume(loss: np.ndarray, ratio: np.ndarray, reference: tuple[float, float] = REFERENCE) -> float:
    """The area that points [n] of (loss, latency over the teacher's latency) dominate up to the reference point.

    Points that are NaN or not better than the reference in both cover nothing; 0 where no point does.
    """
    good = _within(loss, ratio, reference)
    order = np.lexsort((ratio[good], loss[good]))
    losses, ratios = loss[good][order], ratio[good][order]
    if not len(losses):
        return 0.0
    lowest = np.minimum.accumulate(ratios)
    right = np.append(losses[1:], reference[0])
    return float(np.sum((right - losses) * (reference[1] - lowest)))


def hypervolume_so_far(loss: np.ndarray, ratio: np.ndarray, reference: tuple[float, float] = REFERENCE) -> np.ndarray:
    """The hypervolume of the first 1, 2, … n points [n], which never falls; float [n].

    Takes the time of a few sorts, however many points there are: only those that the front before them does not
    dominate are looked at one by one.
    """
    gains = np.zeros(len(loss))
    good = _within(loss, ratio, reference)
    # The front in the order of loss, ratios falling, between two guards at which every area ends.
    losses, ratios = [-np.inf, reference[0]], [reference[1], -np.inf]
    start, size = 0, _FIRST
    while start < len(loss):
        places = start + np.flatnonzero(good[start : start + size])
        before = np.searchsorted(losses, loss[places], side="right") - 1
        for place in places[ratio[places] < np.array(ratios)[before]].tolist():
            gains[place] = _gain(losses, ratios, float(loss[place]), float(ratio[place]))
        start, size = start + size, min(2 * size, _MOST)
    return np.cumsum(gains)


def gains(
    front: tuple[np.ndarray, np.ndarray],
    loss: np.ndarray,
    ratio: np.ndarray,
    reference: tuple[float, float] = REFERENCE,
) -> np.ndarray:
    """What each of the points [n] alone would add to the hypervolume of the points (loss, ratio) [m] of `front`; [n].

    Points that are NaN or not better than the reference in both add nothing.
    """
    good = _within(*front, reference)
    order = np.lexsort((front[1][good], front[0][good]))
    edges = np.concatenate(([-np.inf], front[0][good][order], [reference[0]]))
    ceilings = np.concatenate(([reference[1]], np.minimum.accumulate(front[1][good][order])))
    left = np.maximum(edges[:-1], loss[:, None])
    wide = np.maximum(0.0, edges[1:] - left)
    high = np.maximum(0.0, np.minimum(ceilings, reference[1]) - ratio[:, None])
    found: np.ndarray = np.where(_within(loss, ratio, reference), (wide * high).sum(1), 0.0)
    return found


def loss_and_ratio(board: Board, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Normalised loss, whatever loss the study rewards, and latency over the teacher's, of the trials at places [n] of
    the board; NaN where one is missing; float [n], [n]."""
    times = board.column("speedup")[places]
    return board.normalised()[places], np.divide(1.0, times, out=np.full(len(places), np.nan), where=times > 0)


def _within(loss: np.ndarray, ratio: np.ndarray, reference: tuple[float, float]) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        found: np.ndarray = (loss < reference[0]) & (ratio < reference[1]) & np.isfinite(loss) & np.isfinite(ratio)
    return found


def _gain(losses: list[float], ratios: list[float], loss: float, ratio: float) -> float:
    """Put a point into the front, without those that it dominates; the area that it adds."""
    here = bisect_left(losses, loss)
    # The ratio under which the point adds something at its own loss: that of the last point at or before it.
    above = ratios[here] if losses[here] == loss else ratios[here - 1]
    if ratio >= above:
        return 0.0
    added, left, ceiling, there = 0.0, loss, ratios[here - 1], here
    while ratios[there] >= ratio:
        added += (losses[there] - left) * (ceiling - ratio)
        left, ceiling = losses[there], ratios[there]
        there += 1
    added += (losses[there] - left) * (ceiling - ratio)
    losses[here:there], ratios[here:there] = [loss], [ratio]
    return added
