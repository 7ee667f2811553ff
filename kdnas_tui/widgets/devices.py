"""How busy the devices were, and which latencies are doubtful, over the time axis of the trials: a line for each.

Readings are those of this machine since its study was opened, while a worker ran on it. Pure: draws on a sketch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kdnas_tui.machine import Reading, gib
from kdnas_tui.widgets.lines import fitted
from kdnas_tui.widgets.sketch import Sketch

Moment = tuple[float, tuple[Reading, ...]]  # UTC seconds, and what was read then
LEVELS = "▁▂▃▄▅▆▇█"
DOUBTFUL = "!"


def named(history: Sequence[Moment]) -> list[str]:
    """The devices of the last reading, in its order."""
    return [reading.name for reading in history[-1][1]] if history else []


def means(history: Sequence[Moment], name: str, edges: np.ndarray) -> np.ndarray:
    """How busy a device was between neighbouring edges [m], 0 to 1; NaN where nothing was read; float [m − 1]."""
    found = [(moment, reading.busy) for moment, readings in history for reading in readings if reading.name == name]
    moments, figures = np.array(found, dtype=float).reshape(-1, 2).T
    known = np.isfinite(figures) & (moments >= edges[0]) & (moments <= edges[-1])
    cells = np.clip(np.searchsorted(edges, moments[known], side="right") - 1, 0, len(edges) - 2)
    count = np.bincount(cells, minlength=len(edges) - 1)
    sums = np.bincount(cells, weights=figures[known], minlength=len(edges) - 1)
    return np.divide(sums, count, out=np.full(len(count), np.nan), where=count > 0)


def draw_devices(sketch: Sketch, top: int, left: int, edges: np.ndarray, history: Sequence[Moment]) -> None:
    """A line for each device from line `top` on: what it is at, and its use as bars over the axis from cell `left`."""
    for row, reading in enumerate(history[-1][1] if history else (), start=top):
        busy = "–" if reading.busy != reading.busy else f"{reading.busy:.0%}"
        heat = "" if reading.celsius is None else f" {reading.celsius:.0f}°C"
        says = f"{reading.name} {busy}{heat} {gib(reading.used_gib, reading.total_gib)}G"
        sketch.write(0, row, fitted(says, left - 1).rstrip(), "quiet")
        levels = means(history, reading.name, edges)
        for cell in np.flatnonzero(np.isfinite(levels)).tolist():
            level = LEVELS[min(int(levels[cell] * len(LEVELS)), len(LEVELS) - 1)]
            sketch.write(left + cell, row, level, "line")


def draw_doubtful(sketch: Sketch, row: int, left: int, cells: np.ndarray) -> None:
    """A line with a sign at each of these cells, in which a trial of a doubtful latency ended."""
    sketch.write(0, row, fitted("doubtful latency", left - 1).rstrip(), "quiet")
    sketch.signs(left + cells, np.full(len(cells), row), DOUBTFUL, "bad")
