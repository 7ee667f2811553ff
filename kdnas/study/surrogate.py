"""What finished trials say of candidates that nobody has evaluated: a Gaussian process over a finite space.

The kernel is a product over the dimensions of one plus a kernel of each,

    k(x, x') = Π_d (1 + θ_d · k_d(x_d, x'_d)),

so that a figure is a sum of effects of single dimensions, of pairs and so on, the higher the order the smaller (the
ANOVA kernel of M. Stitson et al., 1999, "Support vector regression with ANOVA decomposition kernels"). Along an ordered
dimension k_d is a straight line plus a smooth curve, between unordered choices it is their being the same.

θ, lengths and noise are not fitted but averaged over: a fixed set of settings is drawn from the prior, each weighs as
much as it explains the trials (Bayesian model averaging), so nothing is optimised and the same trials always give the
same figures. Pure numpy; knows no strategy and no store.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from kdnas.study.space import Candidate, Dimension, SearchSpace
from kdnas.system import seeds

SETTINGS = 48  # drawn from the prior
KEPT = 8  # of them, those that explain the trials best, are asked for predictions
UNLIKE = 0.7  # distance between two unordered choices over √2, ordered dimensions being 1 long
LEVEL = 4.0  # prior variance of the mean of all candidates, in units of the trials' own


@dataclass(frozen=True)
class Settings:
    """Of one kernel."""

    strength: np.ndarray  # θ, [dimensions]
    curve: np.ndarray  # share of the smooth curve beside the straight line, [dimensions]
    length: np.ndarray  # of the smooth curve, the whole dimension being 1, [dimensions]
    noise: float  # variance, in units of the trials' own


@dataclass(frozen=True)
class Prediction:
    """Mean and standard deviation of a figure of candidates [n]."""

    mean: np.ndarray
    deviation: np.ndarray


class Places:
    """Candidates as points: float [candidates, dimensions], 0 … 1 along ordered ones, the index along others."""

    def __init__(self, space: SearchSpace, candidates: Sequence[Candidate]) -> None:
        self.ordered = np.asarray([d.ordered for d in space.dimensions])
        self.points = np.empty((len(candidates), len(space.dimensions)))
        for column, dimension in enumerate(space.dimensions):
            known = dict(zip(dimension.choices, _places(dimension), strict=True))
            self.points[:, column] = [known[c[dimension.name]] for c in candidates]
        self.choices = np.asarray([len(d.choices) for d in space.dimensions])
        self.width = len(space.dimensions)

    def apart(self) -> np.ndarray:
        """The points so that distances mean something: one column for each unordered choice, float [candidates, …]."""
        columns = [self.points[:, self.ordered]]
        for d in np.flatnonzero(~self.ordered):
            columns.append(UNLIKE * (self.points[:, [d]] == np.arange(self.choices[d])))
        return np.concatenate(columns, axis=1)


def _places(dimension: Dimension) -> np.ndarray:
    count = len(dimension.choices)
    index = np.arange(count, dtype=float)
    if not dimension.ordered or count < 2:
        return index if not dimension.ordered else np.zeros(count)
    even = index / (count - 1)
    if not all(isinstance(c, (int, float)) and c > 0 for c in dimension.choices):
        return even
    logs = np.log([float(c) for c in dimension.choices])
    # Half way between the place in the list and the ratio of the sizes.
    return np.asarray((even + (logs - logs[0]) / (logs[-1] - logs[0])) / 2)


@cache
def settings(dimensions: int, count: int = SETTINGS) -> tuple[Settings, ...]:
    """Draws of the prior, always the same."""
    rng = seeds.fixed(seeds.Fixed.KERNELS)
    return tuple(
        Settings(
            np.exp(rng.normal(np.log(0.5), 1.2, dimensions)),
            rng.beta(1.0, 2.0, dimensions),
            np.exp(rng.normal(np.log(0.5), 0.4, dimensions)),
            float(np.exp(rng.normal(np.log(1e-3), 1.0))),
        )
        for _ in range(count)
    )


def kernel(places: Places, s: Settings, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Between points a [n, dimensions] and b [m, dimensions]: float [n, m]."""
    product = np.ones((len(a), len(b)))
    for d in np.flatnonzero(places.choices > 1).tolist():
        product *= 1.0 + s.strength[d] * _of_one(places, s, d, a[:, d, None], b[None, :, d])
    return product


def own_kernel(places: Places, s: Settings, a: np.ndarray) -> np.ndarray:
    """The kernel of each point with itself, float [n]."""
    product = np.ones(len(a))
    for d in np.flatnonzero(places.choices > 1).tolist():
        product *= 1.0 + s.strength[d] * _of_one(places, s, d, a[:, d], a[:, d])
    return product


def _of_one(places: Places, s: Settings, d: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Along one dimension."""
    if not places.ordered[d]:
        return np.asarray((x == y) - 1.0 / places.choices[d])
    line = 4.0 * (x - 0.5) * (y - 0.5)
    return np.asarray((1 - s.curve[d]) * line + s.curve[d] * np.exp(-0.5 * ((x - y) / s.length[d]) ** 2))


class Surrogate:
    """Fitted to the figure of some candidates; asked for those of others. Figures are whatever adds up over effects:
    logarithms of rewards, of losses' qualities and of latencies do."""

    def __init__(self, places: Places, known: np.ndarray, figures: np.ndarray) -> None:
        """`known` [n] are the rows of `places` that `figures` [n] belong to, at least one."""
        self.places, self.known = places, known
        self.centre = float(figures.mean())
        spread = float(figures.std())
        self.scale = spread if spread > 0 else 1.0
        standard = (figures - self.centre) / self.scale
        self.kept = sorted((self._fit(s, standard) for s in settings(places.width)), key=lambda one: -one.evidence)[
            :KEPT
        ]
        weights = np.exp([one.evidence - self.kept[0].evidence for one in self.kept])
        self.weights = weights / weights.sum()

    def _fit(self, s: Settings, figures: np.ndarray) -> _Fitted:
        points = self.places.points[self.known]
        base = kernel(self.places, s, points, points)
        # The unit of a kernel is its own mean variance, so that settings differ in shape and not in size.
        unit = float(np.mean(np.diag(base)))
        covariance = LEVEL + base / unit
        covariance[np.diag_indices_from(covariance)] += s.noise
        factor = np.linalg.cholesky(covariance)
        half = np.linalg.solve(factor, figures)
        # The variance of the process is its posterior mode under a prior of two trials' worth at 1.
        size = float((half @ half + 2.0) / (len(half) + 2.0))
        evidence = -float(np.log(np.diag(factor)).sum()) - 0.5 * (len(half) + 2) * np.log(size)
        return _Fitted(evidence, s, unit, factor, half, size)

    def predict(self, rows: np.ndarray) -> Prediction:
        """Of the candidates at rows [n] of the places."""
        means, squares = [], []
        points = self.places.points
        for one in self.kept:
            across = LEVEL + kernel(self.places, one.settings, points[self.known], points[rows]) / one.unit
            solved = np.linalg.solve(one.factor, across)
            own = LEVEL + own_kernel(self.places, one.settings, points[rows]) / one.unit
            mean = solved.T @ one.half
            means.append(mean)
            squares.append(np.maximum(own - (solved * solved).sum(0), 1e-12) * one.size + mean * mean)
        mean = self.weights @ np.asarray(means)
        variance = np.maximum(self.weights @ np.asarray(squares) - mean * mean, 1e-12)
        return Prediction(self.centre + self.scale * mean, self.scale * np.sqrt(variance))


@dataclass(frozen=True)
class _Fitted:
    """One setting on the trials: how well it explains them, and what its predictions need."""

    evidence: float
    settings: Settings
    unit: float
    factor: np.ndarray  # of Cholesky, [n, n]
    half: np.ndarray  # its inverse times the figures, [n]
    size: float
