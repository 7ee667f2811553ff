"""Which columns the table of trials shows: every one with what it means, turned on and off where one sees it change."""

from __future__ import annotations

from collections.abc import Callable

from rich.text import Text
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from kdnas_tui.screens.ask import Dialog
from kdnas_tui.widgets.trial_cells import Column, columns_of
from kdnas_tui.widgets.trials_table import TrialsTable

ALWAYS = frozenset({"number", "reward"})  # a table without them says nothing


class ChooseColumns(Dialog):
    """Works on the table at once; `changed` is called after each change."""

    def __init__(self, table: TrialsTable, changed: Callable[[], None]) -> None:
        super().__init__("The columns of the table")
        self._table, self._changed = table, changed
        self._columns = [column for column in columns_of(table.board) if column.key not in ALWAYS]

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield Static(Text(self._question), classes="title")
            yield OptionList(*(Option(self._says(column), column.key) for column in self._columns), compact=True)
            yield Static(Text("enter or space to show or hide · esc when done"), classes="quiet")

    def _shown(self, column: Column) -> bool:
        pages = self._table.pages
        return column.key not in pages.hidden if column.usual else column.key in pages.added

    def _says(self, column: Column) -> Text:
        text = Text.assemble("[x] " if self._shown(column) else "[ ] ", (f"{column.title:<10} ", "bold"))
        return text.append(column.about, style="dim")

    def on_key(self, event: object) -> None:
        if getattr(event, "key", "") == "space":
            self.query_one(OptionList).action_select()

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        column = self._columns[event.option_index]
        pages = self._table.pages
        one = frozenset({column.key})
        if column.usual:
            self._table.choose(pages.hidden ^ one, pages.added)
        else:
            self._table.choose(pages.hidden, pages.added ^ one)
        self.query_one(OptionList).replace_option_prompt(column.key, self._says(column))
        self._changed()
