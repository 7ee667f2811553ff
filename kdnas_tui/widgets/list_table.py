"""A small table on Textual's line API: columns that leave where it is narrow, a cursor, changed lines redrawn.

For lists of tens or hundreds of lines (studies, top tens, comparisons); the trials have a table of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.geometry import Region, Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from kdnas_tui.keys import MOVES
from kdnas_tui.widgets.column_fit import fitting
from kdnas_tui.widgets.lines import clean, fitted

GAP = 2  # cells between two columns


@dataclass(frozen=True)
class Column:
    title: str
    align: Literal["left", "right"] = "left"
    width: int | None = None  # None: as wide as its widest cell
    leaves: int = 0  # the highest number leaves first where it is narrow, 0 never
    flex: bool = False  # takes what is left
    most: int = 0  # a longer cell has room only where some is left; 0 for no such bound


@dataclass(frozen=True)
class Line:
    """One line: its cells and, for each cell, the component class it is drawn with ("" for the default one)."""

    key: str
    cells: tuple[str, ...]
    looks: tuple[str, ...] = ()


class ListTable(ScrollView, can_focus=True):
    COMPONENT_CLASSES = {
        "list-table--title",
        "list-table--cursor",
        "list-table--cursor-blurred",
        "list-table--quiet",
        "list-table--good",
        "list-table--warn",
        "list-table--bad",
        "list-table--strong",
    }
    DEFAULT_CSS = """
    ListTable {
        height: 1fr; background: $background; padding: 0 1; scrollbar-size-vertical: 1;
        & > .list-table--title { color: $foreground 55%; }
        & > .list-table--cursor { background: $block-cursor-background; color: $block-cursor-foreground; }
        & > .list-table--cursor-blurred { background: $block-cursor-blurred-background; }
        & > .list-table--quiet { color: $foreground 55%; }
        & > .list-table--good { color: $success; }
        & > .list-table--warn { color: $warning; }
        & > .list-table--bad { color: $error; }
        & > .list-table--strong { text-style: bold; }
    }
    """
    BINDINGS = MOVES

    class Moved(Message):
        """The cursor stands on another line."""

        def __init__(self, table: ListTable, key: str) -> None:
            super().__init__()
            self.table, self.key = table, key

        @property
        def control(self) -> ListTable:
            return self.table

    class Chosen(Message):
        """A line was clicked while the cursor stood on it, or double-clicked."""

        def __init__(self, table: ListTable, key: str) -> None:
            super().__init__()
            self.table, self.key = table, key

        @property
        def control(self) -> ListTable:
            return self.table

    class TitleClicked(Message):
        """A column's title was clicked; `column` counts all columns, also those that have no room."""

        def __init__(self, table: ListTable, column: int) -> None:
            super().__init__()
            self.table, self.column = table, column

        @property
        def control(self) -> ListTable:
            return self.table

    def __init__(
        self, columns: Sequence[Column], *, cursor: bool = True, empty: str = "", id: str | None = None
    ) -> None:
        super().__init__(id=id)
        self.columns = tuple(columns)
        self.lines: list[Line] = []
        self.cursor = 0
        self.has_cursor = cursor
        self.empty = empty
        self.sorted: tuple[int, bool] | None = None  # column and whether it falls; None where no order is chosen
        self._widths: list[int] = []

    # ------------------------------------------------------------------ contents

    def fill(
        self,
        lines: Sequence[Line],
        columns: Sequence[Column] | None = None,
        order: tuple[int, bool] | None = None,
    ) -> None:
        """Show these lines; the cursor stays on its key. Only lines that differ are drawn again.

        `order`: the column that the lines are sorted by, and whether it falls.
        """
        if order != self.sorted:
            self.sorted = order
            self.refresh()
        at = self.current
        old, old_widths = self.lines, self._widths
        if columns is not None:
            self.columns = tuple(columns)
        self.lines = list(lines)
        if at is not None:
            self.cursor = next((i for i, line in enumerate(self.lines) if line.key == at), self.cursor)
        self.cursor = max(0, min(self.cursor, len(self.lines) - 1))
        self._measure()
        if columns is not None or self._widths != old_widths or not self.lines or not old:
            self.refresh()
            return
        for i in range(max(len(old), len(self.lines))):
            if i >= len(old) or i >= len(self.lines) or old[i] != self.lines[i]:
                self._refresh_line(i)
        now = self.current
        if now != at:
            self.refresh()
            if now is not None:
                self.post_message(self.Moved(self, now))

    @property
    def current(self) -> str | None:
        """The key of the line under the cursor."""
        return self.lines[self.cursor].key if 0 <= self.cursor < len(self.lines) else None

    @property
    def shown(self) -> list[int]:
        """The columns that have room."""
        return [i for i, width in enumerate(self._widths) if width >= 0]

    def go_to(self, key: str) -> None:
        for i, line in enumerate(self.lines):
            if line.key == key:
                self._move_to(i)
                return

    # ------------------------------------------------------------------ drawing

    def _measure(self) -> None:
        width = self.scrollable_content_region.width or self.size.width
        widths = [
            c.width
            if c.width is not None
            else max(
                [
                    cell_len(c.title) + (self.sorted is not None),
                    *(cell_len(clean(line.cells[i])) for line in self.lines),
                ],
                default=0,
            )
            for i, c in enumerate(self.columns)
        ]
        widths = [min(w, c.most) if c.most else w for w, c in zip(widths, self.columns, strict=True)]
        stays = fitting(widths, [column.leaves for column in self.columns], width, GAP)
        widths = [w if i in stays else -1 for i, w in enumerate(widths)]
        left = width - sum(widths[i] for i in stays) - GAP * (len(stays) - 1)
        flexible = [i for i in stays if self.columns[i].flex]
        if flexible and left > 0:
            widths[flexible[-1]] += left
        elif left < 0:
            widest = max(stays, key=lambda i: (self.columns[i].flex, widths[i]))
            widths[widest] = max(4, widths[widest] + left)
        self._widths = widths
        self.virtual_size = Size(width, len(self.lines) + 1)

    def on_resize(self) -> None:
        self._measure()
        self.refresh()

    def _refresh_line(self, i: int) -> None:
        y = i + 1 - self.scroll_offset.y
        if 1 <= y < self.size.height:
            self.refresh(Region(0, y, self.size.width, 1))

    def render_line(self, y: int) -> Strip:
        base = self.rich_style
        width = self.size.width
        if y == 0:
            title = self.get_component_rich_style("list-table--title")
            return self._strip([(self._title(i), title) for i in range(len(self.columns))], base, width)
        i = y - 1 + self.scroll_offset.y
        if i >= len(self.lines):
            if not self.lines and y == 2 and self.empty:
                quiet = self.get_component_rich_style("list-table--quiet")
                return Strip([Segment(self.empty, quiet)]).adjust_cell_length(width, base)
            return Strip.blank(width, base)
        line = self.lines[i]
        style = base
        if self.has_cursor and i == self.cursor:
            name = "cursor" if self.has_focus else "cursor-blurred"
            style = base + self.get_component_rich_style(f"list-table--{name}", partial=True)
        looks = line.looks or ("",) * len(line.cells)
        cells = [
            (cell, style + self.get_component_rich_style(f"list-table--{look}", partial=True) if look else style)
            for cell, look in zip(line.cells, looks, strict=True)
        ]
        return self._strip(cells, style, width)

    def _title(self, i: int) -> str:
        """With an arrow where the lines are sorted by it, in the cell that is kept for it."""
        title = self.columns[i].title
        if self.sorted is None or self.sorted[0] != i:
            return title
        arrow = "▾" if self.sorted[1] else "▴"
        return title + arrow if self.columns[i].align == "left" else arrow + title

    def _strip(self, cells: Sequence[tuple[str, Style]], base: Style, width: int) -> Strip:
        segments: list[Segment] = []
        for (text, style), column, w in zip(cells, self.columns, self._widths, strict=False):
            if w < 0:
                continue
            if segments:
                segments.append(Segment(" " * GAP, base))
            text = fitted(clean(text), w, right=column.align == "right")
            segments.append(Segment(text, style))
        return Strip(segments).adjust_cell_length(width, base)

    # ------------------------------------------------------------------ cursor

    def _move_to(self, i: int) -> None:
        i = max(0, min(i, len(self.lines) - 1))
        if not self.has_cursor:
            self.scroll_to(y=max(0, min(i, self.max_scroll_y)), animate=False)
            return
        if i == self.cursor or not self.lines:
            return
        old, self.cursor = self.cursor, i
        rows = max(1, self.size.height - 1)
        top = self.scroll_offset.y
        if i < top:
            self.scroll_to(y=i, animate=False)
        elif i >= top + rows:
            self.scroll_to(y=i - rows + 1, animate=False)
        self._refresh_line(old)
        self._refresh_line(i)
        self.post_message(self.Moved(self, self.lines[i].key))

    def action_move(self, by: int) -> None:
        self._move_to((self.cursor if self.has_cursor else self.scroll_offset.y) + by)

    def action_page(self, by: int) -> None:
        start = self.cursor if self.has_cursor else self.scroll_offset.y
        self._move_to(start + by * max(1, self.size.height - 2))

    def action_edge(self, to: int) -> None:
        self._move_to(0 if to == 0 else len(self.lines) - 1)

    def on_focus(self) -> None:
        self._refresh_line(self.cursor)

    def on_blur(self) -> None:
        self._refresh_line(self.cursor)

    def on_click(self, event: events.Click) -> None:
        place = event.get_content_offset(self)
        if place is None or not self.has_cursor:
            return
        if place.y == 0:
            end = 0
            for i in self.shown:
                end += self._widths[i] + GAP
                if place.x < end:
                    self.post_message(self.TitleClicked(self, i))
                    break
            return
        i = place.y - 1 + self.scroll_offset.y
        if i < len(self.lines):
            again = i == self.cursor and event.chain == 2
            self._move_to(i)
            if again:
                self.post_message(self.Chosen(self, self.lines[i].key))
