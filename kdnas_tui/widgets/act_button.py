"""The button of what a form does: a click acts, Enter only says which key acts, so that going on never commits."""

from __future__ import annotations

from textual.binding import Binding
from textual.widgets import Button

from kdnas_tui.keys import worded


class ActButton(Button, inherit_bindings=False):
    """Its label ends with the key that acts, `^s` unless somebody chose another."""

    BINDINGS = [Binding("enter", "say", show=False)]

    def __init__(self, label: str, act: str, *, id: str) -> None:
        """`act`: the key's name in the table, as in `export.write`."""
        self._does, self._key = label, worded(f"<{act}>")
        super().__init__(f"{label} {self._key}", id=id, variant="primary", compact=True)

    def busy(self, says: str) -> None:
        """Say that it is at it."""
        self.label = says

    def ready(self) -> None:
        self.label = f"{self._does} {self._key}"

    def action_say(self) -> None:
        self.notify(f"Press {self._key} to {self._does.lower()}.", timeout=3, markup=False)
