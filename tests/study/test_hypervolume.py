"""The hypervolume: a worked example, what must hold for any points, and Optuna's own figure."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna._hypervolume import compute_hypervolume

from kdnas.study.hypervolume import REFERENCE, hypervolume, hypervolume_so_far

FIGURES = st.one_of(st.floats(-0.5, 1.5), st.sampled_from((0.0, 0.25, 0.5, 1.0, float("nan"), float("inf"))))
POINTS = st.lists(st.tuples(FIGURES, FIGURES), max_size=40)


def columns(points: list[tuple[float, float]]) -> tuple[np.ndarray, np.ndarray]:
    both = np.array(points, dtype=float).reshape(-1, 2)
    return both[:, 0], both[:, 1]


def test_a_worked_example() -> None:
    loss, ratio = np.array([0.5, 0.2, 0.8, 0.6]), np.array([0.5, 0.8, 0.1, 0.6])
    # 0.5 · 0.5, then 0.3 · 0.2 to its left, then 0.2 · 0.4 below it; the last point is dominated.
    assert hypervolume_so_far(loss, ratio) == pytest.approx([0.25, 0.31, 0.39, 0.39])
    assert hypervolume(loss, ratio) == pytest.approx(0.39)


@pytest.mark.parametrize("points", [[], [(1.0, 0.2)], [(0.2, 1.0)], [(float("nan"), 0.1)], [(2.0, 2.0)]])
def test_who_is_no_better_than_the_reference_covers_nothing(points: list[tuple[float, float]]) -> None:
    assert hypervolume(*columns(points)) == 0.0
    assert hypervolume_so_far(*columns(points)).tolist() == [0.0] * len(points)


@given(POINTS)
def test_it_is_optunas_figure_after_every_point(points: list[tuple[float, float]]) -> None:
    loss, ratio = columns(points)
    found = hypervolume_so_far(loss, ratio)
    for n in range(1, len(points) + 1):
        some = np.stack((loss[:n], ratio[:n]), axis=1)
        some = some[np.isfinite(some).all(axis=1) & (some < REFERENCE).all(axis=1)]
        wanted = compute_hypervolume(some, np.array(REFERENCE)) if len(some) else 0.0
        assert found[n - 1] == pytest.approx(wanted, abs=1e-9)
        assert hypervolume(loss[:n], ratio[:n]) == pytest.approx(wanted, abs=1e-9)


def test_many_points_are_as_good_as_few_at_a_time() -> None:
    rng = np.random.default_rng(3)
    loss, ratio = rng.random(9000) ** 0.2, rng.random(9000) ** 0.2
    found = hypervolume_so_far(loss, ratio)
    assert (np.diff(found) >= 0).all()
    for n in (1, 63, 64, 65, 700, 5000, 9000):
        assert found[n - 1] == pytest.approx(hypervolume(loss[:n], ratio[:n]))
