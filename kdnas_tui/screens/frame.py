"""What every screen shares: its keys from the table, news from the feed, help, and the way back.

A screen knows the desk, which the app fulfils, and never the app itself.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, ClassVar, TypeVar, cast

from textual.screen import Screen
from textual.widget import Widget
from textual.widgets import Input

from kdnas_tui import keys
from kdnas_tui.desk import Desk
from kdnas_tui.feed import News
from kdnas_tui.screens.once import LaidOutOnce

BREATH_S = 0.001  # between two parts of slow work, in which keys are heard


class Frame(LaidOutOnce, Screen[Any]):
    """A screen of kdnas. `NAME` is its place in the table of keys, `PANES` explains its parts for `?`."""

    NAME: ClassVar[str]
    PANES: ClassVar[dict[str, str]] = {}  # id of a widget → what it is, in a sentence or two

    def __init__(self, desk: Desk) -> None:
        super().__init__()
        self.desk = desk

    def hear(self, news: News) -> None:
        """Something in the store is new; every screen on the stack hears of it."""

    def pane(self) -> str:
        """What is said of the focused part of the screen."""
        at: Widget | None = self.focused
        while at is not None and at is not self:
            if at.id in self.PANES:
                return keys.worded(self.PANES[at.id])
            at = cast("Widget | None", at.parent)
        return keys.worded(self.PANES.get("", ""))

    def action_help(self) -> None:
        from kdnas_tui.screens.help import HelpScreen

        self.app.push_screen(HelpScreen(self.NAME, self.pane()))

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        # A slash in a field is a letter.
        return not (action == "filter" and isinstance(self.focused, Input))

    def action_back(self) -> None:
        self.desk.forget_faults()  # they belong to what is left
        self.dismiss()


Action = TypeVar("Action", bound=Callable[..., Any])


def writes(action: Action) -> Action:
    """For the action of a key that changes the store or starts something: it only says why where that is refused."""

    @wraps(action)
    def guarded(screen: Frame, *given: object) -> Any:
        if not screen.desk.readonly:
            return action(screen, *given)
        screen.notify(screen.desk.readonly, timeout=4, markup=False)
        return None

    return cast("Action", guarded)


def bindings(name: str) -> list[Any]:
    return list(keys.bindings(name))
