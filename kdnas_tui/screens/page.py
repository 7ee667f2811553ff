"""A page of facts in titled pairs, beside a study that goes on."""

from __future__ import annotations

import textwrap
from abc import abstractmethod
from itertools import zip_longest

from rich.text import Text
from textual.app import ComposeResult
from textual.widgets import Static

from kdnas_tui.desk import Desk
from kdnas_tui.feed import News
from kdnas_tui.screens.frame import Frame
from kdnas_tui.watched import Watched
from kdnas_tui.widgets.key_bar import KeyBar
from kdnas_tui.widgets.sheet import Sheet

Pairs = list[tuple[str, str]]
Contents = tuple[Text, list[tuple[str, Pairs]]]
"""The page's head, and its blocks: a title with its pairs each."""


class Page(Frame):
    """Drawn again whenever the study has news. A subclass gives the `contents`."""

    def __init__(self, watched: Watched, desk: Desk) -> None:
        super().__init__(desk)
        self.watched = watched

    @abstractmethod
    def contents(self) -> Contents | None:
        """What stands on the page; None leaves it as it is."""

    def compose(self) -> ComposeResult:
        yield Static(id="head", classes="head")
        with Sheet(id="page"):
            yield Static(id="facts")
        yield KeyBar(self.NAME)

    def on_mount(self) -> None:
        self.draw()
        self.query_one("#page").focus()

    def on_resize(self) -> None:
        self.draw()

    def hear(self, news: News) -> None:
        self.draw()

    def draw(self) -> None:
        contents = self.contents() if self.is_mounted else None
        if contents is not None:
            self.query_one("#head", Static).update(contents[0])
            self.query_one("#facts", Static).update(columns(contents[1], self.app.size.width - 6))


def columns(parts: list[tuple[str, Pairs]], width: int) -> Text:
    """Titled pairs one under another, in two columns where there is room."""
    blocks = [_block(title, pairs, (width - 4) // 2 if width >= 100 else width) for title, pairs in parts if pairs]
    text = Text()
    if width < 100:
        for block in blocks:
            text.append_text(_lines(block))
            text.append("\n")
        return text
    left: list[Text] = []
    right: list[Text] = []
    for block in blocks:
        shorter = left if len(left) <= len(right) else right
        shorter += [*block, Text("")]
    half = (width - 4) // 2
    for i in range(max(len(left), len(right))):
        one = left[i].copy() if i < len(left) else Text("")
        one.truncate(half, pad=True)
        text.append_text(one)
        text.append("    ")
        if i < len(right):
            text.append_text(right[i])
        text.append("\n")
    return text


def _block(title: str, pairs: Pairs, width: int) -> list[Text]:
    label = min(max(26, width // 2), max((len(name) for name, _ in pairs), default=0) + 2)
    lines = [Text(title, style="bold")]
    for name, value in pairs:
        names, values = textwrap.wrap(name, label - 1), textwrap.wrap(value, max(8, width - label - 2)) or ["–"]
        for called, shown in zip_longest(names, values, fillvalue=""):
            line = Text("  ")
            line.append(called.ljust(label), style="dim")
            line.append(shown)
            lines.append(line)
    return lines


def _lines(block: list[Text]) -> Text:
    return Text("\n").join(block).append("\n")
