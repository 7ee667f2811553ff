"""How long something will still take, by what was measured of it, and only where that can be said. Pure arithmetic.

What is left of n equal pieces takes their mean each, give or take two standard errors: of the mean itself, and of the
pieces that are still to come. Knows nothing of what the pieces are.
"""

from __future__ import annotations

import math
import statistics
import time
from collections import deque
from collections.abc import Callable, Sequence

FEWEST = 3  # finished pieces before it is said how long the rest may take
BLOCKS = 48  # the last ones count: a machine's speed changes
BLOCK_S = 1.0  # of work that is told in smaller parts
FEWEST_BLOCKS = 5

Span = tuple[float, float]
"""Seconds, from and to."""


def span(
    left: float,
    count: int,
    mean: float,
    deviation: float,
    longest: float,
    begun: Sequence[float] = (),
    workers: int = 1,
) -> Span | None:
    """Seconds for `left` more pieces, of which `count` have taken `mean` each, with a standard deviation and a longest.

    `begun` are the ages of the pieces that run now, which count among those left. None of fewer than `FEWEST`, and
    while a piece takes longer than any before it and than three deviations.
    """
    if count < FEWEST or not workers:
        return None
    if begun and max(begun) > max(longest, mean + 3 * deviation):
        return None
    work = left * mean - sum(min(age, mean) for age in begun)
    spread = 2 * deviation * (math.sqrt(max(0.0, left)) + left / math.sqrt(count))
    return max(0.0, work - spread) / workers, max(0.0, work + spread) / workers


class Pace:
    """The speed of one piece of work that is told in small parts: steps, or shares of the whole.

    Its seconds are grouped into blocks of at least `BLOCK_S`, whose spread says how well the rest can be told.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._blocks: deque[tuple[float, float]] = deque(maxlen=BLOCKS)  # amount done, seconds
        self._begun: tuple[float, float] | None = None  # amount and time at which the running block began

    def pause(self) -> None:
        """What happens from now until the next `reached` is not of this work."""
        self._begun = None

    def reached(self, amount: float) -> None:
        """So much of the work is done now."""
        now = self._clock()
        if self._begun is None or amount < self._begun[0]:
            self._begun = amount, now
            return
        done, took = amount - self._begun[0], now - self._begun[1]
        if done > 0 and took >= BLOCK_S:
            self._blocks.append((done, took))
            self._begun = amount, now

    def left(self, amount: float) -> Span | None:
        """Seconds for so much more of it; None while too little is known."""
        count = len(self._blocks)
        if count < FEWEST_BLOCKS:
            return None
        whole = sum(done for done, _ in self._blocks)
        each = sum(took for _, took in self._blocks) / whole  # seconds of a unit
        size = whole / count
        deviation = statistics.stdev(took / done for done, took in self._blocks) * size
        return span(amount / size, count, each * size, deviation, math.inf)


def duration(seconds: float | None) -> str:
    """`45s`, `12m`, `3h12`; below ten minutes with seconds, as in `4m05`."""
    if seconds is None:
        return "–"
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}" if whole < 600 else f"{whole // 60}m"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}"


def words(found: Span) -> str:
    """`1h05–1h40`; one time where both say the same."""
    first, last = map(duration, found)
    return first if first == last else f"{first}–{last}"
