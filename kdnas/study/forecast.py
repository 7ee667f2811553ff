"""What is predicted of every candidate of a space before it is evaluated, and how results correct it. Pure numpy.

Losses are predicted on one scale within a group (students of one depth), never between groups: so each group is
corrected by its own results.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

LEAST_SLOPE = 0.1  # of a correction, in logarithms: a correction never turns the order of a group around
PRIOR = 0.02  # Σ of squared logarithmic distances that the slope of 1 weighs as much as, before any result


@dataclass(frozen=True)
class Forecast:
    """Arrays [n] over the candidates of a space, in its order. `loss` is normalised, `ratio` latency over the
    teacher's; `alpha` and `beta` are those of the study now. `known` says of which
    candidates both are results, not predicted."""

    keys: tuple[str, ...]  # SearchSpace.key
    groups: tuple[str, ...]  # equal for candidates whose predicted losses compare
    loss: np.ndarray
    ratio: np.ndarray
    known: np.ndarray
    alpha: float = 0.0
    beta: float = 1.0

    @classmethod
    def of(cls, keys: tuple[str, ...], groups: tuple[str, ...], loss: np.ndarray, ratio: np.ndarray) -> Forecast:
        return cls(keys, groups, loss, ratio, np.zeros(len(keys), dtype=bool))

    def corrected(self, results: Mapping[str, tuple[float, float]], alpha: float, beta: float) -> Forecast:
        """The forecast with the (loss, ratio) of the candidates that `results` has by their keys, the others of each
        group corrected by them.

        In logarithms: a group's losses are shifted by the mean residual of its results, to which the mean of all
        results counts as one more, and stretched by a least-squares slope that is held to 1 by PRIOR and stays above
        LEAST_SLOPE. Ratios are shifted alike and not stretched.
        """
        places = {key: place for place, key in enumerate(self.keys)}
        seen = [(places[key], *found) for key, found in results.items() if key in places and min(found) > 0]
        if not seen:
            return replace(self, alpha=alpha, beta=beta)
        where = np.array([place for place, _, _ in seen])
        real_loss, real_ratio = np.array([[loss, ratio] for _, loss, ratio in seen]).T
        groups = np.array(self.groups)
        x, predicted = np.log(self.loss.clip(1e-9)), np.log(self.ratio)
        off, off_ratio = np.log(real_loss) - x[where], np.log(real_ratio) - predicted[where]
        loss, ratio = x.copy(), predicted.copy()
        for group in dict.fromkeys(self.groups):
            own, here = groups == group, groups[where] == group
            count = int(here.sum())
            ratio[own] += (off_ratio[here].sum() + off_ratio.mean()) / (count + 1)
            loss[own] += (off[here].sum() + off.mean()) / (count + 1)
            if count > 1:
                apart = x[where][here] - x[where][here].mean()
                slope = float(apart @ (off[here] - off[here].mean()) / (apart @ apart + PRIOR))
                loss[own] += max(slope, LEAST_SLOPE - 1) * (x[own] - x[where][here].mean())
        loss, ratio, known = np.exp(loss), np.exp(ratio), self.known.copy()
        loss[where], ratio[where], known[where] = real_loss, real_ratio, True
        return Forecast(self.keys, self.groups, loss, ratio, known, alpha, beta)
