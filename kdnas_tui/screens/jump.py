"""Where to: a trial by its number, or a pane by its letter."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.text import Text
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.widgets import Input, Static

from kdnas.system.errors import UsageError
from kdnas_tui.screens.ask import Dialog
from kdnas_tui.widgets.field import Field


def letters(tabs: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Letter → name of a pane: of each title the first letter that none before it has."""
    found: dict[str, str] = {}
    for name, title in tabs:
        letter = next((letter for letter in title.casefold() if letter not in found), "")
        if letter:
            found[letter] = name
    return found


def lettered(title: str, letter: str) -> str:
    """`P(a)rallel`"""
    at = title.casefold().index(letter)
    return f"{title[:at]}({title[at]}){title[at + 1 :]}"


class Jump(Dialog):
    """The answer is a trial's number or a pane's name. A pane's letter needs no Enter.

    `check` raises UsageError for a trial that cannot be gone to.
    """

    def __init__(self, tabs: Sequence[tuple[str, str]], shown: Sequence[str], check: Callable[[int], None]) -> None:
        """`tabs`: name and title of every pane there may be; `shown`: the names of those that this study has."""
        super().__init__("Go to a trial by its number, or to a pane by its letter.")
        self._panes = {letter: name for letter, name in letters(tabs).items() if name in shown}
        self._titles = dict(tabs)
        self._check = check

    def compose(self) -> ComposeResult:
        says = "  ".join(lettered(self._titles[name], letter) for letter, name in self._panes.items())
        with Vertical(classes="dialog"):
            yield Static(Text("Go to"), classes="title")
            yield Static(Text(says), classes="says")
            yield Field(placeholder="a trial's number, or a letter")
            yield Static("", id="hint", classes="hint")
            yield Static(Text("enter to go to the trial · esc to go back"), classes="quiet")

    def _fault(self, value: str) -> str:
        text = value.strip().removeprefix("#")
        try:
            if not (text.isascii() and text.isdigit()):
                raise UsageError(f"{value.strip()!r} is no trial's number.", "Give digits, or one of the letters.")
            self._check(int(text))
        except UsageError as error:
            return str(error)
        return ""

    def on_input_changed(self, event: Input.Changed) -> None:
        pane = self._panes.get(event.value.strip().casefold())
        if pane is not None:
            self.dismiss(pane)
            return
        text = event.value.strip().removeprefix("#")
        self.query_one("#hint", Static).update(Text("" if text.isdigit() or not text else self._fault(event.value)))

    def on_input_submitted(self, event: Input.Submitted) -> None:
        fault = self._fault(event.value)
        self.query_one("#hint", Static).update(Text(fault))
        if not fault:
            self.dismiss(event.value.strip().removeprefix("#"))
