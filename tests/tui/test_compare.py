"""Candidates side by side, with configurations as real models have them, at the sizes that people have."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pytest

from kdnas.study.trial_columns import Board
from kdnas_tui.screens.compare import CompareScreen, compared
from kdnas_tui.widgets.compare_table import CompareTable
from tests.rows import made_row
from tests.tui.driving import app_on, driven, opened, screen, shows, until
from tests.tui.widget_apps import WidgetApp

LABELS = {str(n): f"a label of many words, the {n}th" for n in range(77)}


def board_of_real_configurations(count: int) -> Board:
    board = Board(-0.06, 0.6)
    rows = []
    for number in range(count):
        row = made_row(number, layers=number + 1, loss=0.1 * (number + 1))
        path = f"/very/long/path/that/nobody/can/read/to/the/model-{number}"
        config = {**row.config, "id2label": LABELS, "label2id": dict(map(reversed, LABELS.items())), "from": path}
        rows.append(replace(row, config=config))
    board.update(rows)
    return board


@pytest.mark.parametrize(("width", "height", "least"), [(48, 40, 2), (80, 24, 4), (100, 30, 4), (120, 36, 4)])
async def test_real_candidates_stand_side_by_side(width: int, height: int, least: int) -> None:
    table = CompareTable()
    app = WidgetApp(table)
    async with app.run_test(size=(width, height)) as pilot:
        board = board_of_real_configurations(4)
        table.fill([f"#{n}" for n in range(4)], compared(board.best(4)))
        await pilot.pause()
        assert len(table.in_sight) >= least
        lines = app.text()
        assert all(f"#{n}" in lines[0] for n in table.in_sight)
        assert "77th" not in "\n".join(lines) and "the same in all" in "\n".join(lines)
        places = [lines[0].index(f"#{n}") for n in table.in_sight]
        assert len({b - a for a, b in itertools.pairwise(places)}) == 1  # columns of one width


async def test_differences_come_first_and_a_cut_value_is_shown_whole_on_demand() -> None:
    table = CompareTable()
    app = WidgetApp(table)
    async with app.run_test(size=(80, 40)) as pilot:
        board = board_of_real_configurations(3)
        table.fill(["#0", "#1", "#2"], compared(board.best(3)))
        await pilot.pause()
        text = "\n".join(app.text())
        assert text.index("reward") < text.index("the same in all") < text.index("labels")
        assert "hidden_act" not in text  # they share it
        assert "model-2" not in text and "…" in text
        at = next(i for i, entry in enumerate(table._entries()) if entry.fact and entry.fact.name == "from")
        table.action_move(at)
        table.whole()
        await pilot.pause()
        shown = "\n".join(app.text())
        assert "model-2" in shown.replace(" ", "").replace("\n", "") or all(f"l-{n}" in shown for n in range(3))
        table.whole()
        table.action_edge(-1)
        table.whole()  # the labels
        await pilot.pause()
        assert "id2label" in "\n".join(app.text())


async def test_candidates_that_do_not_fit_are_named_and_scrolled_to() -> None:
    table = CompareTable()
    app = WidgetApp(table)
    async with app.run_test(size=(60, 20)) as pilot:
        board = board_of_real_configurations(8)
        table.fill([f"#{n}" for n in range(8)], compared(board.best(8)))
        await pilot.pause()
        fit = len(table.in_sight)
        assert f"{8 - fit} more›" in app.text()[0] and "#7" not in app.text()[0]
        table.across(8)
        await pilot.pause()
        assert f"‹{8 - fit} more" in app.text()[0] and "#7" in app.text()[0] and "›" not in app.text()[0]


async def test_more_than_can_be_compared_are_refused_rather_than_dropped(recorded: Path, tmp_path: Path) -> None:
    (tmp_path / "kdnas.db").write_bytes(recorded.read_bytes())
    async with driven(app_on(str(tmp_path / "kdnas.db")), (120, 36)) as pilot:
        study = await opened(pilot, "quickstart")
        board = study.watched.trials
        assert board is not None
        board.update([replace(scored.row, marked=True) for scored in board.best(5)])
        study.action_compare()
        await until(pilot, lambda: isinstance(pilot.app.screen, CompareScreen), "the trials are compared")
        found = screen(pilot.app, CompareScreen)
        assert len(found._numbers) == 5
        for words in ("▲", *(f"#{number}" for number in found._numbers)):
            await until(pilot, shows(pilot.app, words), f"{words} is shown")
        await pilot.press("escape")
        board.update([replace(board.best(1)[0].row, number=n, slot=n, marked=True) for n in range(20, 30)])
        study.action_compare()
        await pilot.pause()
        assert not isinstance(pilot.app.screen, CompareScreen)
        assert any("12 at most" in notice.message for notice in pilot.app._notifications)
