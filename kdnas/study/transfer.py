"""What other studies' trials say of this one's candidates: a Gaussian process over both, which learns what to believe.

There are hypotheses of each study that lends, and one of none. By the former a figure is

    level + b · (m(x) + δ(x)).

m(x) is what the lent trials say of the candidate: the posterior mean of `kdnas.study.surrogate`'s process, in units of
their own spread; b is this study's spread in these units. δ is what they leave open: a share 1 − ρ² of the same kernel,
and what they do not tell of m (two tasks of one coregionalised process; E. Bonilla et al., 2008, "Multi-task Gaussian
process prediction"). Each hypothesis counts as much as it explains this study's own trials. So levels and spreads may
differ, and a study that explains nothing comes to count for nothing: then the own trials' surrogate predicts alone.

Pure numpy; knows no strategy and no store.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kdnas.study.surrogate import LEVEL, Places, Prediction, Settings, Surrogate, kernel, own_kernel, settings

ALIKE = (0.7, 0.9, 0.98)  # ρ, the correlation of what two studies find
SPREADS = np.asarray((0.2, 0.35, 0.6, 1.0, 1.6))  # b
NONE = 0.3  # probability, before any own trial, of that no study that lends says anything
SETTINGS = 24  # of the kernel, half of the surrogate's: each is tried with every correlation and weight
KEPT = 16  # hypotheses, those that explain the trials best, are asked for predictions


@dataclass(frozen=True)
class Lent:
    """Rows [n] of the places, at least two, and their figures in the study that lends them."""

    rows: np.ndarray
    figures: np.ndarray


class Transfer:
    """Fitted to the figure of some candidates and to what other studies found of it; asked for those of others."""

    def __init__(self, places: Places, known: np.ndarray, figures: np.ndarray, lent: Sequence[Lent]) -> None:
        """`known` [n] are the rows of `places` that `figures` [n] belong to, perhaps none; `lent` is not empty."""
        self.places, self.known = places, known
        self.alone = Surrogate(places, known, figures) if len(known) > 1 else None
        fits: list[_Fit] = []
        against_none = []
        for one in lent:
            own, none = self._of(one, figures)
            fits += own
            against_none.append(none)
        said = np.asarray([fit.evidence for fit in fits]) + np.log((1 - NONE) / len(lent))
        # Evidence of none is in units of one study that lends; in those of another it is the same but for its spread.
        none = against_none[0] + np.log(NONE) if self.alone is not None else -np.inf
        whole = _log_sum([*said, none])
        self.none = float(np.exp(none - whole))  # probability of that none says anything
        best = np.argsort(-said, kind="stable")[:KEPT]
        weights = np.exp(said[best] - said[best[0]])
        self.kept = [fits[i] for i in best]
        self.weights = (1 - self.none) * weights / weights.sum()

    def _of(self, lent: Lent, figures: np.ndarray) -> tuple[list[_Fit], float]:
        """The hypotheses of one study that lends, and the evidence of that none says anything. Evidences of several
        studies are of the figures themselves, in no study's units."""
        spread = float(lent.figures.std()) or 1.0
        standard = (lent.figures - lent.figures.mean()) / spread
        level = float(figures.mean()) if len(figures) else float(lent.figures.mean())
        own = (figures - level) / spread
        unit = -len(own) * np.log(spread * SPREADS)  # from figures to their units, for each b
        own = own[:, None] / SPREADS
        sources = [_Source.of(self.places, s, lent.rows, standard) for s in settings(self.places.width, SETTINGS)]
        prior = _log_sum([source.evidence for source in sources])
        fits, none = [], []
        for source in sources:
            base = source.kernel(self.places, self.known, self.known)
            each = -np.log(len(SPREADS)) + unit  # what all spreads have in common, and their units
            none.append(_log_sum(_explained(base, source.settings.noise, own)[0] + each) - np.log(len(sources)))
            across = source.across(self.places, self.known)
            left = own - (across.T @ source.half)[:, None]
            share = source.evidence - prior - np.log(len(ALIKE)) + each
            for alike in ALIKE:
                covariance = base - alike**2 * across.T @ across
                evidences, factor, halves, sizes = _explained(covariance, source.settings.noise, left)
                fits += [
                    _Fit(e, source, alike, across, factor, half, size, level, spread * b)
                    for e, b, half, size in zip(evidences + share, SPREADS, halves.T, sizes, strict=True)
                ]
        return fits, _log_sum(none)

    def predict(self, rows: np.ndarray) -> Prediction:
        """Of the candidates at rows [n] of the places."""
        means, squares, weights = [], [], list(self.weights)
        seen: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}  # what fits of one source have in common
        for fit in self.kept:
            source = fit.source
            if id(source) not in seen:
                own = LEVEL + own_kernel(self.places, [source.settings], rows)[0] / source.unit
                with_known = source.kernel(self.places, self.known, rows)
                seen[id(source)] = (source.across(self.places, rows), with_known, own)
            across, with_known, own = seen[id(source)]
            solved = np.linalg.solve(fit.factor, with_known - fit.alike**2 * fit.across.T @ across)
            mean = fit.level + fit.spread * (across.T @ source.half + solved.T @ fit.half)
            open_ = own - fit.alike**2 * (across * across).sum(0) - (solved * solved).sum(0)
            means.append(mean)
            squares.append(fit.spread**2 * fit.size * np.maximum(open_, 1e-12) + mean * mean)
        if self.alone is not None:
            found = self.alone.predict(rows)
            means.append(found.mean)
            squares.append(found.deviation**2 + found.mean**2)
            weights.append(self.none)
        mean = np.asarray(weights) @ np.asarray(means)
        variance = np.maximum(np.asarray(weights) @ np.asarray(squares) - mean * mean, 1e-12)
        return Prediction(mean, np.sqrt(variance))


@dataclass(frozen=True)
class _Source:
    """The lent trials under one setting of the kernel."""

    settings: Settings
    rows: np.ndarray
    unit: float
    evidence: float
    factor: np.ndarray  # of Cholesky, [lent, lent]
    half: np.ndarray  # its inverse times the lent figures, [lent]

    @staticmethod
    def of(places: Places, s: Settings, rows: np.ndarray, standard: np.ndarray) -> _Source:
        base = kernel(places, [s], rows, rows)[0]
        unit = float(np.mean(np.diag(base)))
        evidences, factor, halves, _ = _explained(LEVEL + base / unit, s.noise, standard[:, None])
        return _Source(s, rows, unit, float(evidences[0]), factor, halves[:, 0])

    def kernel(self, places: Places, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Of the new study's figures between the rows a [n] and b [m] of the places: float [n, m]."""
        return LEVEL + kernel(places, [self.settings], a, b)[0] / self.unit

    def across(self, places: Places, rows: np.ndarray) -> np.ndarray:
        """The inverse of the factor times the kernel of the lent trials with the rows [n] of the places: float
        [lent, n]."""
        shared = kernel(places, [self.settings], self.rows, rows)[0] / self.unit
        return np.asarray(np.linalg.solve(self.factor, shared))


def _explained(
    covariance: np.ndarray, noise: float, figures: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Of each column of figures [n, m]: the evidence [m], the factor [n, n], its inverse times them [n, m], the size of
    the process [m], as `kdnas.study.surrogate` has them."""
    covariance = covariance + noise * np.eye(len(covariance))
    factor = np.linalg.cholesky(covariance)
    halves = np.linalg.solve(factor, figures)
    degrees = len(figures) + 2.0
    sizes = ((halves * halves).sum(0) + 2.0) / degrees
    evidences = -np.log(np.diag(factor)).sum() - 0.5 * degrees * np.log(sizes)
    return evidences, factor, halves, sizes


@dataclass(frozen=True)
class _Fit:
    """One hypothesis of one study that lends, on the own trials."""

    evidence: float
    source: _Source
    alike: float
    across: np.ndarray  # of the source with the own trials, [lent, n]
    factor: np.ndarray
    half: np.ndarray
    size: float
    level: float
    spread: float


def _log_sum(values: Sequence[float] | np.ndarray) -> float:
    """The logarithm of the sum of exponentials."""
    most = np.max(values)
    return float(most + np.log(np.exp(np.asarray(values) - most).sum()))
