"""Which points a study's front has gained in its last trials, and by how much the area that it covers has grown.

Pure: reads no store.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kdnas.study.hypervolume import hypervolume_so_far
from kdnas.study.ranking import Scored

LAST = 20  # trials that are looked back on


@dataclass(frozen=True)
class FrontGains:
    """Of the last `trials` trials of a study: those on its front, by number, and the hypervolume before and after."""

    trials: int
    numbers: tuple[int, ...]
    before: float
    now: float

    def __str__(self) -> str:
        many = "trial" if self.trials == 1 else f"{self.trials} trials"
        if not self.numbers:
            return f"The front has gained nothing in the last {many} (hypervolume {self.now:.4f})."
        named = ", ".join(f"#{number}" for number in self.numbers)
        return f"The front has gained {named} in the last {many} (hypervolume {self.now:.4f}, was {self.before:.4f})."


def front_gains(scored: Sequence[Scored], last: int = LAST) -> FrontGains | None:
    """None before a study has more trials with a rank than are looked back on, since all of them would be new."""
    done = sorted((s for s in scored if s.rank is not None), key=lambda s: s.number)
    if len(done) <= last:
        return None
    losses = np.asarray([np.nan if s.row.loss is None else s.row.loss for s in done])
    shares = np.asarray([np.nan if s.speedup is None else 1 / s.speedup for s in done])
    covered = hypervolume_so_far(losses, shares)
    new = tuple(s.number for s in done[-last:] if s.front)
    return FrontGains(last, new, float(covered[-last - 1]), float(covered[-1]))
