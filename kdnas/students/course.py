"""How far a long distillation is, for those who watch: one share that never falls, and how long the rest takes.

What it consists of comes as words with shares of their own, part after part; here they become one course. Knows no
model and no store.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

from kdnas.system.progress import Note, Once, Progress
from kdnas.system.time_left import Pace, Span, span, words

SHARE_OF_NEXT = 0.5  # of what is left of a stretch, for a part that may have others after it


class Course:
    """Tells `on_progress` what is going on. `until` names the share that the parts told from then on lead to."""

    def __init__(self, on_progress: Progress, clock: Callable[[], float] = time.monotonic) -> None:
        self._on_progress, self._clock = on_progress, clock
        self._said = Once()
        self._from = self._to = self._at = 0.0  # of the part that is told now
        self._limit = 0.0
        self._last = 0.0  # the part's own share
        self._pace = Pace(clock)

    def until(self, share: float) -> None:
        """A stretch begins that ends at `share` of the whole."""
        self._at = max(self._at, self._limit)
        self._limit = max(self._limit, share)
        self._part()

    def _part(self) -> None:
        self._from, self._last, self._pace = self._at, 0.0, Pace(self._clock)
        self._to = self._at + SHARE_OF_NEXT * (self._limit - self._at)

    def tell(self, said: str, share: float | None) -> None:
        """Words of a part of the stretch, and how far that part is."""
        if isinstance(said, Note):
            self._on_progress(said, None)
            return
        if self._said.new(said) or (share is not None and share < self._last):
            self._part()
        left = None
        if share is not None:
            self._last = share
            self._pace.reached(share)
            self._at = max(self._at, self._from + (self._to - self._from) * min(1.0, share))
            left = self._pace.left(1.0 - share)
        self._on_progress(_with(said, left), self._at)

    def reach(self, said: str, share: float, left: Span | None = None) -> None:
        """Words with a place on the whole course, from 0 to 1."""
        self._said.new(said)
        self._at = max(self._at, share)
        self._on_progress(_with(said, left, "at most "), self._at)


def _with(said: str, left: Span | None, most: str = "") -> str:
    return said if left is None else f"{said}, {most}{words(left)} left"


class Epochs:
    """How long the rest of a training takes: by its epochs, once there are enough, and before by its steps."""

    def __init__(self, epochs: int, took: Sequence[float] = (), clock: Callable[[], float] = time.monotonic) -> None:
        """`took` are the seconds of the epochs that are done already."""
        self._epochs, self._clock = epochs, clock
        self._took = list(took)
        self._begun = clock()
        self._pace = Pace(clock)
        self._whole = True  # the epoch was not taken up in its middle, so that its time counts

    def begins(self, step: int) -> None:
        """An epoch begins now, or goes on after `step` steps."""
        self._begun, self._whole = self._clock(), step == 0
        self._pace.pause()
        self._pace.reached(step)

    def ends(self) -> None:
        """Scored and written down."""
        if self._whole:
            self._took.append(self._clock() - self._begun)

    def step(self, done: int, step: int, count: int, held_out: float) -> Span | None:
        """Seconds that all epochs may still take, after `step` steps of the one after `done`. `held_out`: tokens that
        an epoch scores for each that it learns from; a forward pass is a third of a step's work."""
        self._pace.reached(step)
        left = self._epochs - done
        if self._took:
            age = [self._clock() - self._begun] if self._whole else []
            mean = statistics.fmean(self._took)
            deviation = statistics.stdev(self._took) if len(self._took) > 1 else 0.0
            rest = left if self._whole else left - step / count
            found = span(rest, len(self._took), mean, deviation, max(self._took), age)
            if found is not None:
                return found
        found = self._pace.left(left * count - step)
        if found is None:
            return None
        scored = self._pace.left(left * count * held_out / 3) or found
        return found[0], found[1] + scored[1]
