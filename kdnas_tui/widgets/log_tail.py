"""The workers' log lines, newest last: follows the end, scrolls back, filters by level, searches."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from rich.style import Style
from textual import events
from textual.message import Message
from textual.strip import Strip

from kdnas.study.rows import LogRow
from kdnas.system.moments import written
from kdnas_tui.keys import MOVES
from kdnas_tui.widgets.lines import Lines, clean, fitted, strip_of, wrapped

MOST = 5000  # lines kept
LEVELS = ("debug", "info", "warning", "error")
_MARKS = {"debug": " ", "info": " ", "warning": "!", "error": "✖"}
_INDENT = 11  # of the time and the mark


class LogTail(Lines, can_focus=True):
    """`add` what is new; stays at the end while `following`."""

    PREFIX = "log-tail"
    COMPONENT_CLASSES = {
        "log-tail--time",
        "log-tail--debug",
        "log-tail--info",
        "log-tail--warning",
        "log-tail--error",
        "log-tail--found",
        "log-tail--here",
        "log-tail--quiet",
    }
    DEFAULT_CSS = """
    LogTail {
        background: $background;
        padding: 0 1;
        & > .log-tail--time { color: $foreground 45%; }
        & > .log-tail--debug { color: $foreground 50%; }
        & > .log-tail--info { color: $foreground; }
        & > .log-tail--warning { color: $warning; }
        & > .log-tail--error { color: $error; }
        & > .log-tail--found { text-style: underline; }
        & > .log-tail--here { text-style: reverse; }
        & > .log-tail--quiet { color: $foreground 50%; }
    }
    """
    BINDINGS = MOVES

    class Moved(Message):
        """What is shown changed: the level, the search or whether the end is followed."""

        def __init__(self, tail: LogTail) -> None:
            super().__init__()
            self.tail = tail

    def __init__(self, *, clock: Callable[[float], str] | None = None, id: str | None = None) -> None:
        super().__init__(id=id)
        self.rows: deque[LogRow] = deque(maxlen=MOST)
        self.following = True
        self.level = "debug"  # the least that is shown
        self.searched = ""
        self.top = 0
        self._here: int | None = None  # log_id of the match that was gone to
        self._clock = clock or _local_time
        self._pieces: list[tuple[LogRow, int, str]] = []  # row, place of the piece in it, text
        self._wrapped_to = 0

    # ------------------------------------------------------------------ contents

    def add(self, rows: Iterable[LogRow]) -> None:
        """Lines that are new, in their order."""
        new = list(rows)
        if not new:
            return
        self.rows.extend(new)
        if self._wrapped_to:
            self._drop_forgotten()
            self._pieces.extend(piece for row in new[-MOST:] for piece in self._wrapped(row))
        self._settle()

    def _drop_forgotten(self) -> None:
        """Take away the pieces of rows that the newest have pushed out; what is looked at stays where it is."""
        oldest = self.rows[0].log_id
        gone = next((i for i, (row, _, _) in enumerate(self._pieces) if row.log_id >= oldest), len(self._pieces))
        if gone:
            del self._pieces[:gone]
            self.top = max(0, self.top - gone)

    def clear(self) -> None:
        """Forget all lines, for another study."""
        self.rows.clear()
        self._wrap()
        self.following = True
        self._settle()

    @property
    def status(self) -> str:
        """What is shown, in a few words; they stand on the pane's last line."""
        parts = []
        if self.level != "debug":
            parts.append({"info": "no debug", "warning": "warnings and errors", "error": "errors"}[self.level])
        if self.searched:
            parts.append(f"/{self.searched}: {len(self.matches())}")
        if not self.following:
            parts.append("end to follow")
        return " · ".join(parts)

    def matches(self) -> list[int]:
        """log_id of the shown lines that hold the searched text."""
        wanted = self.searched.casefold()
        return [row.log_id for row in self.rows if wanted and self._shows(row) and wanted in row.line.casefold()]

    def search(self, text: str) -> int:
        """Underline a text and go to its last occurrence; empty text ends the search. The number of lines found."""
        self.searched, self._here = text, None
        found = self.matches()
        if found:
            self._go_to(found[-1])
        self._settle()
        self.post_message(self.Moved(self))
        return len(found)

    # ------------------------------------------------------------------ actions

    def go_to_match(self, step: int) -> None:
        """The next line that the search found, or the one before; after the last comes the first."""
        found = self.matches()
        if not found:
            return
        here = self._here if self._here in found else None
        place = (found.index(here) + step) % len(found) if here is not None else len(found) - 1
        self._go_to(found[place])
        self.redraw()

    def next_level(self) -> None:
        """Everything, then without debug, then from warnings, then errors only."""
        self.level = LEVELS[(LEVELS.index(self.level) + 1) % len(LEVELS)]
        self._wrap()
        self._settle()
        self.post_message(self.Moved(self))

    def action_move(self, by: int) -> None:
        self._scroll(by)

    def action_page(self, by: int) -> None:
        self._scroll(by * max(1, self._height - 1))

    def action_edge(self, to: int) -> None:
        """0 is the first line; -1 the last, which is followed from then on."""
        self._scroll(-len(self._pieces) if to == 0 else len(self._pieces))

    def _scroll(self, by: int) -> None:
        self.top = max(0, min(self.top + by, self._last_top))
        self._follow(self.top == self._last_top)
        self._settle()

    def _follow(self, following: bool) -> None:
        if following != self.following:
            self.following = following
            self.post_message(self.Moved(self))

    def _go_to(self, log_id: int) -> None:
        self._here = log_id
        place = next((i for i, (row, _, _) in enumerate(self._pieces) if row.log_id == log_id), None)
        if place is not None:
            height = self._height
            if not self.top <= place < self.top + height:
                self.top = max(0, min(place - height // 2, self._last_top))
            self._follow(self.top == self._last_top)

    @property
    def _height(self) -> int:
        """Lines of the log that are in sight: one fewer where a status stands below them."""
        return max(1, self.content_size.height - bool(self.status))

    @property
    def _last_top(self) -> int:
        return max(0, len(self._pieces) - self._height)

    def _settle(self) -> None:
        self.top = self._last_top if self.following else max(0, min(self.top, self._last_top))
        self.redraw()

    # ------------------------------------------------------------------ drawing

    def _shows(self, row: LogRow) -> bool:
        level = row.level if row.level in LEVELS else "info"
        return LEVELS.index(level) >= LEVELS.index(self.level)

    def _wrap(self) -> None:
        """Again from the first row; never shown so far, nothing is wrapped."""
        self._wrapped_to = self.content_size.width or self._wrapped_to
        self._pieces = [piece for row in self.rows for piece in self._wrapped(row)] if self._wrapped_to else []

    def _wrapped(self, row: LogRow) -> list[tuple[LogRow, int, str]]:
        if not self._shows(row):
            return []
        room = max(8, self._wrapped_to - _INDENT)
        return [(row, i, text) for i, text in enumerate(wrapped(clean(row.line), room))]

    def line(self, y: int, width: int) -> Strip:
        if self.status and y == self.content_size.height - 1:
            return strip_of([(fitted(self.status, width), self.look("quiet"))])
        place = self.top + y
        if place >= len(self._pieces):
            if not self._pieces and y == 0:
                text = "No line of this level." if self.rows else "Nothing logged yet."
                return strip_of([(text[:width], self.look("quiet"))])
            return Strip.blank(width, self.base)
        row, part, text = self._pieces[place]
        level = row.level if row.level in LEVELS else "info"
        look = self.look(level)
        head = f"{self._clock(row.time)} {_MARKS[level]} " if part == 0 else " " * _INDENT
        pieces: list[tuple[str, Style]] = [(head[:-2], self.look("time")), (head[-2:], look)]
        found = self.look("here" if row.log_id == self._here else "found", look)
        pieces += _marked(text, self.searched, look, found)
        return strip_of(pieces)

    def on_resize(self) -> None:
        if self.content_size.width not in (0, self._wrapped_to):
            self._wrap()
        self._settle()

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        self._scroll(3)
        event.stop()

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        self._scroll(-3)
        event.stop()


def _marked(text: str, searched: str, look: Style, found: Style) -> list[tuple[str, Style]]:
    wanted, folded = searched.casefold(), text.casefold()
    if not wanted or len(folded) != len(text):
        return [(text, look)]
    pieces, start = [], 0
    while (place := folded.find(wanted, start)) >= 0:
        pieces += [(text[start:place], look), (text[place : place + len(wanted)], found)]
        start = place + len(wanted)
    return [*pieces, (text[start:], look)]


def _local_time(moment: float) -> str:
    return written(moment, "%H:%M:%S")
