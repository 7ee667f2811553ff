"""Learning curves: held-out loss after each epoch of running and marked trials and of the one under the cursor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from textual_hires_canvas import Canvas

from kdnas.study.rows import CurvePoint
from kdnas.study.trial_columns import Board
from kdnas_tui.widgets.axis_scale import logarithm, spans_decades
from kdnas_tui.widgets.axis_ticks import Ticks, outward
from kdnas_tui.widgets.plot import BRAILLE, Plot

MOST = 12  # curves at once


def wanted_curves(board: Board | None, cursor: int | None) -> dict[int, str]:
    """Trial number → look of its curve: the cursor's, then the running, then the marked ones, at most MOST."""
    found: dict[int, str] = {}
    if board is None or not len(board):
        return found
    if cursor is not None:
        found[cursor] = "cursor"
    for look, numbers in (("line", board.running()), ("mark", board.numbers[board.marked()].tolist())):
        for number in numbers[-MOST:]:
            if len(found) < MOST:
                found.setdefault(number, look)
    return found


class Curves(Plot):
    """Give it the curves of `wanted_curves`; each is labelled with its trial's number at its end."""

    def __init__(self, *, period: float = 1.0, id: str | None = None) -> None:
        super().__init__("epochs", "loss", empty="No epoch finished yet.", period=period, id=id)
        self._x_formatter = Ticks(8, whole=True)
        self.curves: dict[int, tuple[list[int], list[float]]] = {}
        self.looks: dict[int, str] = {}
        self._drawn: dict[int, list[float]] = {}  # the losses as they stand on the axis

    def show(
        self, curves: Mapping[int, Sequence[CurvePoint]], looks: Mapping[int, str], loss: str = "normalised"
    ) -> None:
        """Draw the curves that `looks` names; does nothing where they are the same as before."""
        chosen = {}
        for number in looks:
            points = curves.get(number)
            if points:
                values = [point.raw_loss if loss == "raw" else point.loss for point in points]
                chosen[number] = ([point.epoch for point in points], values)
        if (chosen, dict(looks)) != (self.curves, self.looks):
            only_looks = chosen == self.curves
            self.curves, self.looks = chosen, dict(looks)
            if only_looks:
                self._draw_now()
            else:
                self.changed()

    def put(self) -> None:
        drawn = {number: losses for number, (_, losses) in self.curves.items()}
        self.y_log = spans_decades(np.array([loss for losses in drawn.values() for loss in losses]))
        if self.y_log:
            drawn = {number: logarithm(np.array(losses)).tolist() for number, losses in drawn.items()}
        self._drawn = drawn
        for number, (epochs, _) in reversed(self.curves.items()):  # the cursor's last, over the others
            losses = drawn[number]
            style = self.style_of(self.looks[number])
            if len(epochs) > 1:
                self.plot(epochs, losses, line_style=style, hires_mode=BRAILLE)
            self.scatter(epochs, losses, marker="●", marker_style=style)
        every = [loss for losses in drawn.values() for loss in losses if np.isfinite(loss)]
        if not every:
            return
        last = max(max(epochs) for epochs, _ in self.curves.values())
        self._auto_x_min = self._auto_x_max = self._auto_y_min = self._auto_y_max = False
        self._x_min, self._x_max = 0.5, last + max(0.5, last * 0.12)  # room for the numbers at the ends
        self._y_min, self._y_max = outward(min(every), max(every))

    def put_cursor(self, canvas: Canvas) -> None:
        taken: set[tuple[int, int]] = set()
        inside = self._scale_rectangle
        for number, (epochs, _) in self.curves.items():
            losses = self._drawn.get(number, [np.nan])
            if not np.isfinite(losses[-1]):
                continue
            column, row = self.get_pixel_from_coordinate(epochs[-1], losses[-1])
            text = f"#{number}"
            cells = {(column + 2 + i, row) for i in range(len(text) + 1)}
            if cells & taken or column + 2 + len(text) > inside.right or not inside.y <= row < inside.bottom:
                continue  # a number over another one would be no help
            taken |= cells
            for i, letter in enumerate(text):
                canvas.set_pixel(column + 2 + i, row, letter, self.style_of(self.looks[number]))
