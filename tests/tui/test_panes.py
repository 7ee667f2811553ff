"""Slices, parallel coordinates and the timeline: what they draw of a study, and that they are linked to its table."""

from __future__ import annotations

import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from textual.pilot import Pilot

from kdnas.store import queries
from kdnas.store.changes import set_remark
from kdnas.store.database import open_store
from kdnas.study.filter import parse
from kdnas.study.rows import TrialRow, WorkerRow
from kdnas.study.trial_columns import Board
from kdnas_tui.screens.jump import Jump, lettered, letters
from kdnas_tui.screens.panes import TABS
from kdnas_tui.widgets.parallel import Parallel
from kdnas_tui.widgets.pareto_plot import ParetoPlot
from kdnas_tui.widgets.picture import Picture
from kdnas_tui.widgets.reward_history import RewardHistory
from kdnas_tui.widgets.slices import Slices
from kdnas_tui.widgets.tab_bar import TabBar
from kdnas_tui.widgets.timeline import Timeline
from tests.rows import made_row, made_rows
from tests.tui.driving import app_on, driven, opened, settled, shows, text_of, until
from tests.tui.filled import NOW, RECORDED_NOW
from tests.tui.widget_apps import PATIENCE_S, WidgetApp, at_rest

SIZES = [(46, 36), (80, 8)]
HERE = 10_000.0


def at_work(rows: list[TrialRow], workers: int = 3) -> list[TrialRow]:
    """The rows as trials of so many workers, one after the other, with a gap of ten minutes in the middle."""
    free = [HERE] * workers
    found = []
    for row in rows:
        worker = row.number % workers
        start = free[worker] + (600 if len(rows) // 2 <= row.number < len(rows) // 2 + workers else 2)
        free[worker] = start + 30 + row.number % 50
        ended = None if row.ended is None else free[worker]
        found.append(replace(row, started=start, ended=ended, worker_id=worker + 1))
    return found


def board_of(rows: list[TrialRow]) -> Board:
    board = Board(-0.06, 0.6)
    board.update(rows)
    return board


def crew(count: int) -> list[WorkerRow]:
    return [
        WorkerRow(i, "gpubox", 1, "cpu", "running", None, "search", None, HERE, HERE, None, i == count)
        for i in range(1, count + 1)
    ]


async def drawn(pilot: Pilot[None], pane: Picture) -> None:
    """Until the pane has drawn all that it was shown."""
    end = time.monotonic() + PATIENCE_S
    await pilot.pause(0.005)
    while pane._waiting or pane._drawn_for != tuple(pane.content_size):
        assert time.monotonic() < end, "it is never drawn"
        await pilot.pause(0.005)
    await pilot.pause()


def all_three() -> tuple[Slices, Parallel, Timeline]:
    return Slices(period=0), Parallel(period=0), Timeline(lambda: HERE + 3600, period=0)


ODD = {
    "none": [],
    "running only": [made_row(0, state="running", loss=None, reward=None, ended=None, worker_id=1, started=HERE)],
    "one": [made_row(0, started=HERE, ended=HERE + 60, worker_id=1)],
    "equal": [made_row(n, started=HERE, ended=HERE + 60, worker_id=1) for n in range(3)],
    "failed only": [
        made_row(n, state="failed", loss=None, latency_ms=None, started=HERE, ended=HERE + 1) for n in range(3)
    ],
    "no dimension": [made_row(0, candidate={}, started=HERE, ended=HERE + 60)],
    "no time at all": [made_row(n, started=HERE, ended=HERE) for n in range(2)],
    "far apart": [made_row(0, loss=1e-9, latency_ms=1e-6), made_row(1, loss=5e8, latency_ms=1e9)],
}


async def test_whatever_there_is_of_trials_is_drawn_at_every_size() -> None:
    panes = all_three()
    app = WidgetApp(*panes)
    async with app.run_test(size=SIZES[0]) as pilot:
        for size in SIZES:
            await pilot.resize_terminal(*size)
            for name, rows in {**ODD, "many": at_work(made_rows(412))}.items():
                board = board_of(rows)
                for pane in panes:
                    for other in panes:
                        other.display = other is pane
                    pane.show(board)
                    pane.point_at(0)
                    await drawn(pilot, pane)
                    text = app.text()
                    assert len(pane._strips) == size[1], (name, size)
                    assert all(strip.cell_length == size[0] for strip in pane._strips)
                    nothing = not rows or (not isinstance(pane, Timeline) and name in ("running only", "failed only"))
                    assert ("yet." in " ".join(text)) is nothing, (name, size, type(pane))


async def test_a_sketch_of_very_many_trials_waits_for_the_rest() -> None:
    plot = Slices(period=0)
    app = WidgetApp(plot)
    async with app.run_test(size=(60, 10)) as pilot:
        sketch = Board(-0.06, 0.6, whole=False)
        sketch.update(made_rows(20))
        plot.show(sketch)
        await drawn(pilot, plot)
        assert "Reading the store …" in "\n".join(app.text())
        plot.show(board_of(made_rows(20)))
        await drawn(pilot, plot)
        assert "num_hidden_layers" in "\n".join(app.text())


async def test_a_narrow_row_of_tabs_names_the_shown_one_whole() -> None:
    tabs = TabBar(TABS, "timeline")
    app = WidgetApp(tabs)
    async with app.run_test(size=(48, 3)) as pilot:
        assert "Timeline" in app.text()[0] and "Parallel" not in app.text()[0] and "Log" in app.text()[0]
        tabs.show(TABS, "parallel")
        await pilot.pause()
        assert "Parallel" in app.text()[0] and "Timeline" not in app.text()[0] and "Log" in app.text()[0]


async def test_slices_follow_filter_cursor_and_marks() -> None:
    board = board_of([replace(row, marked=row.number == 30) for row in made_rows(60)])
    plot = Slices(period=0)
    app = WidgetApp(plot)
    async with app.run_test(size=(80, 20)) as pilot:
        plot.show(board)
        plot.point_at(board.best(9)[8].number)
        await drawn(pilot, plot)
        text = "\n".join(app.text())
        assert "num_hidden_layers" in text and "hidden_act" in text and "gelu" in text and "head_size" not in text
        assert text.count("✛") == 2 and text.count("◆") == 2 and "★" in text and "●" in text and "─" in text
        assert "loss ↑" in text and f"#{plot.cursor}" in app.text()[0]
        app.take_sent()
        plot.point_at(board.best(20)[19].number)
        await drawn(pilot, plot)
        assert "\n".join(app.text()).count("✛") == 2 and len(app.take_sent()) < 900
        plot.another_measure()
        await drawn(pilot, plot)
        assert "latency ms ↑" in app.text()[0]
        mask = board.mask(parse("act:gelu and not is:marked"))
        plot.show(board, mask)
        plot.point_at(int(board.numbers[~mask & (board.standing.rank > 0)][0]))
        await drawn(pilot, plot)
        text = "\n".join(app.text()[1:])
        assert "◆" not in text and "✛" not in text
        plot.show(board, np.zeros(len(board), dtype=bool))
        await drawn(pilot, plot)
        assert "No finished trial passes the filter." in "\n".join(app.text())


async def test_dimensions_without_room_have_pages() -> None:
    rows = [replace(row, candidate={f"size_{k}": row.number % (k + 2) for k in range(14)}) for row in made_rows(60)]
    board = board_of(rows)
    for plot in (Slices(period=0), Parallel(period=0)):
        app = WidgetApp(plot)
        async with app.run_test(size=(80, 20)) as pilot:
            plot.show(board)
            await drawn(pilot, plot)
            seen = set()
            for page in range(plot.pages):
                assert f"{page + 1}/{plot.pages}" in app.text()[0]
                seen |= {word for line in app.text() for word in line.split() if word.startswith("size_")}
                plot.turn_page(1)
                await drawn(pilot, plot)
            assert seen == {f"size_{k}" for k in range(14)}
            assert plot.page == plot.pages - 1


async def test_lines_of_the_best_are_unbroken_and_the_filter_leaves_lines_out() -> None:
    board = board_of([replace(row, marked=row.number == 30) for row in made_rows(200)])
    plot = Parallel(period=0)
    app = WidgetApp(plot)
    async with app.run_test(size=(80, 24)) as pilot:
        plot.show(board)
        plot.point_at(20)
        await drawn(pilot, plot)
        text = app.text()
        assert "reward" in text[1] and "latency ms" in text[1] and "hidden_act" in text[1]
        assert "\n".join(text).count("✛") == 5 and 4 <= "\n".join(text).count("◆") <= 5
        assert "of" in text[0] and "lines" in text[0] and "best tenth" in text[-1]
        best = board.best(1)[0].number
        plot.show(board, board.mask(parse(f"number:{best}")))
        plot.point_at(best)
        await drawn(pilot, plot)
        text = app.text()
        assert text[0].startswith("1 line ")
        crossed = [line for line in text[2:-1] if any("\u2801" <= letter <= "\u28ff" for letter in line)]
        between = [  # one dot or more in every column between the first two axes
            any("\u2801" <= line.ljust(80)[x] <= "\u28ff" for line in crossed)
            for x in range(plot._columns[0] + 5, plot._columns[1] - 1)
        ]
        assert all(between)


async def test_the_timeline_shows_workers_gaps_and_what_runs() -> None:
    rows = at_work(made_rows(90))
    board = board_of(rows)
    now = max(row.ended or 0 for row in rows) + 120
    plot = Timeline(lambda: now, period=0)
    app = WidgetApp(plot)
    async with app.run_test(size=(100, 12)) as pilot:
        plot.show_crew(crew(3))
        plot.show(board)
        plot.point_at(4)
        await drawn(pilot, plot)
        lines = app.text()
        assert lines[0].startswith("3 workers")
        assert lines[1].startswith("● 3") and lines[2].startswith("○ 2") and lines[3].startswith("○ 1")
        assert "now" in lines[4] and "▸ running" in lines[-1]
        running = [row for row in rows if row.state == "running"]
        for row in running:
            assert lines[1 + 3 - row.worker_id].endswith("▸")
        assert all("  " in line[20:] for line in lines[1:4]), "the gap is seen"
        assert "✛" in lines[2] and "#4" in lines[0] and "done" in lines[0]
        assert plot.closer(5) and not plot.closer(1, "y")
        await drawn(pilot, plot)
        assert "│4█" in app.text()[2]
        assert plot.closer(0) and not plot.closer(-1)
        plot.show(board, board.mask(parse("worker:2")))
        await drawn(pilot, plot)
        lines = app.text()
        assert "█" in lines[2] and "█" not in lines[1] + lines[3] and "╌" in lines[1]


async def test_many_workers_have_pages_and_unknown_ones_a_row() -> None:
    rows = [
        made_row(n, started=HERE + n, ended=HERE + n + 5, worker_id=None if n == 0 else n, state="done")
        for n in range(30)
    ]
    plot = Timeline(lambda: HERE, period=0)
    app = WidgetApp(plot)
    async with app.run_test(size=(60, 13)) as pilot:
        plot.show(board_of(rows))
        await drawn(pilot, plot)
        assert "1/3 →" in app.text()[0] and app.text()[1].startswith("○ 29")
        for _ in range(5):
            plot.turn_page(1)
        await drawn(pilot, plot)
        assert "3/3 ←" in app.text()[0] and "unknown" in "\n".join(app.text())


async def test_the_same_board_sends_nothing() -> None:
    board = board_of(at_work(made_rows(100)))
    for plot in all_three():
        app = WidgetApp(plot)
        async with app.run_test(size=(80, 20)) as pilot:
            plot.show(board)
            await drawn(pilot, plot)
            app.take_sent()
            plot.show(board)
            await drawn(pilot, plot)
            assert app.take_sent() == ""


async def test_axes_come_closer_and_say_that_they_are_logarithmic() -> None:
    rows = [replace(row, latency_ms=row.latency_ms**3, teacher_latency_ms=900.0) for row in made_rows(300)]
    board = board_of(rows)
    plot = ParetoPlot(period=0)
    app = WidgetApp(plot)
    async with app.run_test(size=(90, 24)) as pilot:
        plot.show(board)
        await at_rest(pilot)
        assert "latency ms, log →" in app.text()[0]
        whole = plot._x_max - plot._x_min, plot._y_max - plot._y_min
        scored = board.best(5)[4]
        plot.point_at(scored.number)
        await at_rest(pilot)
        assert f"#{scored.number}  loss {scored.loss_used:.3f}" in app.text()[0]
        assert plot.closer(2) and plot.closer(1, "x")
        await at_rest(pilot)
        assert plot._x_max - plot._x_min == pytest.approx(whole[0] / 8)
        assert plot._y_max - plot._y_min == pytest.approx(whole[1] / 4)
        assert plot._x_min <= np.log10(scored.row.latency_ms) <= plot._x_max
        assert "closer" in app.text()[0]
        other = board.best(200)[199]
        plot.point_at(other.number)
        await at_rest(pilot)
        assert plot._x_min <= np.log10(other.row.latency_ms) <= plot._x_max, "what is drawn follows the cursor"
        assert plot.closer(0) and not plot.closer(-1)
        await at_rest(pilot)
        assert plot._x_max - plot._x_min == pytest.approx(whole[0])


async def test_history_shows_the_hypervolume_to_a_stated_reference() -> None:
    board = board_of(made_rows(100))
    plot = RewardHistory(period=0)
    app = WidgetApp(plot)
    async with app.run_test(size=(80, 20)) as pilot:
        plot.show(board)
        best = board.best(1)[0]
        plot.point_at(best.number)
        await at_rest(pilot)
        assert f"best so far {best.reward:.3f}" in app.text()[0]
        plot.another_measure()
        await at_rest(pilot)
        assert "hypervolume to loss 1, ratio 1" in app.text()[0]
        assert (np.diff(plot._reward) >= 0).all()
        front = board.standing.front
        loss, ratio = board.column("loss")[front], board.column("latency")[front] / 30.0
        order = np.argsort(loss)
        steps = np.diff([*loss[order], 1.0]) * (1.0 - ratio[order])
        assert plot._reward[-1] == pytest.approx(steps.sum())


def test_every_pane_has_a_letter_of_its_title() -> None:
    found = letters(TABS)
    assert set(found.values()) == {name for name, _ in TABS}
    assert lettered("Parallel", "a") == "P(a)rallel" and found["a"] == "parallel"


async def test_jumping_goes_to_trials_and_panes(three_studies: Path, tmp_path: Path) -> None:
    shutil.copy(three_studies, tmp_path / "kdnas.db")
    with open_store(tmp_path / "kdnas.db") as store:
        set_remark(store, queries.study_row(store, "minilm").study_id, 16, marked=True)
        async with driven(app_on(store.url, NOW), (80, 24)) as pilot:
            study = await opened(pilot, "minilm")
            await pilot.press("colon", "1", "7", "enter")
            await until(pilot, lambda: study.watched.cursor == 17 and pilot.app.screen is study, "it is on 17")
            await pilot.press("colon", "9", "9", "enter")
            await until(pilot, shows(pilot.app, "There is no trial 99. They go from 0 to 29."), "it says so")
            await pilot.press("escape")
            for letter, name, words in (
                ("s", "slice", "loss ↑ by dimension"), ("a", "parallel", "lines"), ("i", "timeline", "1 worker"),
                ("h", "history", "reward ↑"),
            ):  # fmt: skip
                await pilot.press("colon")
                await until(pilot, lambda: isinstance(pilot.app.screen, Jump), "it asks where to")
                await pilot.press(letter)
                await until(pilot, lambda name=name: study.panes.tab == name and study.focused.id == name, name)
                await until(pilot, shows(pilot.app, words), words)
                assert "#17" in text_of(pilot.app)
            before = study.watched.cursor
            await pilot.press("down")
            await until(pilot, lambda: study.watched.cursor != before, "a plot steps through the trials, too")
            await pilot.press("up", "slash", *"is", "colon", *"marked", "enter")
            await until(pilot, lambda: study.watched.filter.text == "is:marked", "filtered")
            await pilot.press("colon", "1", "7", "enter")
            await until(pilot, shows(pilot.app, "The filter hides trial 17."), "it says so")


@pytest.mark.parametrize("size", [(48, 40), (200, 60)])
async def test_the_recorded_study_has_all_panes(size: tuple[int, int], recorded: Path) -> None:
    async with driven(app_on(str(recorded), RECORDED_NOW, ascii=True, readonly="recorded"), size) as pilot:
        study = await opened(pilot, "quickstart")
        for letter, words in (("s", "by dimension"), ("a", "12 lines"), ("i", "1 worker, 3m")):
            await pilot.press("colon", letter)
            await until(pilot, shows(pilot.app, words), words)
            await settled(pilot)
            assert "#11" in text_of(pilot.app)
        assert study.panes.shown == "timeline"
