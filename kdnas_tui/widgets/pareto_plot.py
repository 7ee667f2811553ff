"""Loss against latency: every done trial a dot, the front connected, the cursor and the marks of the table.

A click puts the cursor on the nearest trial, left and right walk along the front.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from textual import events
from textual.message import Message
from textual_hires_canvas import Canvas

from kdnas.study.ranking import Standing
from kdnas.study.trial_columns import Board
from kdnas_tui.widgets.axis_scale import logarithm, spans_decades
from kdnas_tui.widgets.axis_ticks import LogTicks, Ticks, outward
from kdnas_tui.widgets.plot import BRAILLE, Plot
from kdnas_tui.widgets.readout import readout

MOST = 2000  # points drawn; the front and the marks are always among them
_NEAR = 4.0  # cells within which a click finds a trial


class ParetoPlot(Plot):
    """Shows what the table shows: give it the same board and mask."""

    class CursorMoved(Message):
        """A trial was chosen in the plot."""

        def __init__(self, plot: ParetoPlot, number: int) -> None:
            super().__init__()
            self.plot, self.number = plot, number

        @property
        def control(self) -> ParetoPlot:
            return self.plot

    def __init__(self, *, period: float = 1.0, id: str | None = None) -> None:
        super().__init__("latency ms", "loss", empty="No finished trial yet.", period=period, id=id)
        self.board: Board | None = None
        self.cursor: int | None = None
        self.log_latency: bool | None = None  # None where the latencies decide
        self._x_log = False
        self._mask: np.ndarray | None = None
        self._seen: tuple[Standing | None, bytes | None] = (None, None)
        self._numbers = np.zeros(0, dtype=np.int64)  # of the points drawn
        self._x = np.zeros(0)
        self._y = np.zeros(0)

    def show(self, board: Board, mask: np.ndarray | None = None) -> None:
        """Show the board's done trials, those of the mask; draw only if they changed."""
        self.board, self._mask = board, mask
        self.empty = "No finished trial yet." if mask is None else "No finished trial passes the filter."
        standing = board.standing
        seen = (standing, None if mask is None else mask.tobytes())
        if standing is not self._seen[0] or seen[1:] != self._seen[1:]:
            self._seen = seen
            self.changed()

    def point_at(self, number: int | None) -> None:
        """Put the cursor on a trial, as the table does."""
        if number != self.cursor:
            self.cursor = number
            self.cursor_changed()

    @property
    def count(self) -> int:
        """How many points are drawn."""
        return len(self._numbers)

    # ------------------------------------------------------------------ drawing

    def put(self) -> None:
        board = self.board
        if board is None or not len(board):
            self._numbers = np.zeros(0, dtype=np.int64)
            return
        standing = board.standing
        shown = standing.rank > 0
        if self._mask is not None and len(self._mask) == len(shown):
            shown &= self._mask
        front = shown & standing.front
        marked = shown & (board.marked() if shown.any() else shown)
        places = self._thinned(shown, front | marked)
        latency, loss = board.column("latency"), board.column("loss")
        self._x_log = spans_decades(latency[shown]) if self.log_latency is None else self.log_latency
        self.y_log = spans_decades(loss[shown])
        self.x_name = "latency ms, log" if self._x_log else "latency ms"
        x_all, loss = logarithm(latency) if self._x_log else latency, logarithm(loss) if self.y_log else loss
        self._numbers, self._x, self._y = board.numbers[places], x_all[places], loss[places]
        self.remark = ""
        if not len(places):
            return
        self._limit(x_all[shown], loss[shown], x_all[front], loss[front])
        inside = (self._x <= self._x_max) & (self._y <= self._y_max)
        kept = ~(standing.miss[places] > 0) | front[places]
        self.scatter(
            self._x[inside & kept], self._y[inside & kept], marker_style=self.style_of("quiet"), hires_mode=BRAILLE
        )
        missing = inside & ~kept
        self.scatter(self._x[missing], self._y[missing], marker="^", marker_style=self.style_of("quiet"))
        line = np.flatnonzero(front)
        line = line[np.argsort(x_all[line], kind="stable")]
        if len(line) > 1:
            self.plot(x_all[line], loss[line], line_style=self.style_of("line"), hires_mode=BRAILLE)
        self.scatter(x_all[line], loss[line], marker="●", marker_style=self.style_of("line"))
        within = marked & (x_all <= self._x_max) & (loss <= self._y_max)
        self.scatter(x_all[within], loss[within], marker="◆", marker_style=self.style_of("mark"))
        self.remark = self.put_beyond(x_all[shown], loss[shown])

    def _thinned(self, shown: np.ndarray, always: np.ndarray) -> np.ndarray:
        """Places of at most MOST points: those of `always`, and the others evenly thinned."""
        kept = np.flatnonzero(shown & always)
        others = np.flatnonzero(shown & ~always)
        room = max(0, MOST - len(kept))
        if len(others) > room:
            others = others[np.linspace(0, len(others) - 1, room).astype(np.int64)] if room else others[:0]
        return np.concatenate((others, kept))

    def _limit(self, x: np.ndarray, y: np.ndarray, front_x: np.ndarray, front_y: np.ndarray) -> None:
        """Axes that hold the front whole and all but the farthest hundredth of the rest."""
        self._auto_x_min = self._auto_x_max = self._auto_y_min = self._auto_y_max = False
        self._x_formatter = LogTicks() if self._x_log else Ticks(8)
        low_x, low_y = float(x.min()), float(y.min())
        high_x = max(float(np.percentile(x, 99)), float(front_x.max()) if len(front_x) else low_x)
        high_y = max(float(np.percentile(y, 99)), float(front_y.max()) if len(front_y) else low_y)
        self._x_min, self._x_max = outward(low_x, high_x)
        self._y_min, self._y_max = outward(low_y, high_y)

    def put_cursor(self, canvas: Canvas) -> None:
        self.put_sign(canvas, "✛")

    def says(self) -> Sequence[str]:
        pieces = readout(self.board, self.cursor)
        return (*pieces[:1], *pieces[2:], *pieces[1:2])  # what the axes show first

    def cursor_point(self) -> tuple[float, float] | None:
        if self.board is None or self.cursor is None or not len(self._numbers):
            return None
        scored = self.board.scored(self.cursor)
        if scored is None or scored.loss_used is None or not scored.row.latency_ms:
            return None
        point = np.array([scored.told.latency_ms]), np.array([scored.loss_used])
        x, y = (logarithm(one) if log else one for one, log in zip(point, (self._x_log, self.y_log), strict=True))
        return (float(x[0]), float(y[0])) if np.isfinite(x[0]) and np.isfinite(y[0]) else None

    # ------------------------------------------------------------------ choosing

    def turn_axis(self) -> None:
        """Latency on a logarithmic axis, or back."""
        self.log_latency = not self._x_log
        self._draw_now()

    def go_along(self, step: int) -> None:
        """The next trial of the front, to the faster or the slower."""
        if self.board is None:
            return
        front = self.board.standing.front
        places = np.flatnonzero(front if self._mask is None else front & self._mask)
        if not len(places):
            return
        latency = self.board.column("latency")[places]
        order = np.argsort(latency, kind="stable")
        numbers = self.board.numbers[places[order]].tolist()
        if self.cursor in numbers:
            here = numbers.index(self.cursor) + step
        else:
            scored = self.board.scored(self.cursor) if self.cursor is not None else None
            at = (scored.told.latency_ms if scored else None) or 0.0
            here = int(np.searchsorted(latency[order], at)) - (step < 0)
        self._choose(numbers[max(0, min(here, len(numbers) - 1))])

    def on_click(self, event: events.Click) -> None:
        canvas = self._canvas()
        if canvas is None or not len(self._numbers):
            return
        spot = event.screen_offset - canvas.region.offset
        inside = self._scale_rectangle
        columns = inside.x + (self._x - self._x_min) / (self._x_max - self._x_min) * inside.width - 0.5
        rows = inside.bottom - (self._y - self._y_min) / (self._y_max - self._y_min) * inside.height - 0.5
        distance = np.hypot(columns - spot.x, 2 * (rows - spot.y))  # a cell is twice as high as wide
        nearest = int(np.argmin(distance))
        if distance[nearest] <= _NEAR:
            self._choose(int(self._numbers[nearest]))

    def _choose(self, number: int) -> None:
        if number != self.cursor:
            self.point_at(number)
            self.post_message(self.CursorMoved(self, number))
