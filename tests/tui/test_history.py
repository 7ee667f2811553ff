"""History shows what the table shows: its filter, its cursor, its marks."""

from __future__ import annotations

from dataclasses import replace

from kdnas.study.filter import parse
from kdnas.study.trial_columns import Board
from kdnas_tui.widgets.reward_history import RewardHistory, placed
from tests.rows import made_rows
from tests.tui.widget_apps import WidgetApp, at_rest


async def test_history_follows_filter_cursor_and_marks() -> None:
    board = Board(-0.06, 0.6)
    board.update(made_rows(40))
    plot = RewardHistory(period=0.0)
    app = WidgetApp(plot)
    async with app.run_test(size=(80, 20)) as pilot:
        plot.show(board)
        plot.point_at(board.best(1)[0].number)
        await at_rest(pilot)
        assert "✛" in "\n".join(app.text()) and "◆" not in "\n".join(app.text())
        all_points = len(plot._x)
        board.update([replace(board.best(3)[2].row, marked=True)])
        mask = board.mask(parse("layers>=4"))
        plot.show(board, mask)
        await at_rest(pilot)
        assert 0 < len(plot._x) < all_points
        places, x, _ = placed(board, False, mask)
        assert set(board.numbers[places]) <= set(board.numbers[mask]) and x.max() > len(x)  # each keeps its place
        plot.show(board)
        await at_rest(pilot)
        assert "◆" in "\n".join(app.text())
