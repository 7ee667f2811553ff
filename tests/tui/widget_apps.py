"""A bare app around one widget, with what it would send to the terminal and the messages that it posted."""

from __future__ import annotations

import time
from typing import Any, TypeVar

from textual._compositor import CompositorUpdate
from textual.app import App, ComposeResult
from textual.message import Message
from textual.pilot import Pilot
from textual.widget import Widget

from kdnas_tui.theme import DARK

M = TypeVar("M", bound=Message)


class WidgetApp(App[None]):
    """One widget filling the screen. Run it with `run_test(message_hook=app.hear)` to hear its messages."""

    ANIMATION_LEVEL = "none"

    def __init__(self, *widgets: Widget) -> None:
        super().__init__()
        self.widgets = widgets
        self.messages: list[Message] = []
        self.sent: list[str] = []

    def compose(self) -> ComposeResult:
        yield from self.widgets

    def on_mount(self) -> None:
        self.register_theme(DARK)
        self.theme = DARK.name
        if self.widgets[0].focusable:
            self.widgets[0].focus()

    def hear(self, message: Message) -> None:
        if not any(message is known for known in self.messages):
            self.messages.append(message)

    def heard(self, kind: type[M]) -> list[M]:
        return [message for message in self.messages if type(message) is kind]

    def _display(self, screen: Any, renderable: Any) -> None:
        if isinstance(renderable, CompositorUpdate):
            self.sent.append(renderable.render_segments(self.console))
        super()._display(screen, renderable)

    def take_sent(self) -> str:
        """What the terminal would have got since the last call."""
        text = "".join(self.sent)
        self.sent.clear()
        return text

    def text(self) -> list[str]:
        """The screen as lines of text."""
        strips = self.screen._compositor.render_strips()
        return ["".join(segment.text for segment in strip).rstrip() for strip in strips]


PATIENCE_S = 60.0


async def at_rest(pilot: Pilot[Any]) -> None:
    """Until no plot waits to be drawn: they are drawn a moment after what asks for it."""
    await pilot.pause()
    end = time.monotonic() + PATIENCE_S
    while any(getattr(w, "_waiting", False) or getattr(w, "_coming", False) for w in pilot.app.screen.query("*")):
        assert time.monotonic() < end, "it is never drawn"
        await pilot.pause(0.01)
    await pilot.pause()
