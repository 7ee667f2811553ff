"""All trials of one study as columns that are ranked: what screens filter, sort and plot a hundred thousand of.

Takes rows as they change, and makes a TrialRow again for the few that are looked at; the arrays themselves are
trial_arrays.py's. Reads no store and draws nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter

import numpy as np

from kdnas.study import filter_masks
from kdnas.study.columns import (
    CodedColumn,
    Columns,
    as_ints,
    by_key,
    least,
    whole_column,
)
from kdnas.study.constraints import NONE as NO_LIMITS
from kdnas.study.constraints import Limits
from kdnas.study.filter import Filter
from kdnas.study.kept_order import KeptOrder
from kdnas.study.ranking import (
    SCORED_STATES,
    Figures,
    LossKind,
    Scored,
    Standing,
    best_first,
    longer,
    misses,
    rewards,
    stand,
)
from kdnas.study.reference_time import factors
from kdnas.study.rows import TrialRow
from kdnas.study.states import TrialState
from kdnas.study.trial_arrays import TrialArrays
from kdnas.study.trial_fields import BY_KEY, CODED, FLOATS, INTS, LATENCIES, RANKING


class Board(TrialArrays):
    """The trials of one study, ranked for one α and β. Rows are put in and replaced by trial number."""

    def __init__(
        self,
        alpha: float,
        beta: float,
        loss: LossKind = "normalised",
        limits: Limits = NO_LIMITS,
        *,
        whole: bool = True,
    ) -> None:
        super().__init__()
        self.alpha = alpha
        self.beta = beta
        self.loss = loss
        self.limits = limits
        self.whole = whole  # else only what ranks, lists and plots the trials is here
        self._standing: Standing | None = None
        self._used: np.ndarray | None = None  # what `losses` found, until rows change
        self._order = KeptOrder()

    def update(self, rows: Sequence[TrialRow]) -> None:
        """Put in new rows and replace those of the same number."""
        if not rows:
            return
        rows = list({row.number: row for row in rows}.values())
        self.put(
            Columns(
                {name: list(map(attrgetter(name), rows)) for name in (*FLOATS, *INTS, *CODED)},
                by_key([row.candidate for row in rows]),
                by_key([row.config for row in rows]),
                by_key([row.extra for row in rows]),
            )
        )

    def put(self, trials: Columns) -> None:
        """The same for rows that come as columns. Their numbers differ."""
        numbers = whole_column(trials.fields["number"], 1, as_ints)
        if not len(numbers):
            return
        known = self._n
        places = self._places_for(numbers)
        old = places[places < known]
        before = None if self._standing is None else self._ranked_by(old)
        self._write(places, trials)
        self._used = None
        if self._standing is None or before is None:
            return
        # Nothing moves in the ranking when a trial begins, gets on, or is marked, which is most of what happens.
        after = self._ranked_by(old)
        if not _same(before.figures, after.figures) or self._scored(places[places >= known]).any():
            self._standing = None
        elif self._n > known or not _same(before.looks, after.looks):
            self._standing = longer(self._standing, self._n - known)

    def stand_as(self, standing: Standing, losses: np.ndarray) -> None:
        """Take over a standing that is known, and the losses that it used, until rows change."""
        self._standing, self._used = standing, losses

    def rescore(self, alpha: float, beta: float, limits: Limits = NO_LIMITS) -> None:
        """Rank for another α and β, and other constraints."""
        if (alpha, beta, limits) != (self.alpha, self.beta, self.limits):
            self.alpha, self.beta, self.limits = alpha, beta, limits
            self._standing = None

    @property
    def standing(self) -> Standing:
        """Reward, rank, ties and front by place, computed where something changed since the last time."""
        self.rank()
        assert self._standing is not None
        return self._standing

    def rank(self) -> bool:
        """Compute the standing; False where it was known."""
        if self._standing is not None:
            return False
        self._standing = stand(self._figures(), self.alpha, self.beta)
        return True

    def best_for(self, alpha: float, beta: float, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Places and rewards of the `count` best for another α and β, the best first; the board stays as it is."""
        ranked, columns = self.standing.order, self._columns
        kept = ranked[~(self.standing.miss[ranked] > 0)]
        if len(kept) >= count:  # then no other is among the best
            ranked = kept
        values = rewards(
            self.losses()[ranked], columns["latency_ms"][ranked], columns["teacher_latency_ms"][ranked], alpha, beta
        )
        if ranked is kept and count < len(ranked):
            least = np.partition(values, len(values) - count)[len(values) - count]
            ranked, values = ranked[values >= least], values[values >= least]
        first = best_first(self.numbers[ranked], values, self.standing.miss[ranked])[:count]
        return ranked[first], values[first]

    def scored(self, number: int) -> Scored | None:
        """The trial of this number, None where there is none."""
        if not 0 <= number < len(self._place) or self._place[number] < 0:
            return None
        return self.at(int(self._place[number]))

    def best(self, count: int) -> list[Scored]:
        """The `count` best, the best first."""
        return [self.at(place) for place in self.standing.order[:count].tolist()]

    def ranked(self, mask: np.ndarray | None = None) -> list[Scored]:
        """All trials (where the mask is), in the order of `ranked_places`: for exports, not for every tick."""
        return [self.at(place) for place in self.ranked_places(mask).tolist()]

    def ranked_places(self, mask: np.ndarray | None = None) -> np.ndarray:
        """Places of all trials (where the mask is): the ranked ones first, the best at the head, then those of lower
        rungs, the highest first, then the others, each by number; int [m]."""
        places = np.arange(self._n) if mask is None else np.flatnonzero(mask)
        rank = self.standing.rank[places]
        below = np.where(self.behind(), -self.rungs(), np.inf)[places]
        return places[np.lexsort((self.numbers[places], below, np.where(rank > 0, rank, np.iinfo(np.int64).max)))]

    def at(self, place: int, row: TrialRow | None = None) -> Scored:
        """The trial at a place of the columns, with the row that was put in there where it is at hand."""
        standing = self.standing
        used = self.losses()[place]
        return Scored(
            row or self.row(place),
            None if np.isnan(standing.reward[place]) else float(standing.reward[place]),
            int(standing.rank[place]) or None,
            bool(standing.tie[place]),
            bool(standing.front[place]),
            None if np.isnan(used) else float(used),
            None if np.isnan(standing.miss[place]) else float(standing.miss[place]),
            self.limits.reference_ms,
        )

    def behind(self) -> np.ndarray:
        """Which trials are done and stayed on a lower rung than others, so that they have no rank; bool [n]."""
        standing = self.standing
        done = self._coded["state"].where(self._n, lambda state: state == TrialState.DONE)
        return done & (standing.rank == 0) & ~np.isnan(standing.reward)

    def column(self, key: str) -> np.ndarray:
        """Floats [n] of a key of the filter language, in its order where it is text; missing values are NaN."""
        n = self._n
        if key in BY_KEY:
            name = BY_KEY[key]
            if name in LATENCIES:
                return self._told(name)
            if name in FLOATS:
                return self._columns[name][:n]
            if name in INTS:
                whole = self._columns[name][:n]
                return np.where(whole == least(whole), np.nan, whole)
            return self._coded[name].sortable(n)
        match key:
            case "reward":
                return self.standing.reward
            case "rank":
                return np.where(self.standing.rank > 0, self.standing.rank, np.nan)
            case "loss":
                return self.losses()
            case "speedup":
                return speedups(self._columns["teacher_latency_ms"][:n], self._columns["latency_ms"][:n])
            case "duration":
                return self._columns["ended"][:n] - self._columns["started"][:n]
            case "interval":
                return self._told("latency_high_ms") - self._told("latency_low_ms")
            case "half":
                return self.column("interval") / 2
        found = np.full(n, np.nan)
        for values in reversed(list(self.keyed(key))):
            if isinstance(values, CodedColumn):
                found = np.where(values.present(n), values.sortable(n), found)
            else:
                found = np.where(np.isnan(values), found, values)
        return found

    def _told(self, name: str) -> np.ndarray:
        """A column of latencies for the study's time of the teacher, in ms; float [n]."""
        measured, reference = self._columns[name][: self._n], self.limits.reference_ms
        return measured * factors(self._columns["teacher_latency_ms"][: self._n], reference) if reference else measured

    def order(self, key: str, *, descending: bool = False, mask: np.ndarray | None = None) -> np.ndarray:
        """Places (where the mask is) sorted by a key, missing values last, equal ones by trial number; int [m]."""
        values, numbers = self.column(key), self.numbers
        if key in ("reward", "rank"):  # below the ranked ones first what runs, then the newest
            if key == "reward" and self.limits:  # what misses a constraint comes after all that keep them
                values = -self.standing.rank.astype(float)
            values = np.where(self.standing.rank > 0, values, np.nan)
            numbers = np.where(np.isnan(values), -numbers - np.where(self.runs(), self._n + 1e9, 0), numbers)
        places = self._order.of(-values if descending else values, numbers)
        return places if mask is None else places[mask[places]]

    def mask(self, chosen: Filter) -> np.ndarray:
        """Which trials pass, bool [n]."""
        return filter_masks.mask(chosen, self)

    def _ranked_by(self, places: np.ndarray) -> _RankedBy:
        """What decides on the ranking of these, and what else of them is told by place; without results, nothing."""
        state, scored = self._coded["state"].codes[places], self._scored(places)
        figures = [np.where(scored, self._columns[name][places], 0) for name in RANKING]
        figures.append(np.where(scored, self.rungs()[places], 0))
        return _RankedBy((*figures, np.where(scored, state, 0)), (state, self._coded["marked"].codes[places]))

    def losses(self) -> np.ndarray:
        """The loss that the reward sees, the mean over repeats where there are some, NaN where none; float [n]."""
        if self._used is None:
            self._used = self.normalised() if self.loss == "normalised" else self._mean_or_only("raw_loss")
        return self._used

    def normalised(self) -> np.ndarray:
        """The normalised loss, whatever the reward sees, the mean over repeats where there are some; float [n]."""
        return self._mean_or_only("loss")

    def _mean_or_only(self, name: str) -> np.ndarray:
        means = self._columns[f"mean_{name}"][: self._n]
        return np.where(np.isnan(means), self._columns[name][: self._n], means)

    def _figures(self) -> Figures:
        n, columns = self._n, self._columns
        means = columns["mean_loss"][:n]
        with np.errstate(invalid="ignore", divide="ignore"):
            spread = columns["loss_spread"][:n] / np.abs(np.where(np.isnan(means), columns["loss"][:n], means))
        state = self._coded["state"]
        return Figures(
            number=self.numbers,
            done=state.where(n, lambda value: value == TrialState.DONE),
            scored=state.where(n, lambda value: value in SCORED_STATES),
            loss=self.losses(),
            latency_ms=columns["latency_ms"][:n],
            low_ms=columns["latency_low_ms"][:n],
            high_ms=columns["latency_high_ms"][:n],
            teacher_latency_ms=columns["teacher_latency_ms"][:n],
            told_ms=self._told("latency_ms"),
            spread=spread,
            repeats=columns["repeats"][:n],
            rung=self.rungs(),
            miss=misses(
                self.limits,
                loss=self.losses(),
                latency_ms=columns["latency_ms"][:n],
                teacher_latency_ms=columns["teacher_latency_ms"][:n],
                parameters=self.column("params"),
            ),
        )


@dataclass(frozen=True)
class _RankedBy:
    figures: tuple[np.ndarray, ...]
    looks: tuple[np.ndarray, ...]


def speedups(teacher_latency_ms: np.ndarray, latency_ms: np.ndarray) -> np.ndarray:
    """Teacher's latency over the student's, as `TrialRow.speedup`: NaN where one of them is missing or 0; float [n]."""
    known = (teacher_latency_ms != 0) & (latency_ms != 0)
    return np.divide(teacher_latency_ms, latency_ms, out=np.full(len(known), np.nan), where=known)


def _same(one: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> bool:
    return all(np.array_equal(a, b, equal_nan=a.dtype.kind == "f") for a, b in zip(one, other, strict=True))
