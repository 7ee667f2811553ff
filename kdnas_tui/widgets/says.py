"""Text that changes often: only the cells that changed are sent to the terminal.

Where a `Static` repaints all of itself for one digit, this repaints the digit. Cuts or wraps as the text asks.
"""

from __future__ import annotations

from rich.segment import Segment
from rich.text import Text
from textual.strip import Strip

from kdnas_tui.widgets.lines import Lines


class Says(Lines):
    """`show` a text; with `no_wrap` it is one line. What has no room in it is cut with …"""

    def __init__(self, *, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self.text = Text()
        self._wrapped: tuple[int, list[Text]] | None = None  # for a width

    def show(self, text: Text) -> None:
        self.text, self._wrapped = text, None
        self.redraw()

    def line(self, y: int, width: int) -> Strip:
        if self._wrapped is None or self._wrapped[0] != width:
            self._wrapped = width, list(self.text.wrap(self.app.console, max(1, width)))
        lines = self._wrapped[1]
        if y >= len(lines):
            return Strip.blank(width, self.base)
        here = lines[y]
        if y == self.content_size.height - 1 and len(lines) > y + 1:
            here = here.copy()
            here.truncate(max(1, width - 2))
            here.append(" …")
        segments = here.render(self.app.console)
        return Strip(Segment.apply_style(segments, self.base)).simplify()
