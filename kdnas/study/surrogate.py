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

from collections.abc import Iterator, Sequence
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
        self.along = [_places(dimension) for dimension in space.dimensions]  # the places of each one's choices
        self.chosen = np.empty((len(candidates), len(space.dimensions)), dtype=np.int64)  # which choice it is
        self.points = np.empty((len(candidates), len(space.dimensions)))
        for column, dimension in enumerate(space.dimensions):
            known = {choice: place for place, choice in enumerate(dimension.choices)}
            self.chosen[:, column] = [known[c[dimension.name]] for c in candidates]
            self.points[:, column] = self.along[column][self.chosen[:, column]]
        self.choices = np.asarray([len(d.choices) for d in space.dimensions])
        self.width = len(space.dimensions)

    def apart(self) -> np.ndarray:
        """The points so that distances mean something: one column for each unordered choice, float [candidates, …]."""
        columns = [self.points[:, self.ordered]]
        for d in np.flatnonzero(~self.ordered):
            columns.append(UNLIKE * (self.points[:, [d]] == np.arange(self.choices[d])))
        return np.concatenate(columns, axis=1)

    def at_ends(self) -> np.ndarray:
        """1 where all sizes are the largest or all the smallest, 0 where they are in the middle or even out: float
        [candidates]. At these ends loss and latency are as extreme as a space has them."""
        sizes = self.points[:, self.ordered & (self.choices > 1)]
        if not sizes.shape[1]:
            return np.zeros(len(sizes))
        return np.abs(2 * sizes.mean(1) - 1)


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


def _by_choice(places: Places, several: Sequence[Settings]) -> list[tuple[int, np.ndarray]]:
    """Each dimension that varies, and its factor of the kernel under each of the settings between any two of its
    choices: float [settings, choices, choices]. There are few choices, and many pairs of candidates."""
    found = []
    for d in np.flatnonzero(places.choices > 1).tolist():
        x, y = places.along[d][:, None], places.along[d][None, :]
        strength = np.asarray([s.strength[d] for s in several])[:, None, None]
        if places.ordered[d]:
            curve = np.asarray([s.curve[d] for s in several])[:, None, None]
            length = np.asarray([s.length[d] for s in several])[:, None, None]
            line = 4.0 * (x - 0.5) * (y - 0.5)
            alike = (1 - curve) * line + curve * np.exp(-0.5 * ((x - y) / length) ** 2)
        else:
            alike = (x == y) - 1.0 / places.choices[d]
        found.append((d, 1.0 + strength * alike))
    return found


def kernel(places: Places, several: Sequence[Settings], a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Between the candidates at rows a [n] and b [m] of the places, under each of the settings: float
    [settings, n, m]."""
    product = np.ones((len(several), len(a), len(b)))
    for d, factor in _by_choice(places, several):
        # Rows first: the larger side is copied but once.
        product *= factor[:, places.chosen[a, d]][:, :, places.chosen[b, d]]
    return product


def own_kernel(places: Places, several: Sequence[Settings], a: np.ndarray) -> np.ndarray:
    """The kernel of each of the candidates at rows a [n] with itself, under each of the settings: float
    [settings, n]."""
    product = np.ones((len(several), len(a)))
    for d, factor in _by_choice(places, several):
        product *= factor[:, places.chosen[a, d], places.chosen[a, d]]
    return product


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
        self.kept = sorted(self._fitted(standard), key=lambda one: -one.evidence)[:KEPT]
        weights = np.exp([one.evidence - self.kept[0].evidence for one in self.kept])
        self.weights = weights / weights.sum()

    def _fitted(self, figures: np.ndarray) -> list[_Fitted]:
        """Each of the settings on the trials."""
        several = settings(self.places.width)
        base = kernel(self.places, several, self.known, self.known)
        # The unit of a kernel is its own mean variance, so that settings differ in shape and not in size.
        units = [float(np.mean(np.diag(one))) for one in base]
        covariance = LEVEL + base / np.asarray(units)[:, None, None]
        diagonal = np.arange(len(figures))
        covariance[:, diagonal, diagonal] += np.asarray([s.noise for s in several])[:, None]
        factors = np.linalg.cholesky(covariance)
        halves = np.linalg.solve(factors, np.broadcast_to(figures[:, None], (len(several), len(figures), 1)))[..., 0]
        found = []
        for s, unit, factor, half in zip(several, units, factors, halves, strict=True):
            # The variance of the process is its posterior mode under a prior of two trials' worth at 1.
            size = float((half @ half + 2.0) / (len(half) + 2.0))
            evidence = -float(np.log(np.diag(factor)).sum()) - 0.5 * (len(half) + 2) * np.log(size)
            found.append(_Fitted(evidence, s, unit, factor, half, size))
        return found

    def predict(self, rows: np.ndarray) -> Prediction:
        """Of the candidates at rows [n] of the places."""
        means, squares = [], []
        several = [one.settings for one in self.kept]
        across = kernel(self.places, several, self.known, rows)
        own = own_kernel(self.places, several, rows)
        for one, between, alone in zip(self.kept, across, own, strict=True):
            solved = np.linalg.solve(one.factor, LEVEL + between / one.unit)
            mean = solved.T @ one.half
            means.append(mean)
            variance = LEVEL + alone / one.unit - (solved * solved).sum(0)
            squares.append(np.maximum(variance, 1e-12) * one.size + mean * mean)
        mean = self.weights @ np.asarray(means)
        variance = np.maximum(self.weights @ np.asarray(squares) - mean * mean, 1e-12)
        return Prediction(self.centre + self.scale * mean, self.scale * np.sqrt(variance))

    def once_out(
        self, pending: np.ndarray, rows: np.ndarray, normal: np.ndarray
    ) -> Iterator[tuple[float, np.ndarray, Prediction]]:
        """What will be predicted of the candidates at `rows` [n] once those at `pending` [m] have come out, which is
        drawn by `normal`, standard normal numbers [draws, m]. Of each setting its weight, how they come out [draws, m],
        and the prediction, its mean float [draws, n] and its deviation [n]."""
        several = [one.settings for one in self.kept]
        kernels = (
            kernel(self.places, several, self.known, pending),
            kernel(self.places, several, pending, pending),
            kernel(self.places, several, self.known, rows),
            kernel(self.places, several, pending, rows),
            own_kernel(self.places, several, rows),
        )
        for weight, one, *parts in zip(self.weights, self.kept, *kernels, strict=True):
            to_pending, among, to_rows, across, own = (LEVEL + part / one.unit for part in parts)
            solved_pending, solved_rows = np.linalg.solve(one.factor, to_pending), np.linalg.solve(one.factor, to_rows)
            covariance = among - solved_pending.T @ solved_pending + one.settings.noise * np.eye(len(pending))
            factor = np.linalg.cholesky(covariance)
            learnt = np.linalg.solve(factor, across - solved_pending.T @ solved_rows)
            size = np.sqrt(one.size)
            outcomes = solved_pending.T @ one.half + size * normal @ factor.T
            mean = solved_rows.T @ one.half + size * normal @ learnt
            variance = own - (solved_rows * solved_rows).sum(0) - (learnt * learnt).sum(0)
            deviation = size * np.sqrt(np.maximum(variance, 1e-12))
            found = Prediction(self.centre + self.scale * mean, self.scale * deviation)
            yield float(weight), self.centre + self.scale * outcomes, found


@dataclass(frozen=True)
class _Fitted:
    """One setting on the trials: how well it explains them, and what its predictions need."""

    evidence: float
    settings: Settings
    unit: float
    factor: np.ndarray  # of Cholesky, [n, n]
    half: np.ndarray  # its inverse times the figures, [n]
    size: float
