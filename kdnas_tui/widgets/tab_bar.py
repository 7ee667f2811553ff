"""A row of tabs as plain words on one line; the shown one stands out. Click a word to show it."""

from __future__ import annotations

from collections.abc import Sequence

from rich.segment import Segment
from textual import events
from textual.message import Message
from textual.strip import Strip
from textual.widget import Widget


class TabBar(Widget):
    COMPONENT_CLASSES = {"tab-bar--shown", "tab-bar--other", "tab-bar--rule"}
    DEFAULT_CSS = """
    TabBar {
        height: 1; background: $background;
        & > .tab-bar--shown { color: $foreground; text-style: bold; }
        & > .tab-bar--other { color: $foreground 50%; }
        & > .tab-bar--rule { color: $border; }
    }
    """

    class Chosen(Message):
        def __init__(self, tab: str) -> None:
            super().__init__()
            self.tab = tab

    def __init__(self, tabs: Sequence[tuple[str, str]], shown: str, *, id: str | None = None) -> None:
        """`tabs`: (id, title)."""
        super().__init__(id=id)
        self.tabs = tuple(tabs)
        self.shown = shown
        self._spans: list[tuple[int, int, str]] = []

    def show(self, tabs: Sequence[tuple[str, str]], shown: str) -> None:
        if (tuple(tabs), shown) != (self.tabs, self.shown):
            self.tabs, self.shown = tuple(tabs), shown
            self.refresh()

    def _fitting(self) -> tuple[str, list[tuple[str, str]]]:
        """The separator and the tabs that fit: the air goes first, then the ends of all titles but the shown one."""
        for separator in (" │ ", "│"):
            room = self.size.width - 2 - len(separator) * (len(self.tabs) - 1)
            if sum(len(title) for _, title in self.tabs) <= room:
                return separator, list(self.tabs)
        others = [title for tab, title in self.tabs if tab != self.shown]
        room -= sum(len(title) for tab, title in self.tabs if tab == self.shown)
        length = max(map(len, others), default=0)
        while length > 3 and sum(min(len(title), length) for title in others) > room:
            length -= 1
        return separator, [
            (tab, title if tab == self.shown or len(title) <= length else title[: length - 1] + "…")
            for tab, title in self.tabs
        ]

    def render_line(self, y: int) -> Strip:
        rule = self.get_component_rich_style("tab-bar--rule")
        separator, tabs = self._fitting()
        segments = [Segment("─ ", rule)]
        self._spans = []
        x = 2
        for i, (tab, title) in enumerate(tabs):
            if i:
                segments.append(Segment(separator, rule))
                x += len(separator)
            name = "shown" if tab == self.shown else "other"
            segments.append(Segment(title, self.get_component_rich_style(f"tab-bar--{name}")))
            self._spans.append((x, x + len(title), tab))
            x += len(title)
        segments.append(Segment(" " + "─" * max(0, self.size.width - x - 1), rule))
        return Strip(segments).adjust_cell_length(self.size.width, self.rich_style)

    def on_click(self, event: events.Click) -> None:
        for start, end, tab in self._spans:
            if start <= event.x < end:
                self.post_message(self.Chosen(tab))
                return
