"""The field under a study in which the filter is written, or what the log is searched for.

It underlines the part of a filter that is wrong. It parses nothing; the screen gives it the fault.
"""

from __future__ import annotations

from rich.highlighter import Highlighter
from rich.text import Text

from kdnas.study.filter import FilterError
from kdnas_tui.widgets.field import Field

FILTER_EXAMPLE = "state:done latency<8 layers>=4"
SEARCH_EXAMPLE = "words in the log"


class Underlined(Highlighter):
    """Underlines what is wrong in a filter while it is typed."""

    def __init__(self) -> None:
        self.fault: FilterError | None = None

    def highlight(self, text: Text) -> None:
        if self.fault is not None and self.fault.text == text.plain:
            text.stylize("underline bold", self.fault.start, self.fault.end)


class FilterField(Field):
    """`searching` says that its words are for the log rather than a filter."""

    def __init__(self, *, id: str | None = None) -> None:
        self._underlined = Underlined()
        super().__init__(id=id, placeholder=FILTER_EXAMPLE, highlighter=self._underlined)
        self.searching = False

    def begin(self, text: str, *, searching: bool) -> None:
        """Hold this text, without a message that it changed."""
        self.searching = searching
        self.placeholder = SEARCH_EXAMPLE if searching else FILTER_EXAMPLE
        with self.prevent(self.Changed):
            self.value = text

    @property
    def fault(self) -> FilterError | None:
        return self._underlined.fault

    @fault.setter
    def fault(self, fault: FilterError | None) -> None:
        self._underlined.fault = fault
        self.refresh()
