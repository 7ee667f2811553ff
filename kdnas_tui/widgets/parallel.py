"""Parallel coordinates: an axis for each dimension and for loss, latency and reward, and each trial a line across them.

The best tenth is drawn unbroken, the others up to the median dashed, the rest dotted, so that no colour is needed.
Filter, cursor and marks are those of the table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kdnas.study.trial_columns import Board
from kdnas_tui import words
from kdnas_tui.widgets.lines import clean, fitted
from kdnas_tui.widgets.picture import Picture, paged, title, title_end
from kdnas_tui.widgets.readout import readout
from kdnas_tui.widgets.sketch import DOTS, Sketch
from kdnas_tui.widgets.slices import beside, dimensions, scale_of

RESULTS = ("loss", "latency", "reward")
APART = 11  # cells from axis to axis, at least
FEWEST = 8  # lines of each of the three kinds; more where there are more cells, across and down, between two axes
TOP = 2  # lines above the axes: the title and their names
LEGEND = "★ best  ⣿⣿ best tenth  ⠕⠕ to the median  ⠁⠈ the rest"
_FAN = 0.5  # of the step between two values, over which the lines of one value fan out


@dataclass(frozen=True)
class Axis:
    name: str
    at: np.ndarray  # from 0 at the bottom to 1, NaN where a trial has no value; float [n]
    labels: tuple[tuple[float, str], ...]  # places from 0 to 1, and what stands there


def axes_of(board: Board, shown: np.ndarray) -> tuple[list[Axis], list[Axis]]:
    """The axes of the dimensions, and those of the results that the trials shown, bool [n], have."""
    fan = beside(board.numbers) * _FAN
    own = []
    for key, choices in dimensions(board).items():
        steps = max(1, len(choices.labels) - 1)
        edge = _FAN / 2 / steps  # so that the outermost lines stay on the axis
        at = np.clip((choices.at() + fan / steps) * (1 - 2 * edge) + edge, 0.0, 1.0)
        places = [0.5] if len(choices.labels) == 1 else [i / steps * (1 - 2 * edge) + edge for i in range(steps + 1)]
        own.append(Axis(key, at, tuple(zip(places, choices.labels, strict=True))))
    results = []
    for name in RESULTS:
        values = board.column(name)
        scale = scale_of(values[shown & np.isfinite(values)], name)
        at = scale.at(values)
        ends = ((0.0, f"{scale.low:.3g}"), (1.0, f"{scale.high:.3g}"))
        shown_name = f"{name} ms" if name == "latency" else name
        results.append(Axis(f"{shown_name} log" if scale.log else shown_name, at, ends))
    return own, results


def page_of(own: Sequence[Axis], results: Sequence[Axis], width: int, page: int) -> tuple[list[Axis], int]:
    """The axes of a page, with the results on each or, where there is little room, the reward alone; and the number of
    pages."""
    room = max(2, (width - 4) // APART + 1)
    kept = list(results) if room >= len(results) + 2 or not own else [results[-1]]
    each = max(1, room - len(kept))
    pages = max(1, -(-len(own) // each))
    page = min(page, pages - 1)
    start = min(page * each, max(0, len(own) - each))  # the last page is as full as the others
    return [*own[start : start + each], *kept], pages


class Parallel(Picture):
    """← and → turn to the dimensions that have no room."""

    def __init__(self, *, period: float = 1.0, id: str | None = None) -> None:
        super().__init__(period=period, id=id)
        self._pages = 1
        self._title = ""
        self._axes: list[Axis] = []
        self._columns = np.zeros(0, dtype=np.int64)
        self._drawn = np.zeros(0, dtype=bool)

    @property
    def pages(self) -> int:
        return self._pages

    def put(self, sketch: Sketch, board: Board, passing: np.ndarray) -> bool:
        standing = board.standing
        shown = passing & (standing.rank > 0)
        if not shown.any():
            return self.say_none(sketch)
        axes, self._pages = page_of(*axes_of(board, shown), sketch.width, self.page)
        self.page = min(self.page, self._pages - 1)
        columns = np.linspace(1, max(2, sketch.width - 1 - _right(axes)), len(axes)).astype(int)
        self._axes, self._columns, self._drawn = axes, columns, shown
        rows = sketch.height - 3
        ranked = standing.order[shown[standing.order]]
        best = ranked[:1][~(standing.miss[ranked[:1]] > 0)]
        groups = _groups(ranked, max(FEWEST, min(rows, int(columns[1] - columns[0]))))
        marked = np.flatnonzero(shown & board.marked())
        for places, look, every in (
            (groups[2], "faint", 6),
            (groups[1], "quiet", 3),
            (groups[0], "line", 1),
            (best, "strong", 1),
            (marked, "mark", 1),
        ):
            _lines(sketch, axes, columns, places, look, every)
        for axis, column, after in zip(axes, columns, [*columns[1:], sketch.width], strict=True):
            _axis(sketch, axis, int(column), int(after) - int(column))
        for places, sign, look in ((marked, "◆", "mark"), (best, "★", "strong")):
            _signs(sketch, axes, columns, places, sign, look)
        drawn = len(np.unique(np.concatenate((*groups, marked))))
        says = words.plural(drawn, "line") if drawn == len(ranked) else f"{drawn:,} of {len(ranked):,} lines"
        self._title = paged(says, self.page, self._pages)
        title(sketch, self._title)
        sketch.write(0, sketch.height - 1, LEGEND[: sketch.width], "quiet")
        return True

    def put_cursor(self, sketch: Sketch, board: Board) -> None:
        place = self.place_of(self.cursor)
        if place is not None and place < len(self._drawn) and self._drawn[place]:
            places = np.array([place])
            _lines(sketch, self._axes, self._columns, places, "cursor", 1)
            _signs(sketch, self._axes, self._columns, places, "✛", "cursor")
        title_end(sketch, self._title, readout(board, self.cursor))


def _groups(ranked: np.ndarray, most: int) -> list[np.ndarray]:
    """Places of the best tenth, those up to the median, and the rest, each thinned evenly to `most`."""
    tenth, half = max(1, len(ranked) // 10), max(1, len(ranked) // 2)
    parts = (ranked[:tenth], ranked[tenth:half], ranked[half:])
    found = [part if len(part) <= most else part[np.linspace(0, len(part) - 1, most).astype(int)] for part in parts]
    return [part if len(part) else np.zeros(0, dtype=np.int64) for part in found]


def _right(axes: Sequence[Axis]) -> int:
    """Cells that the labels of the last axis take to its right."""
    return max([len(axes[-1].name) // 2, *(len(text) for _, text in axes[-1].labels)])


def _row(at: np.ndarray, rows: int) -> np.ndarray:
    """Rows of dots from the top of the plot, int [n]."""
    found: np.ndarray = np.floor((1.0 - at) * (rows * DOTS[1] - 1) + 0.5).astype(np.int64)
    return found


def _lines(
    sketch: Sketch, axes: Sequence[Axis], columns: np.ndarray, places: np.ndarray, look: str, every: int
) -> None:
    """The lines of trials at these places, one dot of `every` so many set; broken where a value is missing."""
    rows = sketch.height - 3
    for i in range(len(axes) - 1):
        left, right = int(columns[i]) * DOTS[0] + 1, int(columns[i + 1]) * DOTS[0]
        start, end = axes[i].at[places], axes[i + 1].at[places]
        known = np.isfinite(start) & np.isfinite(end)
        if not known.any():
            continue
        steps = np.linspace(0.0, 1.0, max(2, right - left, rows * DOTS[1] if every == 1 else 0))[every // 2 :: every]
        heights = start[known, None] + (end - start)[known, None] * steps[None, :]
        x = np.broadcast_to(np.floor(left + (right - left) * steps), heights.shape)
        sketch.dots(x.ravel(), (TOP * DOTS[1] + _row(heights, rows)).ravel(), look)


def _signs(sketch: Sketch, axes: Sequence[Axis], columns: np.ndarray, places: np.ndarray, sign: str, look: str) -> None:
    """A sign where the lines of trials at these places cross the axes."""
    for axis, column in zip(axes, columns, strict=True):
        at = axis.at[places]
        at = at[np.isfinite(at)]
        sketch.signs(np.full(len(at), column), TOP + _row(at, sketch.height - 3) // DOTS[1], sign, look)


def _axis(sketch: Sketch, axis: Axis, column: int, room: int) -> None:
    """The axis with its name above and its labels to the right; those that would lie on another are left out."""
    rows = sketch.height - 3
    last = column + room >= sketch.width
    name = fitted(clean(axis.name), len(axis.name) if last else min(room - 1, len(axis.name)))
    sketch.write(max(0, min(column - 1, sketch.width - len(axis.name))), 1, name, "")
    for row in range(rows):
        sketch.write(column, TOP + row, "│", "quiet")
    taken: set[int] = set()
    ends = (axis.labels[0], axis.labels[-1])
    for place, text in (*ends, *axis.labels):
        row = TOP + int(_row(np.array([place]), rows)[0]) // DOTS[1]
        if row not in taken:
            taken.add(row)
            label = clean(text)
            sketch.write(column + 1, row, fitted(label, min(len(label), max(1, room - 1))), "quiet")
