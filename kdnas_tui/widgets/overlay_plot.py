"""Several lines in one plot, each with a sign and a colour of its own: the fronts or the histories of studies.

Knows no study. Where there is nothing that may be drawn together, it says why in its place.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rich.markup import escape
from textual_hires_canvas import TextAlign

from kdnas_tui.widgets.axis_ticks import LogTicks, Ticks, outward
from kdnas_tui.widgets.plot import BRAILLE, Plot

SIGNS = ("●", "■", "▲", "◆", "▼", "○")
LOOKS = ("line", "strong", "good", "bad", "warn", "plain")  # one for each sign
COLOURS = (
    "primary",
    "accent",
    "success",
    "error",
    "warning",
    "foreground",
)  # the theme's names of these looks' colours


@dataclass(frozen=True)
class Drawn:
    """One line: points [n] in the order of x. A history runs in steps, the sign at its last point only. Points that are
    not `joined` stand for themselves."""

    x: np.ndarray
    y: np.ndarray
    joined: bool = True


class OverlayPlot(Plot):
    """Give it lines by `show`; the first gets the first sign, and so on."""

    COMPONENT_CLASSES = {"plot--bad", "plot--warn", "plot--plain"}
    DEFAULT_CSS = """
    OverlayPlot {
        & > .plot--bad { color: $error; }
        & > .plot--warn { color: $warning; }
        & > .plot--plain { color: $foreground; }
    }
    """

    def __init__(self, *, steps: bool = False, id: str | None = None) -> None:
        super().__init__("", "", id=id)
        self.lines: tuple[Drawn, ...] = ()
        self.log_x = False
        self._steps = steps
        self._why = ""

    def show(self, lines: Sequence[Drawn], x_name: str, y_name: str, why: str = "") -> None:
        """Draw these; where `why` says that they do not go together, only that."""
        self.lines = () if why else tuple(lines)
        self.x_name, self.y_name, self._why = x_name, y_name, why
        self.empty = why or "No finished trial yet."
        self._draw_now()

    def toggle_log(self) -> None:
        """A logarithmic x axis, or a linear one again."""
        self.log_x = not self.log_x
        self._draw_now()

    def put(self) -> None:
        shown = [line for line in self.lines if len(line.x)]
        if not shown:
            return
        x, y = (np.concatenate([getattr(line, axis) for line in shown]) for axis in "xy")
        log = self.log_x and not self._steps and bool((x > 0).all())
        self._x_formatter = LogTicks() if log else Ticks(8, whole=self._steps)
        for sign, look, line in zip(SIGNS, LOOKS, self.lines, strict=False):
            at = np.log10(line.x) if log else line.x
            if not len(at):
                continue
            across, up = at, line.y
            if self._steps:
                across, up = np.append(np.repeat(at, 2)[1:], at[-1]), np.repeat(line.y, 2)
            if len(across) > 1 and line.joined:
                self.plot(across, up, line_style=self.style_of(look), hires_mode=BRAILLE)
            last = slice(-1, None) if self._steps else slice(None)
            self.scatter(at[last], line.y[last], marker=sign, marker_style=self.style_of(look))
        x = np.log10(x) if log else x
        self._auto_x_min = self._auto_x_max = self._auto_y_min = self._auto_y_max = False
        self._x_min, self._x_max = outward(float(x.min()), float(x.max()))
        self._y_min, self._y_max = outward(float(y.min()), float(y.max()))
        if self._steps:
            self._x_min = 0.0

    def _render_nothing(self) -> None:
        """The reason in as many lines as it takes, in the middle."""
        super()._render_nothing() if not self._why else self._say_why()

    def _say_why(self) -> None:
        for still in self.query("Still").results():
            still.reset()  # type: ignore[attr-defined]
        canvas = self._canvas()
        if canvas is None:
            return
        size = canvas._canvas_size
        lines = textwrap.wrap(self._why, max(10, size.width - 4))[: size.height]
        for row, line in enumerate(lines):
            text = f"[{self.style_of('quiet')}]{escape(line)}"
            canvas.write_text(size.width // 2, max(0, (size.height - len(lines)) // 2) + row, text, TextAlign.CENTER)
