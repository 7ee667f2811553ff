"""`?`: what the focused pane is, and every key of the screen, from the table of keys."""

from __future__ import annotations

from rich.text import Text
from textual.app import ComposeResult
from textual.screen import ModalScreen
from textual.widgets import Static

from kdnas_tui import keys
from kdnas_tui.screens.once import LaidOutOnce
from kdnas_tui.widgets.sheet import Sheet


class HelpScreen(LaidOutOnce, ModalScreen[None]):
    NAME = "help"
    BINDINGS = keys.help_bindings()

    def __init__(self, name: str, pane: str) -> None:
        super().__init__()
        self._of, self._pane = name, pane

    def compose(self) -> ComposeResult:
        with Sheet(classes="dialog", id="help"):
            yield Static(keys.SCREENS[self._of], classes="title")
            if self._pane:
                yield Static(Text(self._pane), classes="says")
            yield Static(self._table(), id="keys")
            yield Static(Text("esc to close"), classes="quiet")

    def _table(self) -> Text:
        text = Text()
        parts = [keys.PARTS[part] for part in keys.PARTS_OF.get(self._of, ())]
        everywhere = (keys.SCREENS["everywhere"], keys.table("everywhere"))
        for title, table in (("", keys.table(self._of)), *parts, everywhere):
            if title:
                text.append(f"\n{title}\n", style="dim")
            for key in table:
                text.append(f"{key.shown:>6}", style="bold")
                text.append(f"  {key.explains}\n")
        return text

    def action_help(self) -> None:
        self.dismiss()
