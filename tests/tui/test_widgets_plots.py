"""The plots: what is drawn, that little is sent when little changed, and that cursor and clicks are linked."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from textual.geometry import Size

from kdnas.study.filter import parse
from kdnas.study.rows import CurvePoint, EpisodeRow
from kdnas.study.trial_columns import Board
from kdnas_tui.widgets.axis_ticks import LogTicks, Ticks
from kdnas_tui.widgets.controller import Controller, foreseen, rank_agreement
from kdnas_tui.widgets.curves import MOST as MOST_CURVES
from kdnas_tui.widgets.curves import Curves, wanted_curves
from kdnas_tui.widgets.pareto_plot import MOST, ParetoPlot
from kdnas_tui.widgets.reward_history import RewardHistory, history
from tests.rows import made_row, made_rows
from tests.tui.widget_apps import WidgetApp, at_rest

ROWS = made_rows(412)


def board_of(rows) -> Board:
    board = Board(-0.06, 0.6)
    board.update(rows)
    return board


@pytest.mark.parametrize("size", [(70, 24), (50, 12), (30, 8)])
async def test_the_front_is_drawn_at_every_size_and_axes_are_named(size):
    plot = ParetoPlot(period=0)
    app = WidgetApp(plot)
    async with app.run_test(size=size) as pilot:
        plot.show(board_of(ROWS))
        await at_rest(pilot)
        lines = app.text()
        assert "loss" in lines[0] and "latency ms" in lines[0]
        assert "●" in "".join(lines)
        assert any(letter.isdigit() for letter in lines[-1])
        assert all(len(line) <= size[0] for line in lines)


async def test_data_that_come_between_a_new_width_and_its_drawing_are_drawn_for_that_width():
    plot = ParetoPlot(period=0)
    app = WidgetApp(plot)
    async with app.run_test(size=(70, 24)) as pilot:
        plot.show(board_of(ROWS))
        await at_rest(pilot)
        canvas = plot.query_one("#plot")
        canvas.reset(size=Size(30, canvas.size.height))  # as it was drawn for a narrower place …
        plot._needs_rerender = plot._needs_canvas_resize = True  # … and a layout has given it this one
        plot.changed()
        await at_rest(pilot)
        assert canvas._canvas_size == canvas.size
        assert app.text()[1].rstrip().endswith("┓")


async def test_the_front_is_among_at_most_two_thousand_points():
    board = board_of(made_rows(9000))
    plot = ParetoPlot(period=0)
    app = WidgetApp(plot)
    async with app.run_test(size=(70, 24)) as pilot:
        plot.show(board)
        await at_rest(pilot)
        assert plot.count == MOST
        front = set(board.numbers[board.standing.front].tolist())
        assert front <= set(plot._numbers.tolist())


async def test_the_same_board_sends_nothing_and_one_more_point_little():
    board = board_of(ROWS)
    plot = ParetoPlot(period=0)
    app = WidgetApp(plot)
    async with app.run_test(size=(70, 24)) as pilot:
        plot.show(board)
        await at_rest(pilot)
        whole = len(app.take_sent())
        plot.show(board)
        await at_rest(pilot)
        assert app.take_sent() == ""
        board.update([made_row(412, loss=0.3, latency_ms=5.3)])
        plot.show(board)
        await at_rest(pilot)
        assert 0 < len(app.take_sent()) < whole / 4


async def test_changes_within_a_second_wait_and_come_together():
    board = board_of(ROWS)
    plot = ParetoPlot(period=3600)
    app = WidgetApp(plot)
    async with app.run_test(size=(70, 24)) as pilot:
        plot.show(board)
        await at_rest(pilot)
        drawn = plot._drawn_at
        for number in (412, 413, 414):
            board.update([made_row(number, loss=0.3, latency_ms=5.3)])
            plot.show(board)
        await pilot.pause()
        assert plot._drawn_at == drawn
        assert plot._waiting


async def test_the_cursor_follows_and_leaves_no_trace():
    board = board_of(ROWS)
    plot = ParetoPlot(period=0)
    app = WidgetApp(plot)
    async with app.run_test(size=(70, 24)) as pilot:
        plot.show(board)
        await at_rest(pilot)
        before = app.text()
        app.take_sent()
        plot.point_at(board.best(9)[8].number)
        await at_rest(pilot)
        assert "".join(app.text()).count("✛") == 1
        assert len(app.take_sent()) < 300
        plot.point_at(board.best(30)[29].number)
        await at_rest(pilot)
        assert "".join(app.text()).count("✛") == 1
        plot.point_at(None)
        await at_rest(pilot)
        assert app.text() == before


async def test_a_click_chooses_the_nearest_trial_and_arrows_walk_along_the_front():
    board = board_of(ROWS)
    plot = ParetoPlot(period=0)
    app = WidgetApp(plot)
    async with app.run_test(size=(70, 24), message_hook=app.hear) as pilot:
        plot.show(board)
        await at_rest(pilot)
        lines = app.text()
        y = max(y for y, line in enumerate(lines) if "●" in line)
        x = lines[y].rindex("●")
        await pilot.click(plot, offset=(x, y))
        (heard,) = app.heard(ParetoPlot.CursorMoved)
        chosen = board.scored(heard.number)
        assert chosen is not None
        column, row = plot.get_pixel_from_coordinate(chosen.row.latency_ms, chosen.loss_used)
        assert abs(column + 8 - x) <= 4 and abs(row + 1 - y) <= 2
        front = board.numbers[board.standing.front]
        plot.go_along(-1)
        await at_rest(pilot)
        assert plot.cursor in front
        first = board.scored(plot.cursor).row.latency_ms
        plot.go_along(-1)
        await at_rest(pilot)
        assert board.scored(plot.cursor).row.latency_ms < first
        plot.go_along(1)
        await at_rest(pilot)
        assert board.scored(plot.cursor).row.latency_ms == first


async def test_the_filter_of_the_table_is_that_of_the_plot():
    board = board_of(ROWS)
    mask = board.mask(parse("act:gelu"))
    plot = ParetoPlot(period=0)
    app = WidgetApp(plot)
    async with app.run_test(size=(70, 24)) as pilot:
        plot.show(board, mask)
        await at_rest(pilot)
        assert plot.count == int((mask & (board.standing.rank > 0)).sum())
        assert set(plot._numbers.tolist()) <= set(board.numbers[mask].tolist())


async def test_latency_on_a_logarithmic_axis():
    board = board_of(ROWS)
    plot = ParetoPlot(period=0)
    app = WidgetApp(plot)
    async with app.run_test(size=(70, 24)) as pilot:
        plot.show(board)
        await at_rest(pilot)
        linear = app.text()
        plot.turn_axis()
        await at_rest(pilot)
        assert app.text() != linear
        labels = [float(word) for word in app.text()[-1].split()]
        assert {1.0, 2.0, 5.0} <= set(labels)


async def test_marked_trials_stand_out_and_a_far_outlier_does_not_squash_the_rest():
    rows = [*ROWS[:200], made_row(412, loss=0.95, latency_ms=5000.0), replace(made_row(413), marked=True)]
    plot = ParetoPlot(period=0)
    app = WidgetApp(plot)
    async with app.run_test(size=(70, 24)) as pilot:
        plot.show(board_of(rows))
        await at_rest(pilot)
        assert "◆" in "".join(app.text())
        assert plot._x_max < 100


@pytest.mark.parametrize(
    "rows", [[], [made_row(0, state="running", loss=None)], [made_row(0)], [made_row(0), made_row(1)]]
)
@pytest.mark.parametrize("kind", [ParetoPlot, RewardHistory, Controller, Curves])
async def test_little_or_no_data_is_drawn_without_fault(kind, rows):
    plot = kind(period=0)
    board = board_of(rows)
    app = WidgetApp(plot)
    async with app.run_test(size=(60, 12)) as pilot:
        if isinstance(plot, Curves):
            plot.show({}, wanted_curves(board, 0))
        elif isinstance(plot, Controller):
            plot.show(board, [])
        else:
            plot.show(board)
        await at_rest(pilot)
        text = " ".join(app.text())
        done = any(row.state == "done" for row in rows)
        assert ("yet." in text) is not (done and kind in (ParetoPlot, RewardHistory))


async def test_the_best_so_far_never_falls():
    board = board_of(ROWS)
    x, reward = history(board)
    assert len(x) == (board.standing.rank > 0).sum()
    best = np.maximum.accumulate(reward)
    assert best[-1] == board.best(1)[0].reward
    hours, _ = history(board, by_time=True)
    assert (np.diff(hours) >= 0).all() and hours[0] == pytest.approx(60 / 3600, abs=0.01)
    plot = RewardHistory(period=0)
    app = WidgetApp(plot)
    async with app.run_test(size=(60, 14)) as pilot:
        plot.show(board)
        await at_rest(pilot)
        assert "reward" in app.text()[0] and "finished trials" in app.text()[0]
        plot.turn_axis()
        await at_rest(pilot)
        assert "hours" in app.text()[0]


async def test_another_alpha_draws_the_history_again():
    board = board_of(ROWS)
    plot = RewardHistory(period=0)
    app = WidgetApp(plot)
    async with app.run_test(size=(60, 14)) as pilot:
        plot.show(board)
        await at_rest(pilot)
        before = app.text()
        board.rescore(-0.5, 0.6)
        plot.show(board)
        await at_rest(pilot)
        assert app.text() != before


def points(number: int, epochs: int) -> list[CurvePoint]:
    return [CurvePoint(number, e, 0.1 + 0.8 / e, 0.02 + 0.2 / e, 0.3, 10.0 * e, 1000) for e in range(1, epochs + 1)]


def test_curves_wanted_are_the_cursors_the_running_and_the_marked():
    rows = [replace(row, marked=row.number in (2, 3)) for row in ROWS]
    board = board_of(rows)
    assert wanted_curves(board, 7) == {7: "cursor", 410: "line", 411: "line", 2: "mark", 3: "mark"}
    many = board_of([replace(row, marked=True) for row in ROWS])
    assert len(wanted_curves(many, 7)) == MOST_CURVES
    assert wanted_curves(None, 7) == {}


async def test_curves_are_labelled_with_their_trials():
    plot = Curves(period=0)
    app = WidgetApp(plot)
    async with app.run_test(size=(60, 14)) as pilot:
        plot.show({7: points(7, 4), 410: points(410, 2), 9: []}, {7: "cursor", 410: "line", 9: "mark"})
        await at_rest(pilot)
        text = "".join(app.text())
        assert "#7" in text and "#410" in text and "#9" not in text
        assert "epochs" in app.text()[0]
        app.take_sent()
        plot.show({7: points(7, 4), 410: points(410, 2)}, {7: "cursor", 410: "line", 9: "mark"})
        await at_rest(pilot)
        assert app.take_sent() == ""


async def test_the_controller_shows_how_far_its_word_can_be_trusted():
    rng = np.random.default_rng(0)
    rows = []
    for scored in board_of(ROWS).ranked():
        told = scored.reward
        foretold = None if told is None or scored.number % 2 else told + float(rng.normal(0, 0.02))
        rows.append(replace(scored.row, reward=told, predicted=foretold))
    board = board_of(rows)
    predicted, actual = foreseen(board)
    assert len(predicted) == sum(1 for r in rows if r.predicted is not None and r.reward is not None)
    assert rank_agreement(predicted, actual) > 0.9
    assert rank_agreement(predicted, -predicted) == pytest.approx(-1.0)
    assert rank_agreement(predicted[:2], actual[:2]) is None
    episodes = [EpisodeRow(e, 1 - 0.05 * e, 200, 0.01, 0.8, 0.7, {}, 0.0) for e in range(11)]
    plot = Controller(period=0)
    app = WidgetApp(plot)
    async with app.run_test(size=(90, 14)) as pilot:
        plot.show(board, episodes)
        await at_rest(pilot)
        assert "episode 11" in app.text()[0] and "ε 0.50" in app.text()[0]
        assert "rank agreement 0.9" in app.text()[0] or "rank agreement 1.0" in app.text()[0]


async def test_a_plot_that_was_hidden_draws_what_it_missed():
    board = board_of(ROWS)
    plot, other = ParetoPlot(period=0), RewardHistory(period=0)
    app = WidgetApp(plot, other)
    async with app.run_test(size=(70, 24)) as pilot:
        other.display = False
        await at_rest(pilot)
        plot.show(board)
        other.show(board)
        await at_rest(pilot)
        assert "reward" not in " ".join(app.text())
        plot.display, other.display = False, True
        await at_rest(pilot)
        await at_rest(pilot)
        text = " ".join(app.text())
        assert "finished trials" in text and any("\u2801" <= letter <= "\u28ff" for letter in text)


async def test_plots_fit_again_after_a_resize():
    plot = ParetoPlot(period=0)
    app = WidgetApp(plot)
    async with app.run_test(size=(90, 30)) as pilot:
        plot.show(board_of(ROWS))
        await at_rest(pilot)
        await pilot.resize_terminal(50, 14)
        await at_rest(pilot)
        await at_rest(pilot)
        lines = app.text()
        assert "latency ms" in lines[0] and any(letter.isdigit() for letter in lines[-1])
        assert "●" in "".join(lines)


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.123, 0.127), (0.5, 4500.0), (3.0, 3.0), (-2.0, 5.0)])
def test_ticks_lie_within_the_axis_and_are_few(low, high):
    ticks = Ticks(6).get_ticks(low, high)
    assert 1 <= len(ticks) <= 8
    assert all(low - 1e-9 <= tick <= high + 1e-9 for tick in ticks)
    assert len(Ticks(6).get_labels_for_ticks(ticks)) == len(set(ticks))
    assert all(tick == int(tick) for tick in Ticks(6, whole=True).get_ticks(0.5, 4.5))


def test_logarithmic_ticks_are_round_numbers():
    ticks = LogTicks().get_ticks(0.0, 2.0)
    assert LogTicks().get_labels_for_ticks(ticks) == ["1", "2", "5", "10", "20", "50", "100"]
