"""`?`: what the focused pane is, and every key of the screen, from the table of keys."""

from __future__ import annotations

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Static

from kdnas_tui import keys
from kdnas_tui.screens.once import LaidOutOnce


class HelpScreen(LaidOutOnce, ModalScreen[None]):
    BINDINGS = [
        Binding("escape,question_mark,f1,q,enter", "dismiss", show=False),
        Binding("down,j", "scroll(1)", show=False),
        Binding("up,k", "scroll(-1)", show=False),
    ]

    def __init__(self, name: str, pane: str) -> None:
        super().__init__()
        self._of, self._pane = name, pane

    def compose(self) -> ComposeResult:
        with VerticalScroll(classes="dialog", id="help"):
            yield Static(keys.SCREENS[self._of], classes="title")
            if self._pane:
                yield Static(Text(self._pane), classes="says")
            yield Static(self._table(), id="keys")
            yield Static(Text("esc to close"), classes="quiet")

    def _table(self) -> Text:
        text = Text()
        for part in (self._of, "everywhere"):
            if part == "everywhere":
                text.append("\n")
            for key in keys.table(part):
                text.append(f"{key.shown:>6}", style="bold")
                text.append(f"  {key.explains}\n")
        return text

    def action_help(self) -> None:
        self.dismiss()

    def action_scroll(self, by: int) -> None:
        self.query_one("#help").scroll_relative(y=by, animate=False)
