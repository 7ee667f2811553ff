"""Every point of a plot is inside its axes or marked at their edge and counted; no two labels of an axis touch."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kdnas.study.trial_columns import Board
from kdnas_tui.widgets.axis_ticks import LogTicks, Ticks
from kdnas_tui.widgets.controller import Controller
from kdnas_tui.widgets.curves import Curves
from kdnas_tui.widgets.pareto_plot import ParetoPlot
from kdnas_tui.widgets.plot import Plot
from kdnas_tui.widgets.reward_history import RewardHistory
from tests.rows import made_row
from tests.tui.test_axis_labels import spans
from tests.tui.widget_apps import WidgetApp, at_rest

POSITIVE = st.floats(1e-3, 1e5)
LOSSES = st.floats(0.0, 3.0)
EDGES = {"▸", "▴", "▾"}


class Drawn:
    """What a plot would draw: every point that is no line, by its sign."""

    def __init__(self, plot: Plot) -> None:
        self.plot = plot
        self.points: dict[str, list[tuple[float, float]]] = {}
        plot.style_of = lambda name: ""  # type: ignore[method-assign]
        plot.plot = lambda *given, **named: None  # type: ignore[method-assign]
        plot.scatter = self.scatter  # type: ignore[method-assign,assignment]
        plot._render_plot = lambda: None  # type: ignore[method-assign]
        plot.remark = ""

    def scatter(self, x: Any, y: Any, *, marker: str = "", **_: Any) -> None:
        self.points.setdefault(marker, []).extend(zip(np.asarray(x).tolist(), np.asarray(y).tolist(), strict=True))

    def check(self, every: list[tuple[float, float]]) -> None:
        """All of `every` is drawn, and all that is drawn lies inside the axes."""
        plot = self.plot
        for sign, points in self.points.items():
            for x, y in points:
                assert (plot._x_min <= x <= plot._x_max and plot._y_min <= y <= plot._y_max) or sign == "", (sign, x, y)
        shown = {(x, y) for points in self.points.values() for x, y in points}
        beyond = [point for point in every if point not in shown or not self.inside(point)]
        counted = sum(int(word) for word in plot.remark.split() if word.isdigit())
        at_edges = sum(len(self.points.get(sign, [])) for sign in EDGES)
        assert len(set(beyond)) <= at_edges == counted
        self.check_labels()

    def inside(self, point: tuple[float, float]) -> bool:
        plot = self.plot
        return plot._x_min <= point[0] <= plot._x_max and plot._y_min <= point[1] <= plot._y_max

    def check_labels(self) -> None:
        plot = self.plot
        formatter = plot._x_formatter
        assert isinstance(formatter, Ticks | LogTicks)
        for cells in (10, 26, 70):
            formatter.cells = cells
            ticks = formatter.get_ticks(plot._x_min, plot._x_max)
            labels = formatter.get_labels_for_ticks(ticks)
            for (_, end), (start, _) in pairwise(spans(ticks, labels, plot._x_min, plot._x_max, cells)):
                assert start > end


def board_of(figures: list[tuple[float, float]]) -> Board:
    board = Board(-0.06, 0.6)
    rows = [made_row(n, loss=loss, raw_loss=loss / 4, latency_ms=ms) for n, (ms, loss) in enumerate(figures)]
    board.update([replace(row, predicted=0.1 * row.number) for row in rows])
    return board


FIGURES = st.one_of(
    st.lists(st.tuples(POSITIVE, LOSSES), min_size=1, max_size=60),
    st.tuples(POSITIVE, LOSSES).flatmap(lambda one: st.integers(1, 20).map(lambda n: [one] * n)),  # all alike
)


@settings(max_examples=40, deadline=None)
@example(figures=[(1.0, 0.0), (1.0, 5e-324)], log=False)
@example(figures=[(1e5, 3.0), (1e5 + 1e-10, 3.0 - 4e-16)], log=True)
@given(FIGURES, st.booleans())
def test_every_point_of_the_front_plot_is_drawn_or_counted(figures: list[tuple[float, float]], log: bool) -> None:
    plot = ParetoPlot(period=0)
    drawn = Drawn(plot)
    plot.board, plot.log_latency = board_of(figures), log
    plot.put()
    shown = plot.board.standing.rank > 0
    x, y = plot.board.column("latency")[shown], plot.board.column("loss")[shown]
    x, y = np.log10(x) if log else x, np.log10(y) if plot.y_log else y
    drawn.check(list(zip(x.tolist(), y.tolist(), strict=True)))


@settings(max_examples=40, deadline=None)
@given(FIGURES, st.booleans())
def test_every_point_of_the_history_is_drawn_or_counted(figures: list[tuple[float, float]], by_time: bool) -> None:
    plot = RewardHistory(period=0)
    drawn = Drawn(plot)
    plot.board, plot.by_time = board_of(figures), by_time
    plot.put()
    drawn.check(list(zip(plot._x.tolist(), plot._reward.tolist(), strict=True)))


@settings(max_examples=20, deadline=None)
@given(FIGURES)
def test_every_point_of_controller_and_curves_is_inside(figures: list[tuple[float, float]]) -> None:
    controller = Controller(period=0)
    drawn = Drawn(controller)
    controller.board = board_of(figures)
    controller.put()
    controller.remark = ""
    drawn.check([])
    assert all(drawn.inside(point) for points in drawn.points.values() for point in points)
    curves = Curves(period=0)
    drawn = Drawn(curves)
    curves.curves = {n: ([1, 2, 3], [loss, loss / 2, ms]) for n, (ms, loss) in enumerate(figures[:12])}
    curves.looks = dict.fromkeys(curves.curves, "line")
    curves.put()
    drawn.check([])
    assert all(drawn.inside(point) for points in drawn.points.values() for point in points)


async def test_labels_stand_whole_and_apart_on_the_screen() -> None:
    """One app over boards of many, one and equal values, on both kinds of axis and at several sizes."""
    rng = np.random.default_rng(0)
    boards = [
        [(float(ms), float(loss)) for ms, loss in zip(rng.lognormal(1, 2, 300), rng.uniform(0, 1, 300), strict=True)],
        [(3.2, 0.4)],
        [(3.2, 0.4)] * 5,
        [(1e-3, 0.2), (9e4, 0.9)],
        [(1000.0, 0.5), (1000.001, 0.5)],
    ]
    plot = ParetoPlot(period=0)
    app = WidgetApp(plot)
    async with app.run_test(size=(40, 12)) as pilot:
        for width in (24, 40, 100):
            await pilot.resize_terminal(width, 12)
            for figures in boards:
                for log in (False, True):
                    plot.log_latency = log
                    plot.board = None
                    plot.show(board_of(figures))
                    plot._draw_now()
                    await at_rest(pilot)
                    formatter = plot._x_formatter
                    assert isinstance(formatter, Ticks | LogTicks)
                    labels = formatter.get_labels_for_ticks(formatter.get_ticks(plot._x_min, plot._x_max))
                    assert app.text()[-1].split() == labels, (width, figures[:2], log, app.text())
                    if figures is boards[0]:
                        assert len(labels) > (2 if width > 24 else 0)


@pytest.mark.parametrize(("rewards", "said"), [([0.2] * 98 + [2.9, 2.8], "▾ 2 below"), ([0.2, 0.21], "")])
async def test_the_worst_are_marked_at_the_edge_and_counted(rewards: list[float], said: str) -> None:
    plot = RewardHistory(period=0)
    app = WidgetApp(plot)
    async with app.run_test(size=(60, 14)) as pilot:
        plot.show(board_of([(5.0, loss) for loss in rewards]))
        await at_rest(pilot)
        text = "\n".join(app.text())
        assert said in text and ("▾" in text) is bool(said)
