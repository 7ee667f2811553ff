"""What every screen shares: its keys from the table, news from the feed, help, and the way back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, cast

from textual._compositor import Compositor
from textual.geometry import Size
from textual.screen import Screen
from textual.widget import Widget
from textual.widgets import Input

from kdnas.study.rows import Status
from kdnas_tui import keys
from kdnas_tui.feed import News

if TYPE_CHECKING:
    from kdnas_tui.app import KdnasApp

MARKS: dict[Status, tuple[str, str]] = {  # status → (sign, look): the word stands beside it always
    Status.NEW: ("○", "quiet"),
    Status.RUNNING: ("●", "good"),
    Status.PAUSING: ("◐", "warn"),
    Status.PAUSED: ("◐", "warn"),
    Status.STOPPING: ("◐", "warn"),
    Status.STOPPED: ("○", "quiet"),
    Status.FINISHED: ("✓", "good"),
    Status.FAILED: ("✕", "bad"),
    Status.DEAD: ("✕", "bad"),
}
BREATH_S = 0.001  # between two parts of slow work, in which keys are heard
LOOKS = {"good": "success", "warn": "warning", "bad": "error", "quiet": "foreground"}


class LaidOutOnce:
    """For screens: Textual lays out a new one with its parts, and again when it is then told its size, the same."""

    _compositor: Compositor

    def _screen_resized(self, size: Size) -> None:
        if size != self._compositor.size:
            super()._screen_resized(size)  # type: ignore[misc]  # the screen's


class Frame(LaidOutOnce, Screen[Any]):
    """A screen of kdnas. `NAME` is its place in the table of keys, `PANES` explains its parts for `?`."""

    NAME: ClassVar[str]
    PANES: ClassVar[dict[str, str]] = {}  # id of a widget → what it is, in a sentence or two

    @property
    def kdnas(self) -> KdnasApp:
        return cast("KdnasApp", self.app)

    def tell(self, news: News) -> None:
        """Something in the store is new; every screen on the stack hears of it."""

    def pane(self) -> str:
        """What is said of the focused part of the screen."""
        at: Widget | None = self.focused
        while at is not None and at is not self:
            if at.id in self.PANES:
                return self.PANES[at.id]
            at = cast("Widget | None", at.parent)
        return self.PANES.get("", "")

    def action_help(self) -> None:
        from kdnas_tui.screens.help import HelpScreen

        self.app.push_screen(HelpScreen(self.NAME, self.pane()))

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        # A slash in a field is a letter.
        return not (action == "filter" and isinstance(self.focused, Input))

    def action_back(self) -> None:
        self.dismiss()


def bindings(name: str) -> list[Any]:
    return list(keys.bindings(name))
