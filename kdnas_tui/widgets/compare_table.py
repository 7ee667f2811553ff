"""Candidates side by side in columns of one width: a line for each fact, in sections that fold.

A long value is cut with … and shown whole on demand; columns that do not fit are scrolled to. Knows no candidate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.style import Style
from textual import events
from textual.strip import Strip

from kdnas_tui.keys import MOVES
from kdnas_tui.widgets.lines import Lines, clean, fitted, strip_of, wrapped

LEAST = 11  # cells of a column before another one is scrolled out of sight
MOST = 30
NAMES = 22  # cells of the facts' names at most
GAP = 2  # cells between two columns; the sign of the best figure stands in the first
BEST = "▲"


@dataclass(frozen=True)
class Fact:
    """One line: a value of each candidate; `best` are the places of the best figures."""

    name: str
    cells: tuple[str, ...]
    best: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Section:
    """Facts under a title; the first one needs none. A folded one shows its title and how many facts it holds."""

    title: str
    facts: tuple[Fact, ...]
    folded: bool = False


@dataclass(frozen=True)
class _Entry:
    """What the cursor can stand on."""

    section: Section
    fact: Fact | None  # None: the section's title


class CompareTable(Lines, can_focus=True):
    """`fill` with sections; `whole` unfolds what the cursor is on, `across` scrolls the candidates."""

    PREFIX = "compare-table"
    COMPONENT_CLASSES = {
        "compare-table--title",
        "compare-table--name",
        "compare-table--section",
        "compare-table--best",
        "compare-table--cursor",
    }
    DEFAULT_CSS = """
    CompareTable {
        height: 1fr; background: $background; padding: 0 1;
        & > .compare-table--title { text-style: bold; }
        & > .compare-table--name { color: $foreground 60%; }
        & > .compare-table--section { color: $primary; }
        & > .compare-table--best { color: $accent; text-style: bold; }
        & > .compare-table--cursor { background: $block-cursor-background; color: $block-cursor-foreground; }
    }
    """
    BINDINGS = MOVES

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.titles: tuple[str, ...] = ()
        self.left = 0  # the first candidate in sight
        self._sections: tuple[Section, ...] = ()
        self._turned: set[str] = set()  # sections that were folded or unfolded by hand
        self._opened: set[str] = set()  # facts that are shown whole
        self._at = 0
        self._top = 0

    # ------------------------------------------------------------------ contents

    def fill(self, titles: Sequence[str], sections: Sequence[Section]) -> None:
        """Show these sections; cursor, folds and place stay."""
        self.titles, self._sections = tuple(titles), tuple(section for section in sections if section.facts)
        self.across(0)
        self._move_to(self._at)

    @property
    def in_sight(self) -> range:
        """Places of the candidates that the width has room for."""
        count = len(self.titles)
        fit = max(1, min(count, (self.content_size.width - self._names) // (LEAST + GAP)))
        left = max(0, min(self.left, count - fit))
        return range(left, min(count, left + fit))

    def across(self, by: int) -> None:
        """Scroll by so many candidates."""
        self.left = max(0, min(self.left + by, len(self.titles) - len(self.in_sight)))
        self.redraw()

    def whole(self) -> None:
        """Show the values under the cursor whole, or cut again; a section's title folds and unfolds it."""
        entries = self._entries()
        if not entries:
            return
        entry = entries[min(self._at, len(entries) - 1)]
        name, held = (entry.section.title, self._turned) if entry.fact is None else (entry.fact.name, self._opened)
        held.symmetric_difference_update({name})
        self._move_to(self._at)

    def _folded(self, section: Section) -> bool:
        return section.folded != (section.title in self._turned)

    def _entries(self) -> list[_Entry]:
        found: list[_Entry] = []
        for section in self._sections:
            if section.title:
                found.append(_Entry(section, None))
            if not (section.title and self._folded(section)):
                found += [_Entry(section, fact) for fact in section.facts]
        return found

    # ------------------------------------------------------------------ drawing

    @property
    def _names(self) -> int:
        longest = max((len(fact.name) for section in self._sections for fact in section.facts), default=0)
        return min(NAMES, max(6, longest), max(6, self.content_size.width // 3))

    @property
    def _column(self) -> int:
        """Cells of one column, the same for all."""
        shown = max(1, len(self.in_sight))
        return max(4, min(MOST, (self.content_size.width - self._names) // shown - GAP))

    def _drawn(self) -> list[tuple[int, list[tuple[str, Style]]]]:
        """Every line below the titles, with the entry that it belongs to."""
        column, names, sight = self._column, self._names, self.in_sight
        lines: list[tuple[int, list[tuple[str, Style]]]] = []
        for at, entry in enumerate(self._entries()):
            base = self.look("cursor") if at == self._at and self.has_focus else self.base
            fact = entry.fact
            if fact is None:
                sign = "▸" if self._folded(entry.section) else "▾"
                says = f"{sign} {entry.section.title} ({len(entry.section.facts)})"
                lines.append((at, [(fitted(says, self.content_size.width), self.look("section", base))]))
                continue
            texts = [clean(fact.cells[place]) for place in sight]
            parts = [wrapped(text, column) if fact.name in self._opened else [text] for text in texts]
            for row in range(max(map(len, parts))):
                name = fact.name if row == 0 else ""
                pieces = [(fitted(name, names), self.look("name", base))]
                for place, part in zip(sight, parts, strict=True):
                    best = place in fact.best
                    style = self.look("best", base) if best else base
                    text = part[row] if row < len(part) else ""
                    pieces.append((f" {BEST if best and row == 0 else ' '}", style))
                    pieces.append((fitted(text, column), style))
                lines.append((at, pieces))
        return lines

    def line(self, y: int, width: int) -> Strip:
        if y == 0:
            return self._titles(width)
        drawn = self._drawn()
        place = self._top + y - 1
        if place >= len(drawn):
            return Strip.blank(width, self.base)
        at, pieces = drawn[place]
        under = self.look("cursor") if at == self._at and self.has_focus else self.base
        return strip_of(pieces).adjust_cell_length(width, under)

    def _titles(self, width: int) -> Strip:
        sight, look = self.in_sight, self.look("title")
        before, after = sight.start, len(self.titles) - sight.stop
        more = f"‹{before} more" if before else ""
        pieces = [(fitted(more, self._names), self.look("section"))]
        pieces += [(fitted("  " + clean(self.titles[place]), self._column + GAP), look) for place in sight]
        if after:
            says = f"{after} more›"
            head = strip_of(pieces).adjust_cell_length(width - len(says), self.base)
            return Strip.join([head, strip_of([(says, self.look("section"))])])
        return strip_of(pieces)

    # ------------------------------------------------------------------ cursor

    def action_move(self, by: int) -> None:
        self._move_to(self._at + by)

    def action_page(self, by: int) -> None:
        self._move_to(self._at + by * max(1, self.content_size.height - 2))

    def action_edge(self, to: int) -> None:
        self._move_to(0 if to == 0 else len(self._entries()) - 1)

    def _move_to(self, at: int) -> None:
        self._at = max(0, min(at, len(self._entries()) - 1))
        owners = [owner for owner, _ in self._drawn()]
        rows = max(1, self.content_size.height - 1)
        if owners:
            first = owners.index(self._at)
            last = min(first + owners.count(self._at), first + rows)
            self._top = max(min(self._top, first), last - rows, 0)
            self._top = min(self._top, max(0, len(owners) - rows))
        self.redraw()

    def on_resize(self) -> None:
        self.across(0)
        self._move_to(self._at)
        self.repaint()

    def on_focus(self) -> None:
        self.redraw()

    def on_blur(self) -> None:
        self.redraw()

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        self.action_move(3)
        event.stop()

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        self.action_move(-3)
        event.stop()

    def on_click(self, event: events.Click) -> None:
        place = event.get_content_offset(self)
        if place is None or place.y == 0:
            return
        drawn = self._drawn()
        if self._top + place.y - 1 < len(drawn):
            at = drawn[self._top + place.y - 1][0]
            again = at == self._at
            self._move_to(at)
            if again:
                self.whole()
