"""The surrogate against its definition: the kernel written out, and Gaussian regression by inverse matrices."""

from __future__ import annotations

import numpy as np
import pytest

from kdnas.study.space import Dimension, SearchSpace
from kdnas.study.surrogate import KEPT, LEVEL, UNLIKE, Places, Settings, Surrogate, settings

SPACE = SearchSpace(
    (
        Dimension("layers", (1, 2, 4, 6)),
        Dimension("share", (0.0, 0.5, 0.6)),
        Dimension("act", ("gelu", "relu", "silu"), ordered=False),
        Dimension("bias", (False, True), ordered=False),
        Dimension("heads", (12,)),
    )
)
CANDIDATES = list(SPACE.candidates())
PLACES = Places(SPACE, CANDIDATES)
# Half way between the place in the list and that of the logarithm; without logarithms the place in the list.
LAYERS = [0.0, (1 / 3 + np.log(2) / np.log(6)) / 2, (2 / 3 + np.log(4) / np.log(6)) / 2, 1.0]
ALONG = {"layers": dict(zip((1, 2, 4, 6), LAYERS, strict=True)), "share": {0.0: 0.0, 0.5: 0.5, 0.6: 1.0}}
DIMENSIONS = [d for d in SPACE.dimensions if len(d.choices) > 1]


def test_sizes_lie_between_their_order_and_their_ratio_and_choices_apart_from_each_other() -> None:
    for row, candidate in zip(Places(SPACE, CANDIDATES).points, CANDIDATES, strict=True):
        assert row[0] == pytest.approx(ALONG["layers"][candidate["layers"]])
        assert row[1] == ALONG["share"][candidate["share"]]
        assert row[2:].tolist() == [("gelu", "relu", "silu").index(candidate["act"]), candidate["bias"], 0.0]
    two = SearchSpace((Dimension("n", (3, 5)), Dimension("act", ("gelu",), ordered=False)))
    assert Places(two, [{"n": 3, "act": "gelu"}, {"n": 5, "act": "gelu"}]).points.tolist() == [[0.0, 0.0], [1.0, 0.0]]
    low = SearchSpace((Dimension("n", (0.25, 0.5, 1)),))
    assert Places(low, [{"n": 0.5}]).points.tolist() == [[0.5]]


def test_choices_without_an_order_have_a_column_each() -> None:
    apart = PLACES.apart()
    assert apart.shape == (len(CANDIDATES), 3 + 3 + 2)
    for row, candidate in zip(apart, CANDIDATES, strict=True):
        chosen = [candidate["act"] == act for act in ("gelu", "relu", "silu")]
        chosen += [candidate["bias"] is bias for bias in (False, True)]
        assert row[3:].tolist() == [UNLIKE * one for one in chosen]
        assert row[0] == pytest.approx(ALONG["layers"][candidate["layers"]])


def kernel(s: Settings) -> np.ndarray:
    """Of all candidates, from a table of each dimension's choices."""
    found = np.ones((len(CANDIDATES), len(CANDIDATES)))
    for d, dimension in enumerate(DIMENSIONS):
        same = np.empty((len(dimension.choices), len(dimension.choices)))
        for i, a in enumerate(dimension.choices):
            for j, b in enumerate(dimension.choices):
                same[i, j] = float(a == b) - 1 / len(dimension.choices)
                if dimension.ordered:
                    x, y = ALONG[dimension.name][a], ALONG[dimension.name][b]
                    smooth = np.exp(-((x - y) ** 2) / (2 * s.length[d] ** 2))
                    same[i, j] = (1 - s.curve[d]) * (2 * x - 1) * (2 * y - 1) + s.curve[d] * smooth
        which = [dimension.choices.index(c[dimension.name]) for c in CANDIDATES]
        found *= 1 + s.strength[d] * same[np.ix_(which, which)]
    return found


@pytest.mark.parametrize("scale", [1.0, 0.01, 30.0])
def test_predictions_are_gaussian_regression_averaged_over_the_settings(scale: float) -> None:
    known = np.random.default_rng(2).permutation(len(CANDIDATES))[:9]
    figures = scale * np.random.default_rng(3).normal(2.0, 1.0, 9)
    y = (figures - figures.mean()) / figures.std()
    found = []
    for s in settings(PLACES.width):
        whole = kernel(s)
        covariance = LEVEL + whole / np.mean(np.diag(whole)[known])
        own = covariance[np.ix_(known, known)] + s.noise * np.eye(9)
        inverse = np.linalg.inv(own)
        size = (y @ inverse @ y + 2) / (9 + 2)  # two trials' worth at 1
        evidence = -0.5 * np.linalg.slogdet(own)[1] - 0.5 * (9 + 2) * np.log(size)
        mean = covariance[:, known] @ inverse @ y
        left = np.diag(covariance) - np.sum(covariance[:, known] @ inverse * covariance[:, known], axis=1)
        found.append((evidence, mean, size * left))
    best = sorted(found, key=lambda one: -one[0])[:KEPT]
    weights = np.exp([evidence - best[0][0] for evidence, _, _ in best])
    weights /= weights.sum()
    mean = sum(w * m for w, (_, m, _) in zip(weights, best, strict=True))
    variance = sum(w * (v + (m - mean) ** 2) for w, (_, m, v) in zip(weights, best, strict=True))
    told = Surrogate(PLACES, known, figures).predict(np.arange(len(CANDIDATES)))
    np.testing.assert_allclose(told.mean, figures.mean() + figures.std() * mean, rtol=1e-6)
    np.testing.assert_allclose(told.deviation, figures.std() * np.sqrt(variance), rtol=1e-4)


def test_equal_figures_are_told_as_they_are_with_the_deviation_of_the_unit() -> None:
    one, two = (Surrogate(PLACES, np.arange(3), np.full(3, value)) for value in (2.0, 5.0))
    assert one.scale == two.scale == 1.0
    assert one.predict(np.arange(9)).mean == pytest.approx(2.0)
    np.testing.assert_allclose(one.predict(np.arange(9)).deviation, two.predict(np.arange(9)).deviation)
