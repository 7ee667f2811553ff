"""A field of one line that takes every key in the order in which it was typed, also on a machine that is busy.

Textual looks for the action of a key like Backspace only after the key has travelled up the screen, and then takes
whatever field has the focus by that time. Here the field acts on its editing keys itself, at once.
"""

from __future__ import annotations

from textual import events
from textual.widgets import Input

_EDITING = {
    "backspace": "delete_left",
    "delete": "delete_right",
    "left": "cursor_left",
    "right": "cursor_right",
    "home": "home",
    "end": "end",
    "ctrl+u": "delete_left_all",
    "ctrl+w": "delete_left_word",
}


class Field(Input):
    """One line high, and its cursor does not blink: a blink is traffic."""

    def __init__(self, value: str = "", *, id: str | None = None, **given: object) -> None:
        super().__init__(value, id=id, compact=True, **given)  # type: ignore[arg-type]
        self.cursor_blink = False

    async def _on_key(self, event: events.Key) -> None:
        action = _EDITING.get(event.key)
        if action is None:
            await super()._on_key(event)
            return
        event.stop()
        event.prevent_default()
        getattr(self, f"action_{action}")()
