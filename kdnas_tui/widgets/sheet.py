"""Text that scrolls by the keys that move in every list and table."""

from __future__ import annotations

from textual.containers import VerticalScroll

from kdnas_tui.keys import MOVES


class Sheet(VerticalScroll, inherit_bindings=False):
    BINDINGS = MOVES

    def action_move(self, by: int) -> None:
        self.scroll_relative(y=by, animate=False)

    def action_page(self, by: int) -> None:
        self.action_move(by * max(1, self.content_size.height - 1))

    def action_edge(self, to: int) -> None:
        self.scroll_to(y=0 if to == 0 else self.max_scroll_y, animate=False)
