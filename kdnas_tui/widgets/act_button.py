"""The button of what a form does: a click acts, Enter only says which key acts, so that going on never commits."""

from __future__ import annotations

from textual.binding import Binding
from textual.widgets import Button


class ActButton(Button, inherit_bindings=False):
    """Its label ends with the key, `^s`."""

    BINDINGS = [Binding("enter", "say", show=False)]

    def __init__(self, label: str, *, id: str) -> None:
        super().__init__(f"{label} ^s", id=id, variant="primary", compact=True)
        self._does = label

    def busy(self, says: str) -> None:
        """Say that it is at it."""
        self.label = says

    def ready(self) -> None:
        self.label = f"{self._does} ^s"

    def action_say(self) -> None:
        self.notify(f"Press ^s to {self._does.lower()}.", timeout=3, markup=False)
