"""A widget drawn line by line that sends only the cells that changed to the terminal.

What it shows is `line(y)`. After a change call `redraw()`, which compares with the drawing before and repaints the
spans that differ. Scrolls nothing by itself.
"""

from __future__ import annotations

from collections.abc import Iterable

from rich.cells import cell_len, set_cell_size
from rich.segment import Segment
from rich.style import Style
from textual.color import Color
from textual.geometry import Region
from textual.strip import Strip
from textual.widget import Widget

from kdnas.system.text import clean as clean  # for all that draw lines


class Lines(Widget):
    """`line(y)` is the whole of the drawing; `looks` are its styles by component class, without the prefix."""

    PREFIX = ""  # of the component classes

    def __init__(self, *, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self._shown: dict[int, Strip] = {}
        self._looks: dict[tuple[str, Style], Style] = {}
        self._base: Style | None = None

    @property
    def base(self) -> Style:
        """The widget's own style, which Textual puts together from all ancestors each time it is asked for."""
        if self._base is None:
            self._base = self.rich_style
        return self._base

    def line(self, y: int, width: int) -> Strip:
        """The line at y of the content region, at most `width` cells long."""
        raise AssertionError("a subclass says what it shows")

    def look(self, name: str, base: Style | None = None) -> Style:
        """The style of a component class laid over the base (the widget's own by default); "" is the base."""
        base = self.base if base is None else base
        if not name:
            return base
        style = self._looks.get((name, base))
        if style is None:
            style = self._looks[name, base] = base + over(self, f"{self.PREFIX}--{name}", base)
        return style

    def redraw(self) -> None:
        """Repaint the spans of the visible lines that are no longer as they were drawn."""
        if not self.is_attached or not self.is_on_screen:
            return  # it is painted as a whole when it comes to the screen
        width, height = self.content_size
        spans = []
        for y in range(height):
            old = self._shown.get(y)
            if old is None:
                spans.append(Region(0, y, width, 1))
                continue
            new = self._fitted(y, width)
            span = None if new is old else differing(old, new)
            if span is not None:
                spans.append(Region(span[0], y, span[1] - span[0], 1))
        if spans:
            self.refresh(*spans)

    def repaint(self) -> None:
        """Forget what was drawn and paint all of it."""
        self._forget()
        self.refresh()

    def _forget(self) -> None:
        self._shown.clear()
        self._looks.clear()
        self._base = None

    def render_line(self, y: int) -> Strip:
        strip = self._fitted(y, self.content_size.width)
        self._shown[y] = strip
        return strip

    def _fitted(self, y: int, width: int) -> Strip:
        strip = self.line(y, width)
        return strip if strip.cell_length == width else strip.adjust_cell_length(width, self.base)

    def notify_style_update(self) -> None:
        self._forget()
        super().notify_style_update()


def over(widget: Widget, component: str, base: Style) -> Style:
    """A component's own style; a colour with an alpha is mixed with the base's background, which Textual leaves out."""
    style = widget.get_component_rich_style(component, partial=True)
    colour = widget.get_component_styles(component).color
    if style.color is not None and base.bgcolor is not None and 0 < colour.a < 1:
        return style + Style.from_color((Color.from_rich_color(base.bgcolor) + colour).rich_color)
    return style


def differing(old: Strip, new: Strip) -> tuple[int, int] | None:
    """First and one past the last cell in which two strips differ; None where they show the same."""
    if old is new:
        return None
    if old.cell_length != new.cell_length:
        return 0, max(old.cell_length, new.cell_length)
    before, after = _cells(old), _cells(new)
    if len(before) != len(after):  # where there is no room at all, a strip may say another length than it has
        return 0, max(len(before), len(after))
    unlike = [x for x, (a, b) in enumerate(zip(before, after, strict=True)) if a != b]
    return (unlike[0], unlike[-1] + 1) if unlike else None


def _cells(strip: Strip) -> list[tuple[str, Style | None]]:
    """What stands in each cell, as many as the strip is long. A letter without a width belongs to the cell before."""
    cells: list[tuple[str, Style | None]] = []
    for text, style, control in strip:
        if control:
            continue
        if text.isascii() and text.isprintable():
            cells.extend((letter, style) for letter in text)
            continue
        sizes = [cell_len(letter) for letter in text]
        pieces: list[tuple[str, int]] = list(zip(text, sizes, strict=True))
        if sum(sizes) != (whole := cell_len(text)):
            pieces = [(text, whole)]  # letters that form one sign together, like those of an emoji
        for piece, size in pieces:
            if size:
                cells.append((piece, style))
                cells.extend([("", style)] * (size - 1))  # a wide letter fills two cells
            elif cells:
                before, look = cells[-1]
                cells[-1] = (before + piece, look)
    return cells


def fitted(text: str, width: int, *, right: bool = False) -> str:
    """The text in exactly so many cells, cut with … where it is too long."""
    length = cell_len(text)
    if length > width:
        return set_cell_size(text, width - 1) + "…" if width > 1 else set_cell_size(text, max(width, 0))
    blank = " " * (width - length)
    return blank + text if right else text + blank


def wrapped(text: str, room: int) -> list[str]:
    """The text in pieces of at most `room` cells, broken at blanks where there are some."""
    if text.isascii() and len(text) <= room:
        return [text]
    pieces, line, length = [], "", 0
    for word in text.split(" "):
        size = cell_len(word)
        if line and length + 1 + size <= room:
            line, length = f"{line} {word}", length + 1 + size
            continue
        if line:
            pieces.append(line)
        while size > room:
            cut = 1
            while cut < len(word) and cell_len(word[: cut + 1]) <= room:
                cut += 1
            pieces.append(word[:cut])
            word = word[cut:]
            size = cell_len(word)
        line, length = word, size
    pieces.append(line)
    return pieces


def strip_of(pieces: Iterable[tuple[str, Style]]) -> Strip:
    """Pieces of text in their styles; neighbours of one style become one piece, which is shorter to send."""
    return Strip([Segment(text, style) for text, style in pieces if text]).simplify()
