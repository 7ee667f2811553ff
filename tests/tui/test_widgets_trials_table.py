"""The trials table: columns by width, the cursor on its trial, and only changed cells sent to the terminal."""

from __future__ import annotations

from dataclasses import replace

import pytest
from textual.geometry import Size

from kdnas.study.filter import parse
from kdnas.study.trial_columns import Board
from kdnas_tui.theme import plain
from kdnas_tui.widgets.trial_cells import columns_of, progress_bar
from kdnas_tui.widgets.trials_table import TrialsTable
from tests.rows import made_row, made_rows
from tests.tui.widget_apps import WidgetApp


def board_of(rows) -> Board:
    board = Board(-0.06, 0.6)
    board.update(rows)
    return board


ROWS = made_rows(414)[:412]  # all but the two that run


@pytest.mark.parametrize(
    ("size", "titles"),
    [
        ((120, 36), ["#", "reward", "loss", "lat", "±", "×T", "params", "L", "H", "act", "state"]),
        ((80, 24), ["#", "reward", "loss", "lat", "±", "×T", "params", "L", "H", "act", "state"]),
        ((60, 16), ["#", "reward", "loss", "lat", "±", "L", "H", "act", "state"]),
        ((48, 40), ["#", "reward", "loss", "lat", "L", "H", "state"]),
        ((40, 10), ["#", "reward", "loss", "lat", "state"]),
    ],
)
async def test_columns_give_way_to_the_width(size, titles):
    table = TrialsTable()
    app = WidgetApp(table)
    async with app.run_test(size=size) as pilot:
        table.show(board_of(ROWS))
        await pilot.pause()
        assert [column.title for column in table.columns] == titles
        lines = app.text()
        assert len(lines) == size[1]
        assert all(len(line) <= size[0] for line in lines)
        for title in titles:
            assert title in lines[0]


async def test_lines_say_what_the_trials_are():
    rows = [
        made_row(0, loss=0.139, latency_ms=4.1, latency_low_ms=4.0, latency_high_ms=4.2, teacher_latency_ms=29.1),
        made_row(1, loss=0.140, latency_ms=4.1, latency_flag="unsettled", teacher_latency_ms=29.1),
        replace(made_row(2, state="running", loss=None, epoch=2, phase="training"), progress=0.5),
        replace(made_row(3, state="running", loss=None, epoch=0, phase="timing"), progress=0.1),
        made_row(4, state="pruned", loss=0.5, epoch=1),
        made_row(5, state="failed", loss=None, latency_ms=None, error="out of memory"),
        made_row(6, state="reused", reused_from=0),
    ]
    table = TrialsTable()
    app = WidgetApp(table)
    async with app.run_test(size=(100, 12)) as pilot:
        table.show(board_of([replace(row, marked=row.number == 1) for row in rows]))
        await pilot.pause()
        shown = [line.replace("▸", " ").replace("●", " ") for line in app.text()[1:9] if "─" not in line]
        lines = {int(line.split()[0].strip("*")): line for line in shown}
        assert "0*" in lines[0]
        assert "0.139" in lines[0] and "4.10" in lines[0] and ".10" in lines[0] and "7.1×" in lines[0]
        assert lines[0].endswith("done") and "~" in lines[1] and "!" in lines[1] and "~" not in lines[0]
        assert "▰▰▱▱ 2/4" in lines[2] and "–" in lines[2]
        assert lines[3].rstrip().endswith("timing")
        assert lines[4].rstrip().endswith("pruned 1/4")
        assert lines[5].rstrip().endswith("failed")
        assert lines[6].rstrip().endswith("as #0")
        assert "●" in next(line for line in app.text() if " 1" in line and "~" in line)


async def test_nothing_is_sent_where_nothing_changed():
    board = board_of(ROWS)
    table = TrialsTable()
    app = WidgetApp(table)
    async with app.run_test(size=(120, 36)) as pilot:
        table.show(board)
        await pilot.pause()
        app.take_sent()
        table.show(board)
        await pilot.pause()
        assert app.take_sent() == ""


async def test_one_changed_cell_redraws_only_its_line():
    board = board_of(ROWS)
    table = TrialsTable()
    app = WidgetApp(table)
    async with app.run_test(size=(120, 36)) as pilot:
        table.show(board)
        await pilot.pause()
        before = app.text()
        app.take_sent()
        third = board.best(3)[2].row
        board.update([replace(third, parameters=12_345_678)])
        table.show(board)
        await pilot.pause()
        after = app.text()
        changed = [y for y, (a, b) in enumerate(zip(before, after, strict=True)) if a != b]
        assert changed == [3]
        sent = app.take_sent()
        assert "12.3" in sent
        assert len(sent.encode()) < 300
        assert "\x1b[5;1H" not in sent  # nothing of the line below


async def test_progress_of_a_running_trial_is_shown_though_nothing_is_ranked_anew():
    running = replace(made_row(7, state="running", loss=None, epoch=1, phase="training"), progress=0.25)
    board = board_of([*ROWS[:7], running])
    table = TrialsTable()
    app = WidgetApp(table)
    async with app.run_test(size=(120, 20)) as pilot:
        table.show(board)
        await pilot.pause()
        standing = board.standing
        board.update([replace(running, epoch=3, progress=0.75)])
        assert board.standing is standing
        table.show(board)
        await pilot.pause()
        assert "▰▰▰▱ 3/4" in "\n".join(app.text())
        table.sort_by("epoch", descending=True)
        board.update([replace(running, epoch=0, progress=0.0, phase="building")])
        table.show(board)
        assert table.numbers[0] == 7  # what runs stays at the top


async def test_a_trial_that_arrives_out_of_view_sends_nothing():
    board = board_of(ROWS)
    table = TrialsTable()
    app = WidgetApp(table)
    async with app.run_test(size=(120, 20)) as pilot:
        table.show(board)
        await pilot.pause()
        app.take_sent()
        board.update([made_row(412, loss=0.96)])
        table.show(board)
        await pilot.pause()
        assert table.count == 413
        assert app.take_sent() == ""


async def test_the_cursor_stays_on_its_trial_and_its_line_as_trials_arrive():
    board = board_of(ROWS)
    table = TrialsTable()
    app = WidgetApp(table)
    async with app.run_test(size=(100, 20), message_hook=app.hear) as pilot:
        table.show(board)
        await pilot.pause()
        await pilot.press("pagedown", "pagedown", "down")
        number, top = table.cursor, table.top
        assert top > 0
        before = next(line for line in app.text() if line.startswith("▸"))
        line = app.text().index(before)
        moves = len(app.heard(TrialsTable.CursorMoved))
        board.update([made_row(412, loss=0.01), made_row(413, loss=0.011)])
        table.show(board)
        await pilot.pause()
        assert table.cursor == number
        assert table.top == top + 2
        assert app.text()[line] == before
        assert len(app.heard(TrialsTable.CursorMoved)) == moves


async def test_at_the_top_a_new_best_trial_is_seen():
    board = board_of(ROWS)
    table = TrialsTable()
    app = WidgetApp(table)
    async with app.run_test(size=(100, 20)) as pilot:
        table.show(board)
        await pilot.pause()
        number = table.cursor
        board.update([made_row(412, loss=0.01)])
        table.show(board)
        await pilot.pause()
        assert table.top == 0 and table.cursor == number
        assert app.text()[1].lstrip().startswith("412*")
        assert app.text()[2].startswith("▸")


async def test_a_filter_keeps_the_cursor_near_where_its_trial_went():
    board = board_of(ROWS)
    table = TrialsTable()
    app = WidgetApp(table)
    async with app.run_test(size=(100, 20), message_hook=app.hear) as pilot:
        table.show(board)
        await pilot.pause()
        await pilot.press("down", "down")
        gone = board.scored(table.cursor).row.config["hidden_act"]
        mask = board.mask(parse(f"not act:{gone}"))
        table.show(board, mask)
        await pilot.pause()
        assert table.count == mask.sum()
        assert board.scored(table.cursor).row.config["hidden_act"] != gone
        assert app.heard(TrialsTable.CursorMoved)[-1].number == table.cursor
        table.show(board, board.mask(parse("number>100000")))
        await pilot.pause()
        assert table.cursor is None
        assert "No trial yet." in "".join(app.text())


async def test_keys_move_the_cursor_and_tell():
    board = board_of(ROWS)
    table = TrialsTable()
    app = WidgetApp(table)
    async with app.run_test(size=(100, 20), message_hook=app.hear) as pilot:
        table.show(board)
        await pilot.pause()
        order = table.numbers
        for keys, row in [("down", 1), ("j down", 3), ("up k", 1), ("end", 411), ("up", 410), ("home", 0)]:
            await pilot.press(*keys.split())
            assert table.cursor == order[row]
            assert app.heard(TrialsTable.CursorMoved)[-1].number == order[row]
        await pilot.press("up")
        assert table.cursor == order[0]
        await pilot.press("end")
        assert any(line.startswith("▸") for line in app.text())
        assert table.go_to(order[200]) and table.cursor == order[200]
        assert any(line.startswith("▸") for line in app.text())
        assert not table.go_to(10_000)


async def test_clicks_choose_sort_and_mark():
    board = board_of(ROWS)
    table = TrialsTable()
    app = WidgetApp(table)
    async with app.run_test(size=(100, 20), message_hook=app.hear) as pilot:
        table.show(board)
        await pilot.pause()
        order = table.numbers
        await pilot.click(table, offset=(30, 5))
        assert table.cursor == order[4]
        await pilot.click(table, offset=(1, 6))
        assert app.heard(TrialsTable.MarkClicked)[-1].number == order[5]
        await pilot.click(table, offset=(30, 7), times=2)
        assert app.heard(TrialsTable.Chosen)[-1].number == order[6]
        latency = app.text()[0].index("lat")
        await pilot.click(table, offset=(latency + 1, 0))
        assert (table.sort_key, table.descending) == ("latency", False)
        assert table.numbers == board.numbers[board.order("latency")].tolist()
        assert "▴lat" in app.text()[0]
        assert table.cursor == order[6]
        await pilot.click(table, offset=(latency + 1, 0))
        assert table.descending
        assert app.heard(TrialsTable.SortChanged)[-1].descending


async def test_the_wheel_scrolls_without_moving_the_cursor():
    board = board_of(ROWS)
    table = TrialsTable()
    app = WidgetApp(table)
    async with app.run_test(size=(100, 20)) as pilot:
        table.show(board)
        await pilot.pause()
        number = table.cursor
        table._scroll(3)
        await pilot.pause()
        assert table.top == 3 and table.cursor == number
        assert not any(line.startswith("▸") for line in app.text())
        table._scroll(100_000)
        assert table.top == 412 - 19
        await pilot.press("down")
        assert any(line.startswith("▸") for line in app.text())


async def test_sorting_walks_the_columns():
    board = board_of(ROWS)
    table = TrialsTable()
    app = WidgetApp(table)
    async with app.run_test(size=(100, 20)) as pilot:
        table.show(board)
        await pilot.pause()
        table.action_sort(1)
        assert (table.sort_key, table.descending) == ("loss", False)
        table.action_sort(-1)
        assert (table.sort_key, table.descending) == ("reward", True)
        table.action_sort(0)
        assert (table.sort_key, table.descending) == ("reward", False)
        for column in table.columns:
            table.sort_by(column.key)
            assert table.numbers == board.numbers[board.order(column.key, descending=table.descending)].tolist()


async def test_hostile_text_neither_breaks_lines_nor_becomes_markup():
    evil = "[red]x[/]\x1b[2J\n\t"
    row = replace(made_row(0, act=evil), tags=("[b]",))
    other = made_row(1, act="漢字漢字漢字")
    table = TrialsTable()
    app = WidgetApp(table)
    async with app.run_test(size=(120, 8)) as pilot:
        table.show(board_of([row, other]))
        await pilot.pause()
        screen = "\n".join(app.text())
        assert "\x1b[2J" not in app.take_sent()
        assert "[red…" in screen or "[red" in screen
        assert "[b]" in screen
        assert len(app.text()) == 8


async def test_resizing_fits_the_columns_again():
    table = TrialsTable()
    app = WidgetApp(table)
    async with app.run_test(size=(120, 20)) as pilot:
        table.show(board_of(ROWS))
        await pilot.pause()
        wide = len(table.columns)
        await pilot.resize_terminal(50, 12)
        await pilot.pause()
        assert len(table.columns) < wide
        assert all(len(line) <= 50 for line in app.text())


async def test_other_families_show_the_dimensions_in_which_they_differ():
    rows = [
        replace(made_row(n), candidate={"cell": "lstm" if n % 2 else "gru", "hidden": 32 * n, "bias": True}, config={})
        for n in range(4)
    ]
    table = TrialsTable()
    app = WidgetApp(table)
    async with app.run_test(size=(120, 20)) as pilot:
        table.show(board_of(rows))
        await pilot.pause()
        titles = [column.title for column in table.columns]
        assert "hidden" in titles and "cell" in titles
        assert "bias" not in titles and "L" not in titles


def test_progress_bars_fill_from_the_left():
    assert progress_bar(0, 4, 0.0) == "▱▱▱▱ 0/4"
    assert progress_bar(2, 4, 0.5) == "▰▰▱▱ 2/4"
    assert progress_bar(4, 4, 1.0) == "▰▰▰▰ 4/4"


async def test_what_runs_stays_at_the_top_with_its_count_until_it_ends():
    rows = made_rows(60)
    rows[20] = replace(rows[20], state="running", epoch=1, phase="training", loss=None)
    board = board_of(rows)
    table = TrialsTable()
    app = WidgetApp(table)
    async with app.run_test(size=(100, 20)) as pilot:
        table.show(board)
        await pilot.pause()
        lines = app.text()
        assert {int(line.split()[0]) for line in lines[1:4]} == {20, 58, 59} and "▰" in lines[1]
        assert "3 running" in lines[4]
        best = board.best(1)[0].number
        assert table.cursor == table.first == best and lines[5].startswith("▸")
        await pilot.press("end", "pageup")
        assert app.text()[1:4] == lines[1:4]  # pinned, however far one scrolls
        await pilot.press("home", "up")
        assert table.cursor == table.numbers[2]
        await pilot.click(table, offset=(30, 5))
        assert table.cursor == best
        board.update([replace(rows[20], state="failed")])
        table.show(board)
        await pilot.pause()
        assert "2 running" in app.text()[3] and table.cursor == best


async def test_columns_without_room_are_a_key_away_and_sorting_finds_them():
    table = TrialsTable()
    app = WidgetApp(table)
    async with app.run_test(size=(48, 12)) as pilot:
        board = board_of(ROWS)
        table.show(board)
        await pilot.pause()
        first = [column.key for column in table.columns]
        assert app.text()[0].endswith("›") and table.pages.elsewhere == len(table.pages.wanted(board)) - len(first)
        seen = set(first)
        for _ in range(len(table.pages.pages) - 1):
            table.turn_page(1)
            await pilot.pause()
            assert [column.key for column in table.columns][:2] == ["number", "reward"]
            seen |= {column.key for column in table.columns}
        assert seen == {column.key for column in table.pages.wanted(board)}
        assert app.text()[0].endswith("‹")
        table.sort_by("loss")
        assert [column.key for column in table.columns] == first
        hidden = [column.key for column in table.pages.wanted(board) if column.key not in first]
        table.sort_by(hidden[0])
        assert hidden[0] in [column.key for column in table.columns]


@pytest.mark.parametrize("narrow", [40, 48, 60, 80, 100])
async def test_a_wider_table_never_shows_less(narrow):
    keys = []
    for width in (narrow, narrow + 20):
        table = TrialsTable()
        async with WidgetApp(table).run_test(size=(width, 12)) as pilot:
            table.show(board_of(ROWS))
            await pilot.pause()
            keys.append({column.key for column in table.columns})
    assert keys[0] <= keys[1]


async def test_columns_are_chosen_by_hand():
    table = TrialsTable()
    app = WidgetApp(table)
    async with app.run_test(size=(100, 12)) as pilot:
        table.show(board_of(ROWS))
        table.choose(frozenset({"params", "half"}), frozenset({"memory", "duration"}))
        await pilot.pause()
        titles = [column.title for column in table.columns]
        assert "params" not in titles and "±" not in titles and titles[-2:] == ["memory", "time"]
        assert "900 MiB" in app.text()[1] and "1m" in app.text()[1]


@pytest.mark.parametrize("ascii", [False, True])
def test_every_heading_is_a_word_of_the_filter(ascii):
    rows = [replace(made_row(n), candidate={"cell": "lstm" if n % 2 else "gru", "hidden": n}) for n in range(3)]
    for board in (board_of([replace(ROWS[0], tags=("keep",)), *ROWS[1:]]), board_of(rows)):
        for column in columns_of(board):
            title = plain(column.title) if ascii else column.title
            text = column.key in ("tag", "origin", "flag", "note", "state", "act", "cell")
            chosen = parse(f"{title}:done" if text else f"{title}>=0", board.keys())
            assert chosen.root.key == column.key


def test_each_sign_has_one_meaning_also_in_ascii():
    signs = [plain(sign) for sign in ("*", "~", "!", "±", "▲", "#")]
    assert len(set(signs)) == len(signs)


async def test_a_line_is_as_long_as_it_says_also_where_the_table_had_no_room_before():
    """Its lines may be asked for between a layout and the news of it: hidden by a card, then on a wide screen."""
    table = TrialsTable()
    app = WidgetApp(table)
    async with app.run_test(size=(80, 24)) as pilot:
        table.show(board_of(made_rows(414)))
        await pilot.pause()
        assert table._scrolls
        for before in (0, 1, 2):
            table._strips.clear()
            table._fitted_to = -1
            size, table._size = table._size, Size(before, table.size.height)
            table._fit()
            table._size = size
            for width in (0, 1, 79, 80):
                for y in range(table.content_size.height):
                    strip = table._fitted(y, width)
                    assert sum(segment.cell_length for segment in strip) == strip.cell_length == width, (before, y)


@pytest.mark.parametrize(
    ("latency", "half", "shown"),
    [
        (4.0, 0.1, ".10"),
        (4.0, 0.03, ".03"),
        (24.0, 0.3, ".3"),
        (24.0, 0.03, ".03"),
        (24.0, 0.0, ".01"),
        (240.0, 12.0, "12"),
    ],
)
def test_a_spread_is_never_said_to_be_nothing(latency: float, half: float, shown: str) -> None:
    row = made_row(0, latency_ms=latency, latency_low_ms=latency - half, latency_high_ms=latency + half)
    column = next(column for column in columns_of(board_of([row])) if column.key == "half")
    assert column.text(board_of([row]).at(0)) == shown and len(shown) <= column.width


def test_a_word_that_tells_candidates_apart_is_not_cut() -> None:
    rows = [
        made_row(0, candidate={"num_hidden_layers": 2, "hidden_size": 64, "kind": "encoder"}),
        made_row(1, candidate={"num_hidden_layers": 2, "hidden_size": 64, "kind": "static"}),
    ]
    board = board_of(rows)
    column = next(column for column in columns_of(board) if column.key == "kind")
    assert [column.text(board.at(place)) for place in (0, 1)] == ["encoder", "static"] and column.width == 7
