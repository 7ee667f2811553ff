"""The best reward so far, trial by trial or over the hours, and every trial's own reward behind it."""

from __future__ import annotations

from math import ceil

import numpy as np
from textual.binding import Binding

from kdnas.study.trial_columns import Board
from kdnas_tui.widgets.plot import BRAILLE, Plot, Ticks, outward, round_step

MOST = 2000  # points drawn


class RewardHistory(Plot):
    """Rewards at the board's α and β, in the order in which the trials ended."""

    BINDINGS = [Binding("h", "time", show=False)]

    def __init__(self, *, period: float = 1.0, id: str | None = None) -> None:
        super().__init__("finished trials", "reward", empty="No finished trial yet.", period=period, id=id)
        self.board: Board | None = None
        self.by_time = False
        self._seen: object = None

    def show(self, board: Board) -> None:
        """Draw the board's rewards if they changed."""
        self.board = board
        if board.standing is not self._seen:
            self._seen = board.standing
            self.changed()

    def action_time(self) -> None:
        """Hours instead of trials along the axis, or back."""
        self.by_time = not self.by_time
        self.x_name = "hours" if self.by_time else "finished trials"
        self._draw_now()

    def put(self) -> None:
        if self.board is None:
            return
        x, reward = history(self.board, self.by_time)
        if not len(x):
            return
        best = np.maximum.accumulate(reward)
        kept = np.unique(np.linspace(0, len(x) - 1, min(MOST, len(x))).astype(np.int64))
        self.scatter(x[kept], reward[kept], marker_style=self.style_of("quiet"), hires_mode=BRAILLE)
        rises = np.flatnonzero(np.diff(best, prepend=-np.inf) > 0)
        steps_x = np.append(np.repeat(x[rises], 2)[1:], x[-1])
        steps_y = np.repeat(best[rises], 2)
        self.plot(steps_x, steps_y, line_style=self.style_of("line"), hires_mode=BRAILLE)
        self._x_formatter = Ticks(8, whole=not self.by_time)
        self._auto_y_min = self._auto_y_max = self._auto_x_min = self._auto_x_max = False
        # The few worst do not press the rest against the top edge.
        low, high = float(np.percentile(reward, 2)), float(best[-1])
        self._y_min, self._y_max = outward(low, high)
        most = float(x[-1])
        step = round_step(max(most, 0.1) / 20)
        self._x_min, self._x_max = 0.0, ceil(most * 1.01 / step) * step


def history(board: Board, by_time: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Of the ranked trials, as they ended: how many there were (or hours since the first began), and the reward."""
    places = np.flatnonzero(board.standing.rank > 0)
    ended = board.ended()[places]
    order = np.lexsort((board.numbers[places], np.nan_to_num(ended, nan=0.0)))
    reward = board.standing.reward[places[order]]
    if not by_time:
        return np.arange(1.0, len(order) + 1), reward
    hours = (ended[order] - board.began()) / 3600 if len(order) else ended[order]
    return hours, reward
