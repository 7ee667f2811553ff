"""The best reward so far, trial by trial or over the hours, and every trial's own reward behind it; or the hypervolume.

Filter, marks and cursor are those of the table: ◆ a marked trial, ✛ the one under the cursor.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import numpy as np
from textual_hires_canvas import Canvas

from kdnas.study.hypervolume import REFERENCE, hypervolume_so_far, loss_and_ratio
from kdnas.study.trial_columns import Board
from kdnas_tui.widgets.axis_scale import logarithm, spans_decades
from kdnas_tui.widgets.axis_ticks import Ticks, outward, round_step
from kdnas_tui.widgets.plot import BRAILLE, Plot
from kdnas_tui.widgets.readout import readout, undated

MOST = 2000  # points drawn


class RewardHistory(Plot):
    """Rewards at the board's α and β, in the order in which the trials ended."""

    def __init__(self, *, period: float = 1.0, id: str | None = None) -> None:
        super().__init__("finished trials", "reward", empty="No finished trial yet.", period=period, id=id)
        self.board: Board | None = None
        self.by_time = False
        self.hypervolume = False  # instead of rewards
        self.cursor: int | None = None
        self._mask: np.ndarray | None = None
        self._seen: tuple[object, bytes | None, bytes] = (None, None, b"")
        self._places = np.zeros(0, dtype=np.int64)  # of the board, of the points drawn
        self._x = self._reward = np.zeros(0)

    def show(self, board: Board, mask: np.ndarray | None = None) -> None:
        """Draw the board's rewards, those of the mask, if they changed."""
        self.board, self._mask = board, mask
        self.empty = "No finished trial yet." if mask is None else "No finished trial passes the filter."
        seen = (board.standing, None if mask is None else mask.tobytes(), np.packbits(board.marked()).tobytes())
        if seen[0] is not self._seen[0] or seen[1:] != self._seen[1:]:
            self._seen = seen
            self.changed()

    def point_at(self, number: int | None) -> None:
        """Put the cursor on a trial, as the table does."""
        if number != self.cursor:
            self.cursor = number
            self.cursor_changed()

    def turn_axis(self) -> None:
        """Hours instead of trials along the axis, or back."""
        self.by_time = not self.by_time
        self.x_name = "hours" if self.by_time else "finished trials"
        self._draw_now()

    def another_measure(self) -> None:
        """The hypervolume instead of rewards, or back."""
        self.hypervolume = not self.hypervolume
        self._draw_now()

    def put(self) -> None:
        if self.board is None:
            return
        places, x, reward = placed(self.board, self.by_time, self._mask)
        if self.hypervolume:
            loss, ratio = loss_and_ratio(self.board, places)
            reward = hypervolume_so_far(np.where(self._counting(places), loss, np.nan), ratio)
        self.y_name = "covered" if self.hypervolume else "reward"
        self.remark = f"hypervolume to loss {REFERENCE[0]:g}, ratio {REFERENCE[1]:g}" if self.hypervolume else ""
        if self.by_time and (without := undated(self.board, self.board.standing.rank > 0)):
            self.remark = "  ".join(filter(None, (self.remark, without)))
            self.empty = f"{without}."
        self.y_log = spans_decades(reward)
        reward = logarithm(reward) if self.y_log else reward
        self._places, self._x, self._reward = places, x, reward
        if not len(x):
            return
        counted = self._counted()
        best = np.maximum.accumulate(np.where(counted, reward, -np.inf))
        if not self.hypervolume:
            kept = np.unique(np.linspace(0, len(x) - 1, min(MOST, len(x))).astype(np.int64))
            self.scatter(x[kept], reward[kept], marker_style=self.style_of("quiet"), hires_mode=BRAILLE)
        rises = np.flatnonzero(best > np.concatenate(([-np.inf], best[:-1])))
        if len(rises):
            steps_x = np.append(np.repeat(x[rises], 2)[1:], x[-1])
            steps_y = np.repeat(best[rises], 2)
            self.plot(steps_x, steps_y, line_style=self.style_of("line"), hires_mode=BRAILLE)
        marked = self.board.marked()[places]
        self.scatter(x[marked], reward[marked], marker="◆", marker_style=self.style_of("mark"))
        self._x_formatter = Ticks(8, whole=not self.by_time)
        self._auto_y_min = self._auto_y_max = self._auto_x_min = self._auto_x_max = False
        # The few worst do not press the rest against the top edge; they are marked at the bottom.
        low, high = float(np.percentile(reward, 2)), float(reward.max())
        self._y_min, self._y_max = outward(low, high)
        most = float(x[-1])
        step = round_step(max(most, 0.1) / 20)
        self._x_min, self._x_max = 0.0, ceil(most * 1.01 / step) * step
        self.remark = "  ".join(filter(None, (self.remark, self.put_beyond(x, reward))))

    def _counted(self) -> np.ndarray:
        """Which of the points drawn may be the best: of rewards those that keep the constraints; bool [n]."""
        return np.ones(len(self._x), dtype=bool) if self.hypervolume else self._counting(self._places)

    def _counting(self, places: np.ndarray) -> np.ndarray:
        assert self.board is not None
        return ~(self.board.standing.miss[places] > 0)

    def put_cursor(self, canvas: Canvas) -> None:
        self.put_sign(canvas, "✛")

    def cursor_point(self) -> tuple[float, float] | None:
        if self.board is None or self.cursor is None or not len(self._places):
            return None
        found = np.flatnonzero(self.board.numbers[self._places] == self.cursor)
        return (float(self._x[found[0]]), float(self._reward[found[0]])) if len(found) else None

    def says(self) -> Sequence[str]:
        pieces, point = readout(self.board, self.cursor), self.cursor_point()
        if point is None:
            return pieces
        before = self._reward[(self._x <= point[0]) & self._counted()]
        if not len(before):
            return (*pieces[:2], "none feasible so far", *pieces[2:])
        so_far = float(before.max())
        so_far = 10**so_far if self.y_log else so_far
        return (*pieces[:2], f"{'covered' if self.hypervolume else 'best'} so far {so_far:.3f}", *pieces[2:])


def history(board: Board, by_time: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Of the ranked trials, as they ended: how many there were (or hours since the first began), and the reward."""
    return placed(board, by_time)[1:]


def placed(
    board: Board, by_time: bool = False, mask: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same for those of the mask, after their places on the board. A filter changes no trial's place in time."""
    ranked = board.standing.rank > 0
    places = np.flatnonzero(ranked & ~board.mistimed() if by_time else ranked)
    ended = board.ended()[places]
    order = np.lexsort((board.numbers[places], np.nan_to_num(ended, nan=0.0)))
    reward = board.standing.reward[places[order]]
    x = (ended[order] - board.began()) / 3600 if by_time and len(order) else np.arange(1.0, len(order) + 1)
    places = places[order]
    kept = np.ones(len(places), dtype=bool) if mask is None or len(mask) != len(board) else mask[places]
    return places[kept], x[kept], reward[kept]
