"""The filter of a study, and the search in its log: one field for both, with completion and a history.

What is typed filters as far as it is finished; Enter uses all of it. Draws nothing but the field and its fault.
"""

from __future__ import annotations

from abc import abstractmethod

from rich.text import Text
from textual.widgets import Input

from kdnas.study.filter import FilterError
from kdnas_tui import settings
from kdnas_tui.desk import Desk
from kdnas_tui.screens.steering import Steering
from kdnas_tui.watched import Watched
from kdnas_tui.widgets.filter_field import FilterField
from kdnas_tui.widgets.log_tail import LogTail
from kdnas_tui.widgets.says import Says

REMEMBERED = 50  # filters


class Filtering(Steering):
    """A screen with a `FilterField`, a `#filter-hint` and a `LogTail`."""

    def __init__(self, watched: Watched, desk: Desk) -> None:
        super().__init__(watched, desk)
        self._came_from = ""  # the pane that had the focus before the field

    @abstractmethod
    def draw(self) -> None:
        """Show what the filter lets through."""

    @abstractmethod
    def focus_pane(self, name: str) -> None:
        """Give the focus to a pane of this name, if it is on the screen, else to the one that is."""

    def filter_is_empty(self) -> bool:
        """Whether there is nothing that `back` would clear first."""
        at_log = isinstance(self.focused, LogTail) and bool(self.query_one(LogTail).searched)
        return not (self.query_one(FilterField).display or at_log) and self.watched.filter.empty

    def action_filter(self) -> None:
        """Filter the trials, or search the log where that is the focused pane."""
        field = self.query_one(FilterField)
        searching = isinstance(self.focused, LogTail)
        self._came_from = (self.focused.id if self.focused is not None else None) or ""
        text = self.query_one(LogTail).searched if searching else self.watched.filter.text
        field.complete = None if searching else self.watched.completed
        field.past = () if searching else settings.read().filters
        field.begin(text, searching=searching)
        self._show_field(True)
        self.set_focus(field)  # at once: what is typed next is for it

    def _show_field(self, shown: bool) -> None:
        """The field, and under it a line for what is wrong: it stays while one types, so that nothing jumps."""
        field = self.query_one(FilterField)
        field.display = shown
        hint = self.query_one("#filter-hint", Says)
        hint.show(Text())
        hint.display = shown and not field.searching

    def on_input_changed(self, event: Input.Changed) -> None:
        if isinstance(event.input, FilterField):
            if event.input.searching:
                self.query_one(LogTail).search(event.value)
            else:
                self._use_filter(event.input, event.value, typing=True)

    def _use_filter(self, field: FilterField, text: str, *, typing: bool) -> None:
        """Filter by the text; where it cannot be read, say why and keep the last good one."""
        hint = self.query_one("#filter-hint", Says)
        try:
            changed = self.watched.use_filter(text, typing=typing)
        except FilterError as error:
            field.fault = error if text.startswith(error.text) else None
            hint.show(Text(str(error)))
            return
        field.fault = None
        hint.show(Text())
        if changed:
            self.draw()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        field = event.input
        if not isinstance(field, FilterField):
            return
        if not field.searching:
            self._use_filter(field, event.value, typing=False)
        if field.fault is None:
            text = event.value.strip()
            if text and not field.searching:
                before = [one for one in settings.read().filters if one != text]
                settings.keep(filters=(*before, text)[-REMEMBERED:])
            self._close_field(field)

    def _close_field(self, field: FilterField) -> None:
        """Hide the field, and go back to the pane that it was opened from."""
        self._show_field(False)
        name = "log" if field.searching else self._came_from
        field.searching = False
        self.focus_pane(name)

    def action_back(self) -> None:
        field = self.query_one(FilterField)
        log = self.query_one(LogTail)
        if field.searching or (isinstance(self.focused, LogTail) and log.searched):
            field.searching = True
            log.search("")
            self._close_field(field)
        elif field.display or not self.watched.filter.empty:
            field.begin("", searching=False)
            field.fault = None
            self._use_filter(field, "", typing=False)
            self._close_field(field)
        else:
            super().action_back()
