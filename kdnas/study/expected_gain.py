"""What candidates that nobody has evaluated are expected to gain, from a surrogate's predictions of them.

Improvement is after J. Močkus (1975) and D. Jones et al. (1998), "Efficient global optimization of expensive black-box
functions"; of a front it is the area of loss against latency that a candidate would add. Pure numpy; proposes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import erf

import numpy as np

from kdnas.study.surrogate import Prediction, Surrogate

LIKELY = 0.8
"""A candidate with this chance to keep all constraints is likely to keep them."""

_erf = np.vectorize(erf, otypes=[float])


def expected_improvement(found: Prediction, best: float | np.ndarray) -> np.ndarray:
    """By how much each of the predicted figures [n] is expected to exceed `best`, which counts as nothing below it."""
    z = (found.mean - best) / found.deviation
    density = np.exp(-0.5 * z * z) / np.sqrt(2 * np.pi)
    return np.asarray(found.deviation * (z * _normal(z) + density))


def improvement_beside(
    model: Surrogate, pending: np.ndarray, rows: np.ndarray, best: float, counts: np.ndarray, normal: np.ndarray
) -> np.ndarray:
    """By how much the figure of each candidate at `rows` [n] is expected to exceed `best` and what comes of those at
    `pending` [m], of which only those that `counts` [m] can be the best. `normal`: standard normal numbers [draws, m].

    The last step of the improvement of several candidates at once, of D. Ginsbourger et al. (2010), "Kriging is
    well-suited to parallelize optimization"; its expectation is a mean over draws."""
    gain = np.zeros(len(rows))
    for weight, outcomes, found in model.once_out(pending, rows, normal):
        reached = np.maximum(best, outcomes[:, counts].max(1, initial=-np.inf))
        gain += weight * expected_improvement(found, reached[:, None]).mean(0)
    return gain


def chance_below(found: Prediction, limit: float) -> np.ndarray:
    """The probability that each of the predicted figures [n] is at most the limit."""
    return _normal((limit - found.mean) / found.deviation)


def chance_to_keep(missed: Iterable[Prediction], candidates: int) -> np.ndarray:
    """The probability that each of so many candidates keeps all constraints [candidates], of which `missed` are the
    predicted violations, taken as independent; 1 without any."""
    chance = np.ones(candidates)
    for one in missed:
        chance = chance * chance_below(one, 0.0)
    return chance


def area_gained(
    losses: np.ndarray, times: np.ndarray, new_losses: np.ndarray, new_times: np.ndarray, reference: tuple[float, float]
) -> np.ndarray:
    """The area that each new point adds to what points [n] of loss and latency dominate up to the reference; of the
    shape of the new ones."""
    order = np.lexsort((times, losses))
    losses, times = losses[order], times[order]
    within = (losses < reference[0]) & (times < reference[1])
    losses, times = losses[within], times[within]
    kept = times < np.concatenate([[np.inf], np.minimum.accumulate(times)])[:-1]
    # Between two neighbours of the front, and before the first: from the left, to the right, and under which latency.
    left = np.concatenate([[-np.inf], losses[kept]])
    right = np.concatenate([losses[kept], [reference[0]]])
    ceiling = np.concatenate([[reference[1]], times[kept]])
    added = np.zeros(np.shape(new_losses))
    for begin, end, top in zip(left, right, ceiling, strict=True):
        added += np.maximum(end - np.maximum(new_losses, begin), 0) * np.maximum(top - new_times, 0)
    return added


def _normal(z: np.ndarray) -> np.ndarray:
    return np.asarray(0.5 * (1 + _erf(z / np.sqrt(2))))
