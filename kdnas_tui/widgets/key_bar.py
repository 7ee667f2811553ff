"""The footer: the keys of the screen on one line, the most useful ones where it is narrow; each can be clicked."""

from __future__ import annotations

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.strip import Strip
from textual.widget import Widget

from kdnas_tui.keys import Key, footer


class KeyBar(Widget):
    """One line of keys. It always ends with help, palette and quit, in so far as they fit."""

    COMPONENT_CLASSES = {"key-bar--key", "key-bar--label"}
    DEFAULT_CSS = """
    KeyBar {
        dock: bottom; height: 1; background: $background;
        & > .key-bar--key { color: $primary; }
        & > .key-bar--label { color: $foreground 65%; }
    }
    """
    ALWAYS = 90  # places from here on are kept for the right end

    def __init__(self, screen: str) -> None:
        super().__init__()
        self._footer = self._keys = footer(screen)
        self._spans: list[tuple[int, int, Key]] = []
        self._gap = 2  # blanks between two keys

    def leave_out(self, actions: frozenset[str]) -> None:
        """Show no keys that do nothing here and now."""
        kept = [key for key in self._footer if key.action not in actions]
        if kept != self._keys:
            self._keys = kept
            self.refresh()

    def shown(self, width: int) -> list[Key]:
        """The keys that fit, in the footer's order."""
        self._gap = 2
        self._gap = 2 if 1 + sum(self._width(key) for key in self._keys) <= width else 1
        last = [key for key in self._keys if key.footer >= self.ALWAYS]
        left = width - 1
        kept: list[Key] = []
        for key in last:
            if self._width(key) <= left:
                kept.append(key)
                left -= self._width(key)
        first: list[Key] = []
        for key in self._keys:
            if key.footer < self.ALWAYS:
                if self._width(key) > left:
                    break
                first.append(key)
                left -= self._width(key)
        return first + kept

    def _width(self, key: Key) -> int:
        return cell_len(key.shown) + len(key.label) + 1 + self._gap

    def render_line(self, y: int) -> Strip:
        key_style = self.get_component_rich_style("key-bar--key")
        label_style = self.get_component_rich_style("key-bar--label")
        base = self.rich_style
        segments = [Segment(" ", base)]
        self._spans = []
        x = 1
        for key in self.shown(self.size.width):
            self._spans.append((x, x + self._width(key), key))
            segments += [Segment(key.shown, key_style), Segment(f" {key.label}{' ' * self._gap}", label_style)]
            x += self._width(key)
        return Strip(segments).adjust_cell_length(self.size.width, Style.combine([base]))

    async def on_click(self, event: events.Click) -> None:
        for start, end, key in self._spans:
            if start <= event.x < end:
                await self.screen.run_action(key.action)
                return
