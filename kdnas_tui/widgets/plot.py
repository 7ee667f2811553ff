"""What all plots share: textual-plot with narrow margins, drawn only while seen and at most once a second.

Only the cells that changed are sent to the terminal: textual-plot draws into its canvases, and what differs from the
drawing before is repainted.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from rich.cells import cell_len
from rich.markup import escape
from textual.app import ComposeResult, RenderResult
from textual.containers import Grid
from textual.css.query import NoMatches
from textual.geometry import Region
from textual_hires_canvas import Canvas, TextAlign
from textual_plot import HiResMode, PlotWidget
from textual_plot.plot_widget import Legend

from kdnas_tui.later import later
from kdnas_tui.widgets.axis_ticks import LogTicks, Ticks, part
from kdnas_tui.widgets.lines import fitted, over, wrapped
from kdnas_tui.widgets.readout import as_fits

BRAILLE = HiResMode.BRAILLE
PERIOD_S = 1.0  # between two drawings of changed data
MOST_CLOSER = 16  # times that an axis can be doubled
PAUSE_S = 0.01  # between a paint of the screen and the drawing that it showed to be needed


class Still(Canvas):
    """A canvas that keeps quiet while it is drawn on and then repaints the spans that differ."""

    def __init__(self, id: str) -> None:
        self.held = False
        self._painted: tuple[list[list[str]], list[list[str]]] | None = None
        super().__init__(1, 1, id=id)

    def refresh(self, *regions: Region, repaint: bool = True, layout: bool = False, recompose: bool = False) -> Any:
        if self.held:
            return self
        return super().refresh(*regions, repaint=repaint, layout=layout, recompose=recompose)

    def commit(self) -> None:
        """Repaint what differs from the last commit."""
        drawn = ([*map(list, self._buffer)], [*map(list, self._styles)])
        before, self._painted = self._painted, drawn
        if before is None or len(before[0]) != len(drawn[0]) or len(before[0][0]) != len(drawn[0][0]):
            self.refresh()
            return
        spans = []
        lines = zip(before[0], drawn[0], before[1], drawn[1], strict=True)
        for y, (old, new, old_styles, new_styles) in enumerate(lines):
            if old == new and old_styles == new_styles:
                continue
            cells = zip(old, new, old_styles, new_styles, strict=True)
            # The style of a blank shows nowhere, as no style here has a background.
            unlike = [x for x, (a, b, c, d) in enumerate(cells) if a != b or (c != d and b != " ")]
            if unlike:
                spans.append(Region(unlike[0], y, unlike[-1] + 1 - unlike[0], 1))
        if spans:
            self.refresh(*spans)


class Plot(PlotWidget, can_focus=True, inherit_bindings=False):
    """A plot whose subclass says in `put` what is drawn. `x_name` and `y_name` carry their units."""

    COMPONENT_CLASSES = {
        "plot--quiet",
        "plot--line",
        "plot--strong",
        "plot--mark",
        "plot--cursor",
        "plot--good",
    }
    DEFAULT_CSS = """
    Plot {
        background: $background;
        & > .plot--axis { color: $foreground 25%; }
        &:focus > .plot--axis { color: $foreground 50%; }
        & > .plot--tick { color: $foreground 60%; text-style: none; }
        & > .plot--label { color: $foreground 60%; text-style: none; }
        & > .plot--quiet { color: $foreground 40%; }
        & > .plot--line { color: $primary; }
        & > .plot--strong { color: $accent; }
        & > .plot--mark { color: $accent; }
        & > .plot--cursor { color: $foreground; text-style: bold; }
        & > .plot--good { color: $success; }
        & Canvas { background: $background; }
    }
    """

    def __init__(
        self, x_name: str, y_name: str, *, empty: str = "", period: float = PERIOD_S, id: str | None = None
    ) -> None:
        super().__init__(id=id, allow_pan_and_zoom=False)
        self.set_reactive(PlotWidget.margin_top, 1)
        self.set_reactive(PlotWidget.margin_bottom, 1)
        self.set_reactive(PlotWidget.margin_left, 8)
        self.x_name, self.y_name, self.empty, self.period = x_name, y_name, empty, period
        self.remark = ""  # beside the name of the y axis, or below it where there is no room
        self.y_log = False  # whether what is drawn holds log10 of its values
        self._closer = {"x": 0, "y": 0}  # how often each axis was doubled
        self._x_formatter = Ticks(8)
        self._y_formatter = Ticks(4)
        self._drawn_at = -1e9
        self._waiting = False
        self._coming = False
        self._base: tuple[list[list[str]], list[list[str]]] | None = None

    def compose(self) -> ComposeResult:
        with Grid():
            for id in ("margin-top", "margin-left", "plot", "margin-bottom"):
                yield Still(id)
        yield Legend(id="legend")

    # ------------------------------------------------------------------ for subclasses

    def put(self) -> None:
        """Call `plot` and `scatter` for what there is to draw; set limits where the data should not."""
        raise AssertionError("a subclass says what it draws")

    def put_cursor(self, canvas: Canvas) -> None:
        """Draw over the finished plot what moves often."""

    def cursor_point(self) -> tuple[float, float] | None:
        """Where the trial under the cursor lies, in the units of the axes; None where it has no place."""
        return None

    def says(self) -> Sequence[str]:
        """The figures of the trial under the cursor, the most important first."""
        return ()

    def put_beyond(self, x: np.ndarray, y: np.ndarray) -> str:
        """Mark at the edges where points lie beyond the axes, which have limits by now; says how many there are."""
        said = []
        near_x = np.clip(x, self._x_min, self._x_max - (self._x_max - self._x_min) * 1e-9)
        near_y = np.clip(y, self._y_min, self._y_max - (self._y_max - self._y_min) * 1e-9)
        for out, sign, words in (
            (x > self._x_max, "▸", "to the right"),
            (y > self._y_max, "▴", "above"),
            (y < self._y_min, "▾", "below"),
        ):
            if out.any():
                self.scatter(near_x[out], near_y[out], marker=sign, marker_style=self.style_of("quiet"))
                said.append(f"{sign} {int(out.sum())} {words}")
        return "  ".join(said)

    def changed(self) -> None:
        """The data changed: draw them soon, if the plot is on the screen."""
        if self._waiting or not self.is_attached:
            return
        wait = self._drawn_at + self.period - time.monotonic()
        if wait > 0:
            self._waiting = True
            later(self, wait, self._draw_late)
        else:
            self._draw_now()

    def cursor_changed(self) -> None:
        """Only what `put_cursor` draws has changed."""
        canvas = self._canvas()
        if canvas is None or self._base is None or not self.is_on_screen:
            return
        if any(self._closer.values()):
            self._draw_again()  # what is drawn follows the cursor
            return
        with self._quietly():
            canvas._buffer = [*map(list, self._base[0])]
            canvas._styles = [*map(list, self._base[1])]
            self.put_cursor(canvas)
            self._write_top()

    def closer(self, by: int, axis: str = "xy") -> bool:
        """Double the axes so many times around the cursor, or halve them, 0 for the whole; False where nothing changes.

        `axis` is x, y or both.
        """
        chosen = {name: max(0, min(self._closer[name] + by, MOST_CLOSER)) if by else 0 for name in axis}
        if all(self._closer[name] == times for name, times in chosen.items()):
            return False
        self._closer.update(chosen)
        self._draw_again()
        return True

    def put_sign(self, canvas: Canvas, sign: str) -> None:
        """Draw the cursor at its point, or at the edge of the axes beyond which it lies."""
        point = self.cursor_point()
        if point is None:
            return
        column, row = self.get_pixel_from_coordinate(*point)
        inside = self._scale_rectangle
        column = max(inside.x, min(column, inside.right - 1))
        row = max(inside.y, min(row, inside.bottom - 1))
        canvas.set_pixel(column, row, sign, self.style_of("cursor"))

    def style_of(self, name: str) -> str:
        """A component's colour as textual-plot takes it."""
        return str(over(self, f"plot--{name}", self.rich_style))

    # ------------------------------------------------------------------ drawing

    def _draw_late(self) -> None:
        self._waiting = False
        self._draw_now()

    def _draw_now(self) -> None:
        if self.is_attached and self.is_on_screen and self._canvas() is not None:
            self._drawn_at = time.monotonic()
            self._needs_rerender = True
            super().render()  # on canvases of another size, where a layout has come in between

    def on_show(self) -> None:
        self._needs_rerender = True
        self._draw_soon()

    def render(self) -> RenderResult:
        """Textual asks for this while it paints the screen; drawing here would have keys wait for all plots at once."""
        if self._needs_rerender:
            self._draw_soon()
        return ""

    def on_canvas_resize(self, event: Canvas.Resize) -> None:
        """A canvas may get its place after the plot was drawn for the place before."""
        event.stop()
        if event.size != event.canvas._canvas_size:
            self._needs_rerender = self._needs_canvas_resize = True
            self._draw_soon()

    def _draw_soon(self) -> None:
        if not self._coming:
            self._coming = True
            later(self, PAUSE_S, self._come)

    def _draw_again(self) -> None:
        """Soon and not here: a key may ask it of several plots."""
        self._needs_rerender = True
        self._draw_soon()

    def _come(self) -> None:
        self._coming = False
        self._drawn_at = time.monotonic()
        super().render()

    def _canvas(self) -> Still | None:
        try:
            canvas = self.query_one("#plot", Still)
        except NoMatches:
            return None
        return canvas if canvas._canvas_size.area > 1 else None

    def _rerender(self) -> None:
        """What textual-plot calls whenever a data set is added; `_render_plot` draws all of them at once."""
        if self.is_attached:
            self._needs_rerender = True

    def notify_style_update(self) -> None:
        super().notify_style_update()  # it is drawn anew when it is next painted
        self.refresh()

    def _render_plot(self) -> None:
        canvas = self._canvas()
        if canvas is None:
            return
        with self._quietly():
            self._datasets, self._labels, self._v_lines = [], [], []
            self.put()
            above = 2 if self._titles()[1] else 1
            if above != self.margin_top:
                self.margin_top = above
                self.call_after_refresh(self._lay_out)
            if any(len(data.x) for data in self._datasets):
                width, height = canvas._canvas_size
                self._scale_rectangle = Region(1, 1, width - 2, height - 2)
                most = max(2, (height - 2) // 3)
                self._y_formatter = LogTicks(most) if self.y_log else Ticks(most)
                self._narrow()
                if isinstance(self._x_formatter, Ticks | LogTicks):
                    self._x_formatter.cells = width - 2
                super()._render_plot()
            else:
                self._render_nothing()
            self._base = ([*map(list, canvas._buffer)], [*map(list, canvas._styles)])
            self.put_cursor(canvas)
        self._needs_rerender = False  # what putting it there asked for

    def _narrow(self) -> None:
        """Take of the axes the part around the cursor, where somebody came closer."""
        point = self.cursor_point()
        for at, axis in enumerate("xy"):
            if not self._closer[axis]:
                continue
            low, high = getattr(self, f"_{axis}_min"), getattr(self, f"_{axis}_max")
            low, high = part(low, high, self._closer[axis], None if point is None else point[at])
            setattr(self, f"_{axis}_min", low)
            setattr(self, f"_{axis}_max", high)

    def _lay_out(self) -> None:
        """Place the canvases anew, and draw on them then."""
        # Of a part's layout Textual forgets only what stands around it: the grid is asked through its child.
        self.query_one("#margin-top").refresh(layout=True)
        self._needs_rerender = self._needs_canvas_resize = True
        self.call_after_refresh(self._draw_soon)

    def _render_nothing(self) -> None:
        for still in self.query(Still):
            still.reset()
        canvas = self._canvas()
        if canvas is not None and self.empty:
            size = canvas._canvas_size
            for y, line in enumerate(wrapped(self.empty, max(1, size.width - 1)), size.height // 2):
                middle = max(size.width // 2 - 4, (cell_len(line) + 1) // 2)  # of the whole pane, where it fits there
                canvas.write_text(middle, y, f"[{self.style_of('quiet')}]{escape(line)}", TextAlign.CENTER)

    @contextmanager
    def _quietly(self) -> Iterator[None]:
        stills = list(self.query(Still))
        for still in stills:
            still.held = True
        try:
            yield
        finally:
            for still in stills:
                still.held = False
                still.commit()

    def _update_legend(self) -> None:
        """No legend: the names stand in the title line."""

    def _render_x_label(self) -> None:
        margin = self.query_one("#margin-top", Still)
        margin.reset()
        style = self.get_component_rich_style("plot--label")
        margin.write_text(margin.size.width - 2, 0, f"[{style}]{escape(self.x_name)} →", TextAlign.RIGHT)

    def _render_y_label(self) -> None:
        margin = self.query_one("#margin-top", Still)
        style = self.get_component_rich_style("plot--label")
        first, second = self._titles()
        for y, says in enumerate((first, second)):
            if says:
                margin.write_text(1, y, f"[{style}]{escape(says)}", TextAlign.LEFT)
        said = as_fits(self.says(), margin.size.width - len(self.x_name) - 6 - len(first) - 3)
        if said:
            margin.write_text(len(first) + 4, 0, f"[{self.style_of('cursor')}]{escape(said)}", TextAlign.LEFT)

    def _titles(self) -> tuple[str, str]:
        """The name of the y axis with the remark; where they are too long together, the remark on a line below."""
        name, width = f"{self.y_name}{', log' if self.y_log else ''} ↑", self.query_one("#margin-top", Still).size.width
        name += f"  ×{2 ** max(self._closer.values())} closer" if any(self._closer.values()) else ""
        both = f"{name}   {self.remark}" if self.remark else name
        if len(both) <= width - len(self.x_name) - 6:
            return both, ""
        return name, fitted(self.remark, min(len(self.remark), max(1, width - 1)))

    def _write_top(self) -> None:
        """The names of the axes and the readout anew."""
        if self._datasets:
            self._render_x_label()
            self._render_y_label()
