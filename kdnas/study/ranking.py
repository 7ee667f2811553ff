"""Finished trials in the order of their reward, for any α and β: rank, ties, Pareto front.

Vectorised, so that moving α re-ranks a hundred thousand trials between two key presses. Runs nothing and
reads no store.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from kdnas.study import reference_time
from kdnas.study.constraints import UNKNOWN, Limits, size_mib
from kdnas.study.reward import KNEE, LOG_MOST, MOST
from kdnas.study.rows import TrialRow
from kdnas.study.states import TrialState

LossKind = Literal["normalised", "raw"]

LOSS_NOISE = 0.01
"""Standard deviation between two seeds as a share of the loss, taken where no trial was evaluated again."""

_NORMAL_95 = 1.96  # half of a 95 % interval in standard deviations

MANY, RIVALS = 1000, 8  # points from which on a front is narrowed first, and by how many of them

# A reused result has its reward, but the trial it repeats has the rank.
SCORED_STATES = frozenset({TrialState.DONE, TrialState.REUSED})


class Scored(NamedTuple):
    """One trial as it stands among the others; with repeats, `reward` and `loss_used` come from their mean."""

    row: TrialRow
    reward: float | None  # None for a trial without a result
    rank: int | None  # from 1; None unless the trial is done, on the highest rung where the study has rungs
    tie: bool  # cannot be told from a better one: their rewards are closer than their noise
    front: bool  # no other done trial has both a lower loss and a lower latency, as told for one time of the teacher
    loss_used: float | None  # the loss that the reward sees, normalised or raw
    miss: float | None = None  # by how much it misses the study's constraints, 0 where it keeps all; None: no result
    reference_ms: float | None = None  # the study's time of the teacher, for which latencies are told

    @property
    def told(self) -> TrialRow:
        """Its row with latencies that compare with those of other trials: told for the study's time of the teacher."""
        return reference_time.at(self.row, self.reference_ms)

    @property
    def number(self) -> int:
        return self.row.number

    @property
    def speedup(self) -> float | None:
        """Teacher's latency over the student's."""
        return self.row.speedup

    @property
    def infeasible(self) -> bool:
        """Whether it has a result and misses a constraint of the study."""
        return bool(self.miss)

    @property
    def behind(self) -> bool:
        """Whether it is done and stayed on a lower rung than others, so that it has a reward and no rank."""
        return self.rank is None and self.reward is not None and self.row.state == TrialState.DONE


def on_highest_rung(rung: np.ndarray) -> np.ndarray:
    """Which of the done trials [n] may be ranked, from the rung that each reached (NaN where the study has none); bool.

    Only those of the highest rung that any of them reached. What is known of the others is of a shorter training or of
    none, and deeper students gain more from training: a list of both would put shallow students first. Ranks, ties,
    front and best of a study, and all that takes the first so many of it, follow from this.
    """
    known = rung[~np.isnan(rung)]
    return ~(rung < known.max()) if len(known) else np.ones(len(rung), dtype=bool)


def rewards(
    loss: np.ndarray, latency_ms: np.ndarray, teacher_latency_ms: np.ndarray, alpha: float, beta: float
) -> np.ndarray:
    """`kdnas.study.reward.reward` for arrays of one shape; NaN where that raises ValueError."""
    with np.errstate(all="ignore"):
        tail = (1.0 - KNEE) * np.exp(-(np.maximum(loss, KNEE) - KNEE) / (1.0 - KNEE))
        quality = np.where(loss <= KNEE, 1.0 - loss, tail)
        found = np.minimum(quality * _speeds(latency_ms, teacher_latency_ms, alpha, beta), MOST)
        whole = np.isfinite(loss) & (latency_ms > 0) & (teacher_latency_ms > 0)
        whole &= np.isfinite(latency_ms) & np.isfinite(teacher_latency_ms) & (0 < beta < np.inf) & np.isfinite(alpha)
    return np.where(whole, found, np.nan)


def _speeds(latency_ms: np.ndarray, teacher_latency_ms: np.ndarray, alpha: float, beta: float) -> np.ndarray:
    """`(latency_S / (β · latency_T)) ^ α`; by logarithms where a step of it is too small or too large for a float."""
    ratio = latency_ms / (np.float64(beta) * teacher_latency_ms)
    factor = ratio**alpha
    odd = ~((ratio > 0) & np.isfinite(ratio) & np.isfinite(factor))
    if odd.any():
        steps = np.log(latency_ms[odd]) - np.log(np.float64(beta)) - np.log(teacher_latency_ms[odd])
        exponent = alpha * steps if alpha else np.zeros(len(steps))
        factor[odd] = np.where(exponent < LOG_MOST, np.exp(exponent), MOST)
    return factor


def on_front(loss: np.ndarray, latency_ms: np.ndarray) -> np.ndarray:
    """Which points [n] of (loss, latency) no other point beats in one and equals or beats in the other; bool [n]."""
    front = np.zeros(len(loss), dtype=bool)
    hopeful = np.flatnonzero(~_plainly_beaten(loss, latency_ms))
    front[hopeful] = _on_front(loss[hopeful], latency_ms[hopeful])
    return front


def _plainly_beaten(loss: np.ndarray, latency_ms: np.ndarray) -> np.ndarray:
    """Which points [n] one of a few good ones beats in both; leaves little to sort of a hundred thousand. bool [n]."""
    beaten = np.zeros(len(loss), dtype=bool)
    if len(loss) < MANY:
        return beaten
    limits = np.quantile(latency_ms[:: len(loss) // MANY], np.linspace(0.02, 1.0, RIVALS))
    for limit in limits:
        rival = int(np.where(latency_ms <= limit, loss, np.inf).argmin())
        beaten |= (loss > loss[rival]) & (latency_ms > latency_ms[rival])
    return beaten


def _on_front(loss: np.ndarray, latency_ms: np.ndarray) -> np.ndarray:
    n = len(loss)
    if n == 0:
        return np.zeros(0, dtype=bool)
    order = np.lexsort((loss, latency_ms))
    sorted_loss, sorted_latency = loss[order], latency_ms[order]
    before = np.concatenate(([np.inf], np.minimum.accumulate(sorted_loss)[:-1]))
    better = sorted_loss < before
    new = np.ones(n, dtype=bool)  # equal points stand or fall together
    new[1:] = (sorted_loss[1:] != sorted_loss[:-1]) | (sorted_latency[1:] != sorted_latency[:-1])
    first = np.maximum.accumulate(np.where(new, np.arange(n), 0))
    front = np.empty(n, dtype=bool)
    front[order] = better[first]
    return front


@dataclass(frozen=True)
class Figures:
    """What a ranking reads of n trials, each an array [n]; missing figures are NaN."""

    number: np.ndarray
    done: np.ndarray  # bool: may take a rank
    scored: np.ndarray  # bool: done, or reused from one that is
    loss: np.ndarray  # the loss that the reward sees, the mean over repeats where there are some
    latency_ms: np.ndarray
    low_ms: np.ndarray  # 95 % interval of the median latency
    high_ms: np.ndarray
    teacher_latency_ms: np.ndarray
    told_ms: np.ndarray  # the latency, told for the study's time of the teacher, so that trials compare
    spread: np.ndarray  # standard deviation of the loss over repeats, as a share of their mean
    repeats: np.ndarray
    rung: np.ndarray  # float, NaN where the study has no rungs
    miss: np.ndarray  # by how much each misses the study's constraints, 0 where it keeps all


@dataclass(frozen=True)
class Standing:
    """How n trials stand, each an array [n]."""

    reward: np.ndarray  # NaN where there is no result
    rank: np.ndarray  # int, from 1; 0 where there is none
    tie: np.ndarray  # bool
    front: np.ndarray  # bool
    order: np.ndarray  # places of the ranked trials, the best first
    miss: np.ndarray  # by how much each misses the constraints: 0 where it keeps all, NaN where there is no result

    @property
    def best(self) -> int | None:
        """The place of the best trial; None where none that is ranked keeps all constraints."""
        return int(self.order[0]) if len(self.order) and not self.miss[self.order[0]] > 0 else None

    @property
    def nearest(self) -> int | None:
        """Where no ranked trial keeps all constraints: the place of the one that misses them by least."""
        return int(self.order[0]) if len(self.order) and self.miss[self.order[0]] > 0 else None


def stand(figures: Figures, alpha: float, beta: float) -> Standing:
    """Reward, rank, ties and front for α and β.

    Where the study has rungs, only trials on the highest one have a rank (`on_highest_rung`). Trials that miss a
    constraint come after all that keep them, those that miss by less first (the rule of Deb, 2000). They tie with none,
    and are on the front only while no ranked trial keeps all. Equal rewards are ordered by trial number. A trial is a
    tie when its reward is closer to that of the best of its group than their noise taken together: the 95 % interval of
    its latency and of its loss (from the spread of its repeats, else the mean relative spread of the study's repeats,
    else LOSS_NOISE), carried over to the reward.
    """
    n = len(figures.number)
    scored = np.flatnonzero(figures.scored)
    reward = np.full(n, np.nan)
    reward[scored] = rewards(
        figures.loss[scored], figures.latency_ms[scored], figures.teacher_latency_ms[scored], alpha, beta
    )
    ranked = np.flatnonzero(figures.done & ~np.isnan(reward))
    ranked = ranked[on_highest_rung(figures.rung[ranked])]
    miss = np.where(figures.scored, figures.miss, np.nan)
    order = ranked[best_first(figures.number[ranked], reward[ranked], miss[ranked])]
    rank = np.zeros(n, dtype=np.int64)
    rank[order] = np.arange(1, len(order) + 1)
    tie = np.zeros(n, dtype=bool)
    kept = order[~(miss[order] > 0)]
    tie[kept] = ties(reward[kept], noises(figures, reward, alpha)[kept])
    front = np.zeros(n, dtype=bool)
    among = kept if len(kept) else ranked
    front[among] = on_front(figures.loss[among], figures.told_ms[among])
    return Standing(reward, rank, tie, front, order, miss)


def best_first(number: np.ndarray, reward: np.ndarray, miss: np.ndarray) -> np.ndarray:
    """The order of trials [n]: those that keep all constraints by reward, then the others by how much they miss."""
    return np.lexsort((number, -reward, np.maximum(miss, 0.0)))


def misses(
    limits: Limits,
    *,
    loss: np.ndarray,
    latency_ms: np.ndarray,
    teacher_latency_ms: np.ndarray,
    parameters: np.ndarray,
) -> np.ndarray:
    """`kdnas.study.constraints.Limits.miss` for arrays [n], in which missing figures are NaN."""
    found = np.zeros(len(loss))
    if not limits:
        return found
    with np.errstate(all="ignore"):
        timed = (latency_ms != 0) & (teacher_latency_ms != 0) & ~np.isnan(latency_ms) & ~np.isnan(teacher_latency_ms)
        speedup = np.where(timed, teacher_latency_ms / latency_ms, np.nan)
        told = latency_ms if not limits.reference_ms else np.where(timed, limits.reference_ms / speedup, latency_ms)
        values = {
            "loss": loss,
            "latency_ms": told,
            "speedup": speedup,
            "parameters": parameters,
            "size_mib": size_mib(parameters),
        }
        for limit in limits.limits:
            by = limit.violation(values[limit.figure])
            found += np.where(np.isnan(by), UNKNOWN, np.maximum(by, 0.0))
    return found


def longer(standing: Standing, by: int) -> Standing:
    """Another one with so many more trials that have no result yet: whoever saw the one before draws again."""
    return Standing(
        np.concatenate((standing.reward, np.full(by, np.nan))),
        np.concatenate((standing.rank, np.zeros(by, dtype=standing.rank.dtype))),
        np.concatenate((standing.tie, np.zeros(by, dtype=bool))),
        np.concatenate((standing.front, np.zeros(by, dtype=bool))),
        standing.order,
        np.concatenate((standing.miss, np.full(by, np.nan))),
    )


def noises(figures: Figures, reward: np.ndarray, alpha: float) -> np.ndarray:
    """Half of the 95 % interval of each reward, first-order, loss and latency taken as independent."""
    with np.errstate(all="ignore"):
        half = (figures.high_ms - figures.low_ms) / 2.0 / figures.latency_ms
        latency_noise = np.nan_to_num(half, nan=0.0, posinf=0.0, neginf=0.0)  # none where no interval is known
        known = np.isfinite(figures.spread)
        common = float(np.sqrt(np.mean(figures.spread[known] ** 2))) if known.any() else LOSS_NOISE
        spread = np.where(known, figures.spread, common) / np.sqrt(1.0 + figures.repeats)
        loss_noise = _NORMAL_95 * spread * np.abs(figures.loss)
        # d ln(quality) / d loss: −1/(1 − loss) below the knee, in the tail the constant −1/(1 − KNEE).
        steepness = 1.0 / (1.0 - np.minimum(figures.loss, KNEE))
        return np.abs(reward) * np.hypot(loss_noise * steepness, alpha * latency_noise)


def ties(values: np.ndarray, noise: np.ndarray) -> list[bool]:
    """Best first: whether each reward belongs to the group of a better one. Groups are cut at the first clear step."""
    found: list[bool] = []
    best, best_square = np.inf, 0.0
    with np.errstate(over="ignore"):
        squares = noise * noise
    for value, square in zip(values.tolist(), squares.tolist(), strict=True):
        gap = best - value
        tie = gap * gap <= best_square + square
        if not tie:
            best, best_square = value, square
        found.append(tie)
    return found
