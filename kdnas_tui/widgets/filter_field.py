"""The field under a study in which the filter is written, or what the log is searched for.

It underlines the part of a filter that is wrong, offers how the last word may go on, and remembers what was written
before. It parses nothing; the screen gives it the fault, the completion and the past.
"""

from __future__ import annotations

from collections.abc import Callable

from rich.highlighter import Highlighter
from rich.text import Text
from textual import events
from textual.suggester import Suggester

from kdnas.study.filter import FilterError
from kdnas_tui.keys import PARTS
from kdnas_tui.widgets.field import Field

_KEYS = {key.keys: key.action.removeprefix("focused.") for key in PARTS["filter"][1]}
FILTER_EXAMPLE = "state:done latency<8 layers>=4   → completes, ↑ the filter before"
SEARCH_EXAMPLE = "words in the log"


class Underlined(Highlighter):
    """Underlines what is wrong in a filter while it is typed."""

    def __init__(self) -> None:
        self.fault: FilterError | None = None

    def highlight(self, text: Text) -> None:
        if self.fault is not None and text.plain.startswith(self.fault.text):
            text.stylize("underline bold", self.fault.start, self.fault.end)


class Completion(Suggester):
    """Asks the field's `complete` for the text with its last word written out."""

    def __init__(self) -> None:
        super().__init__(use_cache=False, case_sensitive=True)
        self.complete: Callable[[str], str | None] | None = None

    async def get_suggestion(self, value: str) -> str | None:
        return self.complete(value) if self.complete is not None else None


class FilterField(Field):
    """`searching` says that its words are for the log rather than a filter."""

    def __init__(self, *, id: str | None = None) -> None:
        self._underlined = Underlined()
        self._completion = Completion()
        super().__init__(id=id, placeholder=FILTER_EXAMPLE, highlighter=self._underlined, suggester=self._completion)
        self.searching = False
        self.past: tuple[str, ...] = ()  # what was written before, the latest last
        self._back = 0  # how far back in it
        self._written = ""  # before one went back

    @property
    def complete(self) -> Callable[[str], str | None] | None:
        return self._completion.complete

    @complete.setter
    def complete(self, complete: Callable[[str], str | None] | None) -> None:
        self._completion.complete = complete

    def begin(self, text: str, *, searching: bool) -> None:
        """Hold this text, without a message that it changed."""
        self.searching, self._back = searching, 0
        self.placeholder = SEARCH_EXAMPLE if searching else FILTER_EXAMPLE
        with self.prevent(self.Changed):
            self.value = text

    async def _on_key(self, event: events.Key) -> None:
        action = _KEYS.get(event.key)
        if action is None or (action == "complete_word" and self.complete is None):
            await super()._on_key(event)
            return
        event.stop()
        event.prevent_default()
        await self.run_action(action)  # at once, before the next key

    def action_complete_word(self) -> None:
        """Write out the last word, where it can go on."""
        if self.complete is not None:
            self.value = self.complete(self.value) or self.value
            self.cursor_position = len(self.value)

    def action_remember(self, by: int) -> None:
        """What was written `by` times before what is shown."""
        back = max(0, min(self._back + by, len(self.past)))
        if back == self._back:
            return
        if self._back == 0:
            self._written = self.value
        self._back = back
        self.value = self.past[-back] if back else self._written
        self.cursor_position = len(self.value)

    @property
    def fault(self) -> FilterError | None:
        return self._underlined.fault

    @fault.setter
    def fault(self, fault: FilterError | None) -> None:
        self._underlined.fault = fault
        self.refresh()
