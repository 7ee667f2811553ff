"""Where the ticks of an axis stand and what they say: round numbers whose labels never touch. Draws nothing."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, floor, log10
from typing import Any

from textual_plot.axis_formatter import AxisFormatter, NumericAxisFormatter

SAME = 1e-9  # of the larger end
LEAST = 1e-12  # below it all is nothing


def part(low: float, high: float, times: int, middle: float | None) -> tuple[float, float]:
    """The axis from `low` to `high`, halved so many times around `middle` or its own; never beyond its ends."""
    span = (high - low) / 2**times
    at = (low + high) / 2 if middle is None or not low <= middle <= high else middle
    start = min(max(low, at - span / 2), high - span)
    return start, start + span


def outward(low: float, high: float) -> tuple[float, float]:
    """The ends moved out to round numbers, with some air: one more point seldom moves the axes. Ends that only their
    last digits tell apart count as one."""
    span, size = high - low, max(abs(low), abs(high))
    if not span > max(SAME * size, LEAST):
        span = 0.1 * size if size > LEAST else 0.1
    step = round_step(span / 20)
    return floor((low - span * 0.02) / step) * step, ceil((high + span * 0.02) / step) * step


def touching(ticks: Sequence[float], labels: Sequence[str], low: float, high: float, cells: int) -> bool:
    """Whether two labels have no blank between them, each in the middle under its tick on an axis of so many cells."""
    if not cells or len(ticks) < 2:
        return False
    middles = [(tick - low) / (high - low) * cells for tick in ticks]
    halves = [len(label) / 2 for label in labels]
    return any(
        middles[i + 1] - middles[i] < halves[i] + halves[i + 1] + 2 for i in range(len(ticks) - 1)
    )  # two: the ends fall on whole cells


def cut(ticks: Sequence[float], labels: Sequence[str], low: float, high: float, cells: int) -> bool:
    """Whether the last label, in the middle under its tick, goes past the end of an axis of so many cells."""
    return bool(cells and ticks) and (ticks[-1] - low) / (high - low) * cells + len(labels[-1]) / 2 > cells + 1


def round_step(rough: float) -> float:
    """The least of 1, 2, 5, 10 … that is not below."""
    power = 10.0 ** floor(log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)


class Ticks(NumericAxisFormatter):
    """At most so many ticks at 1, 2, 5, 10 …, at whole numbers where things are counted; fewer where `cells`, the
    length of the axis, has no room for their labels."""

    def __init__(self, most: int, *, whole: bool = False) -> None:
        self.most = most
        self.whole = whole
        self.cells = 0  # 0 where labels stand below each other

    def get_ticks(self, min_: float, max_: float, max_ticks: int = 8) -> list[float]:
        if not max_ - min_ > 0:
            return [min_]
        for most in range(self.most, 0, -1):
            ticks = self._whole(self._ticks(min_, max_, most), min_, max_)
            if not touching(ticks, self.get_labels_for_ticks(ticks), min_, max_, self.cells):
                return ticks
        return ticks[:1]

    def _whole(self, ticks: list[float], min_: float, max_: float) -> list[float]:
        """Without a last tick whose label would be cut at the end of the axis."""
        return ticks[:-1] if cut(ticks, self.get_labels_for_ticks(ticks), min_, max_, self.cells) else ticks

    def _ticks(self, min_: float, max_: float, most: int) -> list[float]:
        step = round_step((max_ - min_) / most)
        step = max(step, 1.0) if self.whole else step
        first = ceil(min_ / step - 1e-9)
        ticks = []
        while first * step <= max_ + step * 1e-9:
            ticks.append(float(f"{first * step:.12g}"))
            first += 1
        return ticks

    def get_labels_for_ticks(self, ticks: Any) -> list[str]:
        if len(ticks) < 2:
            return [f"{tick:.4g}" for tick in ticks]
        decimals = max(0, -floor(log10(ticks[1] - ticks[0]) + 1e-9))
        return [f"{tick:.{decimals}f}" for tick in ticks]


class LogTicks(AxisFormatter):
    """Ticks at 1, 2 and 5 times the powers of ten, for an axis that holds log10 of its values.

    Where `cells` has no room for them at 1 and 3 times the powers, then at the powers, at every second one, and so on;
    at most `most`, where that is not 0.
    """

    def __init__(self, most: int = 0) -> None:
        self.most = most
        self.cells = 0

    def get_ticks(self, min_: float, max_: float, max_ticks: int = 8) -> list[float]:
        powers = range(floor(min_) - 1, ceil(max_) + 1)
        fine, rough = ([power + log10(factor) for power in powers for factor in some] for some in ((1, 2, 5), (1, 3)))
        for ticks in (fine, rough, *([float(p) for p in powers if p % by == 0] for by in range(1, len(powers) + 1))):
            inside = [tick for tick in ticks if min_ <= tick <= max_]
            if cut(inside, self.get_labels_for_ticks(inside), min_, max_, self.cells):
                inside.pop()
            if self.most and len(inside) > self.most:
                continue
            if inside and not touching(inside, self.get_labels_for_ticks(inside), min_, max_, self.cells):
                return inside
        return [tick for tick in fine if min_ <= tick <= max_][:1]

    def get_labels_for_ticks(self, ticks: Any) -> list[str]:
        return [f"{10**tick:.3g}" for tick in ticks]
