"""Small questions over a screen: choose one of a few answers, or write a line that is checked while it is typed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.text import Text
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from kdnas.system.errors import KdnasError
from kdnas_tui import keys
from kdnas_tui.screens.help import HelpScreen
from kdnas_tui.screens.once import LaidOutOnce
from kdnas_tui.widgets.field import Field


class Dialog(LaidOutOnce, ModalScreen[str | None]):
    """A question over a screen; None is the answer of who went back."""

    NAME = "dialog"
    BINDINGS = keys.dialog_bindings()

    def __init__(self, question: str) -> None:
        super().__init__()
        self._question = question

    def action_help(self) -> None:
        self.app.push_screen(HelpScreen(self.NAME, self._question))

    def action_back(self) -> None:
        self.dismiss(None)


@dataclass(frozen=True)
class Answer:
    value: str
    label: str
    explains: str = ""


class Ask(Dialog):
    """One of a few answers."""

    def __init__(self, question: str, answers: Sequence[Answer], detail: str = "") -> None:
        super().__init__(question)
        self._answers, self._detail = answers, detail

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield Static(Text(self._question), classes="title")
            if self._detail:
                yield Static(Text(self._detail), classes="says")
            yield OptionList(*(Option(self._prompt(answer), answer.value) for answer in self._answers))
            yield Static(Text("enter to choose · esc to go back"), classes="quiet")

    def _prompt(self, answer: Answer) -> Text:
        text = Text(answer.label)
        if answer.explains:
            text.append(f"\n  {answer.explains}", style="dim")
        return text

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        self.dismiss(event.option.id)


class Write(Dialog):
    """One line of text. `check` raises KdnasError for what cannot be taken, and says the hint under the field."""

    def __init__(
        self,
        question: str,
        value: str = "",
        *,
        detail: str = "",
        check: Callable[[str], object] | None = None,
        placeholder: str = "",
    ) -> None:
        super().__init__(question)
        self._value, self._detail, self._check, self._placeholder = value, detail, check, placeholder

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield Static(Text(self._question), classes="title")
            if self._detail:
                yield Static(Text(self._detail), classes="says")
            yield Field(self._value, placeholder=self._placeholder)
            yield Static("", id="hint", classes="hint")
            yield Static(Text("enter to keep · esc to go back"), classes="quiet")

    def _fault(self, value: str) -> str:
        if self._check is None:
            return ""
        try:
            self._check(value)
        except KdnasError as error:
            return str(error)
        return ""

    def on_input_changed(self, event: Input.Changed) -> None:
        self.query_one("#hint", Static).update(Text(self._fault(event.value)))

    def on_input_submitted(self, event: Input.Submitted) -> None:
        fault = self._fault(event.value)
        self.query_one("#hint", Static).update(Text(fault))
        if not fault:
            self.dismiss(event.value)
