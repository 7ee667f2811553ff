"""The trials of a study as a table of any length: sorted, with a cursor that stays on its trial, drawn line by line.

What runs stands pinned at the top. Columns that do not fit stand on further pages, with number and reward on each.

Shows a `Board` of kdnas.study.trial_columns; `show` costs little enough for every tick. Knows no store: marking and
opening a trial are messages that the screen answers.
"""

from __future__ import annotations

import numpy as np
from rich.style import Style
from textual import events
from textual.message import Message
from textual.strip import Strip

from kdnas.study.ranking import Scored, Standing
from kdnas.study.trial_columns import Board
from kdnas_tui.keys import MOVES
from kdnas_tui.widgets.column_pages import LEFT, ColumnPages
from kdnas_tui.widgets.lines import Lines, fitted, strip_of
from kdnas_tui.widgets.trial_cells import Column, columns_of

CACHED = 1000  # lines, as they were drawn
RANKED = frozenset({"reward", "rank", "number"})  # keys whose order changes only with the standing


class TrialsTable(Lines, can_focus=True):
    """Trials sorted by `sort_key`; `cursor` is the number of the trial under the cursor."""

    PREFIX = "trials-table"
    COMPONENT_CLASSES = {
        "trials-table--title",
        "trials-table--title-sorted",
        "trials-table--cursor",
        "trials-table--cursor-blurred",
        "trials-table--quiet",
        "trials-table--front",
        "trials-table--mark",
        "trials-table--running",
        "trials-table--failed",
        "trials-table--bar",
    }
    DEFAULT_CSS = """
    TrialsTable {
        height: 1fr;
        background: $background;
        & > .trials-table--title { color: $foreground 55%; }
        & > .trials-table--title-sorted { color: $foreground 85%; text-style: bold; }
        & > .trials-table--cursor { background: $block-cursor-background; color: $block-cursor-foreground; }
        & > .trials-table--cursor-blurred { background: $block-cursor-blurred-background; }
        & > .trials-table--quiet { color: $foreground 50%; }
        & > .trials-table--front { color: $accent; }
        & > .trials-table--mark { color: $accent; text-style: bold; }
        & > .trials-table--running { color: $primary; }
        & > .trials-table--failed { color: $error; }
        & > .trials-table--bar { color: $foreground 35%; }
    }
    """
    BINDINGS = MOVES

    class CursorMoved(Message):
        """The cursor stands on another trial."""

        def __init__(self, table: TrialsTable, number: int) -> None:
            super().__init__()
            self.table, self.number = table, number

        @property
        def control(self) -> TrialsTable:
            return self.table

    class Chosen(CursorMoved):
        """The trial was double-clicked."""

    class MarkClicked(CursorMoved):
        """The place before a trial was clicked, where its mark stands."""

    class Refitted(Message):
        """Another number of columns has room."""

    class SortChanged(Message):
        """The table is sorted by another column or in another order."""

        def __init__(self, table: TrialsTable, key: str, descending: bool) -> None:
            super().__init__()
            self.table, self.key, self.descending = table, key, descending

    def __init__(self, *, empty: str = "No trial yet.", id: str | None = None) -> None:
        super().__init__(id=id)
        self.empty = empty
        self.board: Board | None = None
        self.cursor: int | None = None
        self.sort_key = "reward"
        self.descending = True
        self.top = 0  # the first row shown
        self._mask: np.ndarray | None = None
        self._order: tuple[Standing, str, bool] | None = None  # what decides on the order …
        self._changes = -1  # … and on the lines
        self._places = np.zeros(0, dtype=np.int64)  # of the board, in the table's order
        self._numbers = np.zeros(0, dtype=np.int64)
        self._row = 0  # where the cursor is
        self.pages = ColumnPages()
        self._pinned = 0  # rows that run, and stay at the top …
        self._live = np.zeros(0, dtype=np.int64)  # … of all trials that run and are shown
        self._fitted_to = -1  # the cells that a line has
        self._restyled = True
        self._drawn_in: tuple[Style, ...] = ()
        self._strips: dict[tuple[int, str], Strip] = {}  # by trial and cursor's look, as long as nothing changes

    # ------------------------------------------------------------------ contents

    def show(self, board: Board, mask: np.ndarray | None = None) -> None:
        """Show the board's trials, those of the mask, as they are now; repaint only what differs."""
        order = (board.standing, self.sort_key, self.descending)
        ranked_alike = self._order is not None and order[0] is self._order[0]
        alike = ranked_alike and self._order is not None and order[1:] == self._order[1:]
        new = board.changes != self._changes or board is not self.board
        running = self._live if not new and _equal(mask, self._mask) else _running(board, mask)
        moved = not alike or (new and self.sort_key not in RANKED) or not _equal(mask, self._mask)
        moved = moved or not np.array_equal(running, self._live)
        self._live = running
        self.board, self._mask, self._order, self._changes = board, mask, order, board.changes
        if moved:
            places = board.order(self.sort_key, descending=self.descending, mask=mask)
            runs = board.runs()[places]
            self._places = np.concatenate((places[runs], places[~runs])) if len(running) else places
            self._pin()
            self._numbers = board.numbers[self._places]
        if new or not ranked_alike:
            self._strips.clear()
        if (moved or new) and self._fit():
            self.repaint()
        if moved:
            self._find_cursor()
        self.redraw()  # also where nothing is new: the empty table's words may be others

    def _fit(self) -> bool:
        """Choose the columns for the width there is; False where they are as they were."""
        before = self.pages.shown, self.pages.gaps, self._fitted_to
        self.pages.fit(self.board, self.content_size.width)
        # The bar takes a cell. A strip of less than none would say that it is shorter than it is.
        self._fitted_to = max(0, self.content_size.width - self._scrolls)
        if before == (self.pages.shown, self.pages.gaps, self._fitted_to):
            return False
        self._strips.clear()
        return True

    @property
    def count(self) -> int:
        """How many trials are shown."""
        return len(self._places)

    @property
    def numbers(self) -> list[int]:
        """The trial numbers in the order shown."""
        found: list[int] = self._numbers.tolist()
        return found

    @property
    def first(self) -> int | None:
        """The trial at the top of those that do not run."""
        return int(self._numbers[self._start]) if self.count else None

    @property
    def _start(self) -> int:
        """The first row below those that run; the first of all where there is none."""
        return len(self._live) if len(self._live) < self.count else 0

    @property
    def running(self) -> int:
        """How many of the trials shown run."""
        return len(self._live)

    def _pin(self) -> None:
        """As many running trials stay in sight as take a third of the table."""
        self._pinned = min(len(self._live), max(1, (self.content_size.height - 1) // 3))

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns of the page that is shown, from the left."""
        return self.pages.shown

    @property
    def wanted_width(self) -> int:
        """Cells that all columns take."""
        return LEFT + 1 + sum(column.width + 1 for column in self.pages.wanted(self.board))

    def choose(self, hidden: frozenset[str], added: frozenset[str]) -> None:
        """Show all usual columns but these, and these others."""
        self.pages.hidden, self.pages.added = hidden, added
        self.turn_page(0)

    def turn_page(self, by: int) -> None:
        """Go to the columns that stand on the next page, or back."""
        self.pages.page += by
        if self._fit():
            self.repaint()

    def _find_cursor(self) -> None:
        """Keep the cursor on its trial, and the trial on its line. Where the trial is gone, keep the line."""
        before = self.cursor
        found = np.flatnonzero(self._numbers == (-1 if before is None else before))
        at_top = self.top == 0
        if len(found):
            row = int(found[0])
            if not (at_top and row - self._pinned < self._rows):
                self.top += row - self._row
            self._row = row
        elif before is None:
            self._row = self._start
        else:
            self._row = max(0, min(self._row, self.count - 1))
        self.cursor = int(self._numbers[self._row]) if self.count else None
        self._keep_in_view()
        if self.cursor != before and self.cursor is not None:
            self.post_message(self.CursorMoved(self, self.cursor))

    # ------------------------------------------------------------------ sorting

    def sort_by(self, key: str, descending: bool | None = None) -> None:
        """Sort by a key of the filter language; a key given again turns the order round."""
        if descending is None:
            natural = next((c.falling for c in columns_of(self.board) if c.key == key), False)
            descending = not self.descending if key == self.sort_key else natural
        self.sort_key, self.descending = key, descending
        if self.board is not None:
            self.show(self.board, self._mask)
        self.turn_page(self.pages.page_of(key) - self.pages.page)
        self.post_message(self.SortChanged(self, key, descending))

    def action_sort(self, step: int) -> None:
        """Sort by the column beside the present one; 0 turns the order round."""
        if step == 0:
            self.sort_by(self.sort_key, not self.descending)
            return
        columns = self.pages.wanted(self.board)
        keys = [column.key for column in columns]
        if keys:
            here = keys.index(self.sort_key) if self.sort_key in keys else 0
            there = columns[(here + step) % len(keys)]
            self.sort_by(there.key, there.falling)

    # ------------------------------------------------------------------ cursor

    def go_to(self, number: int) -> bool:
        """Put the cursor on a trial; False where it is not shown."""
        found = np.flatnonzero(self._numbers == number)
        if len(found):
            self._move_to(int(found[0]))
        return bool(len(found))

    def action_move(self, by: int) -> None:
        self._move_to(self._row + by)

    def action_page(self, by: int) -> None:
        self._move_to(self._row + by * max(1, self._rows - 1))

    def action_edge(self, to: int) -> None:
        """0 is the first trial below those that run, -1 the last."""
        self._move_to(self._start if to == 0 else self.count - 1)

    def _move_to(self, row: int) -> None:
        row = max(0, min(row, self.count - 1))
        if not self.count or (row == self._row and self.cursor is not None):
            return
        self._row = row
        self.cursor = int(self._numbers[row])
        self._keep_in_view()
        self.redraw()
        self.post_message(self.CursorMoved(self, self.cursor))

    @property
    def _rows(self) -> int:
        """How many rows fit below the titles and what is pinned."""
        return max(1, self.content_size.height - 1 - self._pinned - bool(self._pinned))

    @property
    def _scrolls(self) -> bool:
        return self.count - self._pinned > self._rows

    def _row_at(self, y: int) -> int | None:
        """The row that is drawn at y; None for the titles and the line below what is pinned."""
        if y <= self._pinned:
            return y - 1 if y else None
        below = y - 1 - self._pinned - bool(self._pinned)
        return None if below < 0 else self._pinned + self.top + below

    def _keep_in_view(self) -> None:
        row = self._row - self._pinned
        top = min(max(self.top, row - self._rows + 1), row) if row >= 0 else self.top
        self.top = max(0, min(top, self.count - self._pinned - self._rows))

    def _scroll(self, by: int) -> None:
        top = max(0, min(self.top + by, self.count - self._pinned - self._rows))
        if top != self.top:
            self.top = top
            self.redraw()

    # ------------------------------------------------------------------ drawing

    def line(self, y: int, width: int) -> Strip:
        if y == 0:
            return self._titles(width)
        row = self._row_at(y)
        if row is None:
            says = f"─── {self.running} running "
            return strip_of([(says + "─" * max(0, width - 1 - len(says)), self.look("bar"))])
        if row >= self.count or self.board is None:
            if self.count == 0 and y == 2:
                return strip_of([(fitted("  " + self.empty, width), self.look("quiet"))])
            return Strip.blank(width, self.base)
        strip = self._row_strip(row)
        if self._scrolls and y > self._pinned:
            bar = self._bar(y - self._pinned - bool(self._pinned))
            strip = Strip.join([strip.adjust_cell_length(max(0, width - 1), self.base), bar])
        return strip

    def _titles(self, width: int) -> Strip:
        plain, sorted_look = self.look("title"), self.look("title-sorted")
        pieces: list[tuple[str, Style]] = []
        for column, blank in zip(self.pages.shown, self.pages.gaps, strict=True):  # the arrow finds room in the blanks
            style, title = plain, column.title
            if column.key == self.sort_key:
                arrow = "▾" if self.descending else "▴"
                style, title = sorted_look, title + arrow if column.left else arrow + title
            if column.left:
                pieces += [(" " * blank, plain), (fitted(title, column.width), style)]
            else:
                pieces.append((fitted(title, column.width + blank, right=True), style))
        more = self.pages.arrows
        head = strip_of(pieces).adjust_cell_length(width - len(more), self.base)
        return Strip.join([head, strip_of([(more, sorted_look)])]) if more else strip_of(pieces)

    def _row_strip(self, row: int) -> Strip:
        assert self.board is not None
        if self._restyled:
            self._look_again()
        number = int(self._numbers[row])
        cursor = "" if number != self.cursor else "cursor" if self.has_focus else "cursor-blurred"
        strip = self._strips.get((number, cursor))
        if strip is None:
            if len(self._strips) >= CACHED:
                self._strips.clear()
            scored = self.board.at(int(self._places[row]))
            strip = self._strips[number, cursor] = self._drawn(scored, cursor)
        return strip

    def _drawn(self, scored: Scored, cursor: str) -> Strip:
        base = self.look(cursor)
        plain = base if scored.rank is not None or scored.row.state == "running" else self.look("quiet", base)
        pieces: list[tuple[str, Style]] = [
            ("▸" if cursor else " ", base),
            ("●" if scored.row.marked else " ", self.look("mark", base)),
        ]
        for place, (column, blank) in enumerate(zip(self.pages.shown, self.pages.gaps, strict=True)):
            look = column.look(scored) if column.look is not None else ""
            text = fitted(column.text(scored), column.width, right=not column.left)
            if place:
                pieces.append((" " * blank, base))
            if column.key == "number" and scored.front:
                pieces += [(text[:-1], plain), ("*", self.look("front", base))]
            else:
                pieces.append((text, self.look(look, base) if look else plain))
        return strip_of(pieces).adjust_cell_length(self._fitted_to, base)

    def _bar(self, y: int) -> Strip:
        """One cell of the scroll bar."""
        rows = self._rows
        count = self.count - self._pinned
        length = max(1, rows * rows // count)
        start = (rows - length) * self.top // max(1, count - rows)
        return strip_of([("▐" if start <= y - 1 < start + length else " ", self.look("bar"))])

    def on_resize(self) -> None:
        before = self.pages.elsewhere
        self._pin()
        self._fit()
        if self.pages.elsewhere != before:
            self.post_message(self.Refitted())
        self._keep_in_view()
        self.redraw()

    def notify_style_update(self) -> None:
        self._restyled = True
        super().notify_style_update()

    def _look_again(self) -> None:
        """Forget the drawn lines if their styles changed; a change of focus changes styles, too."""
        self._restyled = False
        names = (name.removeprefix(f"{self.PREFIX}--") for name in sorted(self.COMPONENT_CLASSES))
        before, self._drawn_in = self._drawn_in, (self.base, *map(self.look, names))
        if before != self._drawn_in:
            self._strips.clear()

    # ------------------------------------------------------------------ focus and mouse

    def on_focus(self) -> None:
        self.redraw()

    def on_blur(self) -> None:
        self.redraw()

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        self._scroll(3)
        event.stop()

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        self._scroll(-3)
        event.stop()

    def on_click(self, event: events.Click) -> None:
        place = event.get_content_offset(self)
        if place is None:
            return
        if place.y == 0:
            column = self.pages.at(place.x)
            if column is not None:
                self.sort_by(column.key)
            return
        above = 1 + self._pinned + bool(self._pinned)
        if self._scrolls and place.x >= self.content_size.width - 1 and place.y >= above:
            share = (place.y - above) / max(1, self._rows - 1)
            self._scroll(round(share * (self.count - self._pinned - self._rows)) - self.top)
            return
        row = self._row_at(place.y)
        if row is None or row >= self.count:
            return
        self._move_to(row)
        number = int(self._numbers[row])
        if place.x < LEFT:
            self.post_message(self.MarkClicked(self, number))
        elif event.chain == 2:
            self.post_message(self.Chosen(self, number))


def _running(board: Board, mask: np.ndarray | None) -> np.ndarray:
    """Numbers of the trials that run and pass the mask."""
    runs = board.runs()
    return board.numbers[runs if mask is None or len(mask) != len(runs) else runs & mask]


def _equal(one: np.ndarray | None, other: np.ndarray | None) -> bool:
    if one is None or other is None:
        return one is other
    return np.array_equal(one, other)
