"""A box to tick that says on or off by its sign, so that it can be read without colours. Space turns it."""

from __future__ import annotations

from typing import Any

from textual.content import Content
from textual.widgets import Checkbox


class Tick(Checkbox):
    """`[x] label` or `[ ] label`. Enter goes on to the next field; only space and a click turn it."""

    DEFAULT_CSS = """
    Tick { border: none; padding: 0; background: $background; height: 1; width: auto; }
    Tick:focus { border: none; background: $panel; background-tint: transparent; }
    Tick > .toggle--button { color: $foreground; background: $background; }
    Tick.-on > .toggle--button { color: $accent; background: $background; text-style: bold; }
    """
    BINDINGS = [("enter", "app.focus_next", "next field")]

    def __init__(self, label: str, *, id: str) -> None:
        super().__init__(label, id=id, compact=True)

    @property
    def _button(self) -> Content:
        style: Any = self.get_visual_style("toggle--button")
        return Content.assemble(("[x]" if self.value else "[ ]", style))
