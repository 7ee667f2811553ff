"""Loss, latency or reward against each dimension of the space: small plots beside each other, one scale for all.

A dimension's values stand in even steps, words and numbers alike; within a value the trials lie side by side, so that
many can be told from few. Filter, cursor and marks are those of the table.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kdnas.study.trial_columns import Board
from kdnas_tui.widgets.axis_scale import Choices, Scale
from kdnas_tui.widgets.lines import clean, fitted
from kdnas_tui.widgets.picture import Picture, paged, title, title_end
from kdnas_tui.widgets.readout import readout
from kdnas_tui.widgets.sketch import DOTS, Sketch

MEASURES = ("loss", "latency", "reward")
CELL = (20, 7)  # the least that one plot takes, with its name and its values
MOST = 20_000  # points drawn; the front and the marks are always among them
FEW = 3  # trials of a value from which their median is drawn
_GOLDEN = 0.6180339887498949  # neighbouring numbers lie far from each other when counted in steps of it


@dataclass(frozen=True)
class Grid:
    """So many plots across and down, each of so many cells, to the right of the labels of their common scale."""

    across: int
    down: int
    width: int
    height: int
    left: int

    @staticmethod
    def of(count: int, width: int, height: int, left: int) -> Grid:
        """For `count` plots on so many cells; the rest has its place on further pages."""
        across = max(1, min(count, (width - left) // CELL[0]))
        down = max(1, min(-(-count // across), height // CELL[1]))
        return Grid(across, down, (width - left) // across, height // down, left)

    @property
    def room(self) -> int:
        return self.across * self.down

    def corner(self, place: int) -> tuple[int, int]:
        """The upper left cell of a plot of the page."""
        return self.left + place % self.across * self.width, place // self.across * self.height


def beside(numbers: np.ndarray) -> np.ndarray:
    """Where trials lie within the band of their value, from −0.5 to 0.5, by number; float [n]."""
    return numbers * _GOLDEN % 1.0 - 0.5


def dimensions(board: Board) -> dict[str, Choices]:
    """The dimensions that differ between trials, or all where none does, with the values that trials have had."""
    every = {key: Choices.of(column, len(board)) for key, column in board.dimensions().items()}
    return {key: choices for key, choices in every.items() if len(choices.labels) > 1} or every


def scale_of(values: np.ndarray, measure: str) -> Scale:
    """An axis that the few worst do not stretch; they lie at its edge."""
    if not len(values):
        return Scale(0.0, 1.0)
    low, high = (2, 100) if measure == "reward" else (0, 99)
    return Scale.of(np.percentile(values, (low, high)))


class Slices(Picture):
    """`m` shows another quantity; ← and → turn to the dimensions that have no room."""

    def __init__(self, *, period: float = 1.0, id: str | None = None) -> None:
        super().__init__(period=period, id=id)
        self.measure = MEASURES[0]
        self._pages = 1
        self._title = ""
        self._frames: list[Frame] = []
        self._heights = np.zeros(0)  # from 0 to 1 by place on the board
        self._drawn = np.zeros(0, dtype=bool)

    @property
    def pages(self) -> int:
        return self._pages

    def another_measure(self) -> None:
        """Loss, latency and reward in turn."""
        self.measure = MEASURES[(MEASURES.index(self.measure) + 1) % len(MEASURES)]
        self.changed(at_once=True)

    def put(self, sketch: Sketch, board: Board, passing: np.ndarray) -> bool:
        values = board.column(self.measure)
        shown = passing & (board.standing.rank > 0) & np.isfinite(values)
        if not shown.any():
            return self.say_none(sketch)
        scale = scale_of(values[shown], self.measure)
        heights = scale.at(values)
        plots = list(dimensions(board).items())
        ends = [_figure(scale.high), _figure(scale.low)]
        grid = Grid.of(len(plots), sketch.width, sketch.height - 1, max(map(len, ends)) + 1)
        self._pages = -(-len(plots) // grid.room) if plots else 1
        self.page = min(self.page, self._pages - 1)
        kept = np.flatnonzero(shown)
        if len(kept) > MOST:
            kept = kept[np.linspace(0, len(kept) - 1, MOST).astype(np.int64)]
        self._frames, self._heights, self._drawn = [], heights, shown
        for place, (key, choices) in enumerate(plots[self.page * grid.room : (self.page + 1) * grid.room]):
            x, y = grid.corner(place)
            frame = Frame(x, y + 1, grid.width - 1, grid.height, choices)
            frame.axis(sketch, key, ends if place % grid.across == 0 else None)
            self._points(sketch, frame, board, heights, kept, shown)
            self._frames.append(frame)
        unit = " ms" if self.measure == "latency" else ""
        self._title = paged(
            f"{self.measure}{unit}{', log' if scale.log else ''} ↑ by dimension", self.page, self._pages
        )
        title(sketch, self._title)
        return True

    def put_cursor(self, sketch: Sketch, board: Board) -> None:
        place = self.place_of(self.cursor)
        if place is not None and place < len(self._drawn) and self._drawn[place]:
            for frame in self._frames:
                frame.put(sketch, np.array([place]), board.numbers, self._heights, "✛", "cursor")
        title_end(sketch, self._title, readout(board, self.cursor))

    def _points(
        self, sketch: Sketch, frame: Frame, board: Board, heights: np.ndarray, kept: np.ndarray, shown: np.ndarray
    ) -> None:
        numbers, standing = board.numbers, board.standing
        sketch.dots(*frame.dots(kept, numbers, heights), "quiet")
        for value in range(len(frame.choices.labels)):
            here = heights[shown & (frame.choices.index == value)]
            if len(here) >= FEW:
                frame.bar(sketch, value, float(np.median(here)))
        for chosen, sign, look in (
            (shown & standing.front, "●", "line"),
            (shown & (standing.rank == 1) & ~(standing.miss > 0), "★", "strong"),
            (shown & board.marked(), "◆", "mark"),
        ):
            frame.put(sketch, np.flatnonzero(chosen), numbers, heights, sign, look)


@dataclass(frozen=True)
class Frame:
    """One of the plots: its upper left cell and its size, with the line of its name and that of its values."""

    x: int
    y: int
    width: int
    height: int
    choices: Choices

    @property
    def rows(self) -> int:
        """Lines of the plot itself."""
        return max(1, self.height - 2)

    def axis(self, sketch: Sketch, name: str, ends: list[str] | None) -> None:
        """The name above, the values below, and to the left the ends of the common scale."""
        sketch.write(self.x, self.y, fitted(clean(name), self.width).rstrip(), "")
        for row in range(self.rows):
            sketch.write(self.x, self.y + 1 + row, "│", "faint")
        for end, row in zip(ends or (), (0, self.rows - 1), strict=False):
            sketch.write(self.x - len(end), self.y + 1 + row, end, "quiet")
        below = self.y + 1 + self.rows
        taken = self.x
        count = len(self.choices.labels)
        band = (self.width - 1) / count
        for value, label in enumerate(self.choices.labels):
            label = clean(label)
            start = max(self.x + 1, round(self.x + 1 + (value + 0.5) * band - len(label) / 2))
            start = min(start, self.x + self.width - len(label))
            if start > taken or (value == 0 and start >= taken):
                sketch.write(start, below, label, "quiet")
                taken = start + len(label)
            elif count <= band:  # room for some letters of each
                sketch.write(taken + 1, below, fitted(label, max(1, int(band) - 1)), "quiet")
                taken += int(band)

    def dots(self, places: np.ndarray, numbers: np.ndarray, heights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where the trials at places [n] of the board lie, in dots of the sketch; int [n], [n]."""
        places = places[self.choices.index[places] >= 0]
        across, down = (self.width - 1) * DOTS[0], self.rows * DOTS[1]
        band = across / max(1, len(self.choices.labels))
        inside = (self.choices.index[places] + 0.5 + 0.7 * beside(numbers[places])) * band
        x = (self.x + 1) * DOTS[0] + np.clip(np.floor(inside), 0, across - 1)
        y = (self.y + 1) * DOTS[1] + np.floor((1.0 - heights[places]) * (down - 1) + 0.5)
        return x.astype(np.int64), y.astype(np.int64)

    def put(
        self, sketch: Sketch, places: np.ndarray, numbers: np.ndarray, heights: np.ndarray, sign: str, look: str
    ) -> None:
        """A sign on each of these trials."""
        x, y = self.dots(places, numbers, heights)
        sketch.signs(x // DOTS[0], y // DOTS[1], sign, look)

    def bar(self, sketch: Sketch, value: int, height: float) -> None:
        """A stroke across the band of a value."""
        band = (self.width - 1) / len(self.choices.labels)
        left, right = round(self.x + 1 + value * band), round(self.x + 1 + (value + 1) * band)
        row = self.y + 1 + int((1.0 - height) * (self.rows * DOTS[1] - 1) + 0.5) // DOTS[1]
        columns = np.arange(left, max(left + 1, right - (1 if band >= 3 else 0)))
        sketch.signs(columns, np.full(len(columns), row), "─", "good")


def _figure(value: float) -> str:
    return f"{value:.3g}"
