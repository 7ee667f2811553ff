"""What all panes share that are drawn as a sketch: only while seen, at most once a second, only what changed is sent.

A subclass says in `put` what is drawn of the board that it shows, and knows the filter, the cursor and the marks of the
table by it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
from rich.cells import cell_len
from textual.strip import Strip
from textual.timer import Timer

from kdnas.study.ranking import Standing
from kdnas.study.trial_columns import Board
from kdnas_tui.keys import worded
from kdnas_tui.later import later
from kdnas_tui.widgets.lines import Lines, fitted, strip_of
from kdnas_tui.widgets.plot import PAUSE_S, PERIOD_S
from kdnas_tui.widgets.readout import as_fits
from kdnas_tui.widgets.sketch import Sketch

SMALLEST = (16, 5)  # cells; below, there is only the pane's name


class Picture(Lines, can_focus=True):
    """Draws in `put`; `show` and `point_at` tell it what the table shows."""

    PREFIX = "picture"
    COMPONENT_CLASSES = {
        "picture--quiet",
        "picture--faint",
        "picture--line",
        "picture--good",
        "picture--strong",
        "picture--mark",
        "picture--cursor",
        "picture--bad",
    }
    DEFAULT_CSS = """
    Picture {
        height: 1fr;
        background: $background;
        & > .picture--quiet { color: $foreground 60%; }
        & > .picture--faint { color: $foreground 30%; }
        & > .picture--line { color: $primary; }
        & > .picture--good { color: $success; }
        & > .picture--strong { color: $accent; text-style: bold; }
        & > .picture--mark { color: $accent; }
        & > .picture--cursor { color: $foreground; text-style: bold; }
        & > .picture--bad { color: $error; }
        &:focus > .picture--quiet { color: $foreground 80%; }
    }
    """

    def __init__(self, *, period: float = PERIOD_S, id: str | None = None) -> None:
        super().__init__(id=id)
        self.board: Board | None = None
        self.cursor: int | None = None
        self.period = period
        self.page = 0  # of parts that have no room beside each other
        self._mask: np.ndarray | None = None
        self._standing: Standing | None = None
        self._seen: tuple[object, ...] = ()
        self._strips: list[Strip] = []
        self._below: Sketch | None = None  # without the cursor
        self._drawn_for = (0, 0)
        self._drawn_at = -1e9
        self._waiting = False
        self._coming: Timer | None = None  # what it waits for

    # ------------------------------------------------------------------ for subclasses

    def put(self, sketch: Sketch, board: Board, passing: np.ndarray) -> bool:
        """Draw the trials that pass, bool [n]; False where there is none to draw."""
        raise AssertionError("a subclass says what it draws")

    def put_cursor(self, sketch: Sketch, board: Board) -> None:
        """Draw over that what moves often: the cursor and the readout of its trial."""

    @property
    def follows_cursor(self) -> bool:
        """Whether what is drawn moves with the cursor."""
        return False

    def also_seen(self, board: Board) -> tuple[object, ...]:
        """What else than standing, marks, filter and cursor changes the drawing."""
        return ()

    @property
    def pages(self) -> int:
        """How many pages there are, as last drawn."""
        return 1

    def place_of(self, number: int | None) -> int | None:
        """Where the board holds a trial, None where it does not."""
        if self.board is None or number is None:
            return None
        found = np.flatnonzero(self.board.numbers == number)
        return int(found[0]) if len(found) else None

    # ------------------------------------------------------------------ what is shown

    def show(self, board: Board, mask: np.ndarray | None = None) -> None:
        """Show the trials that pass the mask; draw soon if they changed."""
        self.board, self._mask = board, mask
        standing = board.standing  # another one where a trial ended, was marked or began
        seen = (board.whole, None if mask is None else mask.tobytes(), *self.also_seen(board))
        if standing is not self._standing or seen != self._seen:
            self._standing, self._seen = standing, seen
            self.changed()

    def point_at(self, number: int | None) -> None:
        """Put the cursor on a trial, as the table does."""
        if number != self.cursor:
            self.cursor = number
            if self._below is None or self.follows_cursor or (self._below.width, self._below.height) != self._drawn_for:
                self.changed(at_once=True)
            elif self.is_attached and self.is_on_screen:
                self._draw_over()

    def turn_page(self, by: int) -> None:
        """The next or the previous page; it stops at both ends."""
        page = max(0, min(self.page + by, self.pages - 1))
        if page != self.page:
            self.page = page
            self.changed(at_once=True)

    # ------------------------------------------------------------------ drawing

    def changed(self, *, at_once: bool = False) -> None:
        """Draw soon, if the pane is on the screen; else when it comes there."""
        self._drawn_for = (0, 0)
        if (self._waiting and not at_once) or not self.is_attached or not self.is_on_screen:
            return
        if self._coming is not None:
            self._coming.stop()
        self._waiting = True
        wait = 0.0 if at_once else self._drawn_at + self.period - time.monotonic()
        self._coming = later(self, max(wait, PAUSE_S), self._draw_late)

    def _draw_late(self) -> None:
        self._waiting, self._coming = False, None
        if self.is_attached and self.is_on_screen:
            self._draw_now()

    def _draw_now(self) -> None:
        width, height = self.content_size
        board, drawn = self.board, False
        if width < 1 or height < 1 or board is None:
            return
        sketch = Sketch(width, height)
        if not board.whole:
            self._say(sketch, "Reading the store …")
        elif width < SMALLEST[0] or height < SMALLEST[1]:
            self._say(sketch, worded("<study.zoom> gives it room."))
        elif not len(board):
            self._say(sketch, "No trial yet.")
        else:
            passing = np.ones(len(board), dtype=bool)
            if self._mask is not None and len(self._mask) == len(board):
                passing = self._mask
            drawn = self.put(sketch, board, passing)
        self._below = sketch if drawn else None
        self._drawn_for, self._drawn_at = (width, height), time.monotonic()
        if drawn:
            self._draw_over()
        else:
            self._paint(sketch)

    def _draw_over(self) -> None:
        assert self._below is not None and self.board is not None
        sketch = self._below.copy()
        self.put_cursor(sketch, self.board)
        self._paint(sketch)

    def _paint(self, sketch: Sketch) -> None:
        looks = [[(text, self.look(look)) for text, look in row] for row in sketch.rows()]
        self._strips = [strip_of(pieces) for pieces in looks]
        self.redraw()

    def say_none(self, sketch: Sketch, why: str = "") -> bool:
        """Say `why` nothing is drawn: that nothing has finished, or that none of it passes the filter."""
        none = "No finished trial yet." if self._mask is None else "No finished trial passes the filter."
        self._say(sketch, why or none)
        return False

    def _say(self, sketch: Sketch, words: str) -> None:
        sketch.write(max(0, (sketch.width - len(words)) // 2), sketch.height // 2, words[: sketch.width], "quiet")

    def line(self, y: int, width: int) -> Strip:
        if (width, self.content_size.height) != self._drawn_for:
            self.changed(at_once=True)  # not here: keys would wait for it
        return self._strips[y] if y < len(self._strips) else Strip.blank(width, self.base)

    def on_show(self) -> None:
        self.changed(at_once=True)

    def on_resize(self) -> None:
        self.changed(at_once=True)

    def notify_style_update(self) -> None:
        super().notify_style_update()
        self._drawn_for = (0, 0)  # in other colours when it is painted next


def paged(says: str, page: int, pages: int) -> str:
    """A title that names the page, where there are several, and the key to the others."""
    return says if pages < 2 else f"{says}  {page + 1}/{pages} {'←→' if 0 < page < pages - 1 else '←' if page else '→'}"


def title(sketch: Sketch, says: str) -> None:
    """A line above a drawing: what it shows."""
    sketch.write(0, 0, fitted(says, sketch.width).rstrip(), "quiet")


def title_end(sketch: Sketch, says: str, pieces: Sequence[str]) -> None:
    """At the right end of that line as much of the trial under the cursor as fits."""
    text = as_fits(pieces, sketch.width - cell_len(says) - 3)
    sketch.write(sketch.width - cell_len(text), 0, text, "cursor")
