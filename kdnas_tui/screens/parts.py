"""A screen of several parts: all at once where there is room, else the one whose tab is chosen."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar

from kdnas_tui.desk import Desk
from kdnas_tui.screens.frame import Frame
from kdnas_tui.widgets.tab_bar import TabBar


class PartsScreen(Frame):
    """A subclass names its `TABS`, (id of a widget, title) each, yields a `TabBar` with the id `tabs`, and says from
    which size on all has room."""

    TABS: ClassVar[tuple[tuple[str, str], ...]]
    WIDE: ClassVar[int]
    TALL: ClassVar[int]

    def __init__(self, desk: Desk, tab: str) -> None:
        super().__init__(desk)
        self.tab = tab  # the one that is shown where there is no room for all

    @abstractmethod
    def show_around(self, shown: Mapping[str, bool]) -> None:
        """Show what parts stand in where one of them is shown."""

    def on_resize(self) -> None:
        self.show_parts()

    @property
    def whole(self) -> bool:
        """Whether everything has room at once."""
        return self.app.size.width >= self.WIDE and self.app.size.height >= self.TALL

    def show_parts(self) -> None:
        """Show all, or the chosen tab only."""
        shown = {name: self.whole or name == self.tab for name, _ in self.TABS}
        for name, there in shown.items():
            self.query_one(f"#{name}").display = there
        self.show_around(shown)
        bar = self.query_one("#tabs", TabBar)
        bar.display = not self.whole
        bar.show(self.TABS, self.tab)
        if not self.whole:
            self.query_one(f"#{self.tab}").focus()

    def action_turn(self, by: int) -> None:
        names = [name for name, _ in self.TABS]
        self.tab = names[(names.index(self.tab) + by) % len(names)]
        if self.whole:
            self.query_one(f"#{self.tab}").focus()
        self.show_parts()

    def on_tab_bar_chosen(self, event: TabBar.Chosen) -> None:
        self.tab = event.tab
        self.show_parts()
