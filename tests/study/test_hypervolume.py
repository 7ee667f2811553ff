"""The hypervolume: a worked example, what must hold for any points, and Optuna's own figure."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna._hypervolume import compute_hypervolume

from kdnas.study.constraints import Limits
from kdnas.study.hypervolume import REFERENCE, gains, hypervolume, hypervolume_so_far, loss_and_ratio
from kdnas.study.ranking import LossKind
from kdnas.study.trial_columns import Board
from tests.rows import made_row

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


@pytest.mark.parametrize("reference", [(1.5, 0.6), (0.6, 1.5)])
def test_the_reference_need_not_be_the_same_in_both_directions(reference: tuple[float, float]) -> None:
    rng = np.random.default_rng(4)
    loss, ratio = np.round(rng.random((2, 40)) * 2, 1)
    found = hypervolume_so_far(loss, ratio, reference)
    for n in range(1, 41):
        some = np.stack((loss[:n], ratio[:n]), axis=1)
        some = some[(some < reference).all(axis=1)]
        wanted = compute_hypervolume(some, np.array(reference)) if len(some) else 0.0
        assert found[n - 1] == pytest.approx(wanted) == hypervolume(loss[:n], ratio[:n], reference)
    new = rng.random((2, 20)) * 2
    grown = [hypervolume(np.append(loss, x), np.append(ratio, y), reference) - found[-1] for x, y in new.T]
    assert gains((loss, ratio), *new, reference) == pytest.approx(grown, abs=1e-12)


def test_a_boards_points_are_normalised_losses_and_shares_of_the_teachers_time() -> None:
    rows = [
        made_row(0, loss=0.2, raw_loss=0.05, latency_ms=5.0, teacher_latency_ms=20.0),
        made_row(1, loss=0.3, raw_loss=0.01, latency_ms=0.5, teacher_latency_ms=0.8),
        made_row(2, loss=0.4, raw_loss=0.02, latency_ms=None),
        made_row(3, loss=0.5, raw_loss=0.03, teacher_latency_ms=None),
        made_row(4, loss=None, raw_loss=None, latency_ms=5.0, teacher_latency_ms=0.0),
        made_row(5, loss=0.6, raw_loss=0.04, latency_ms=0.0),
    ]
    for kind in ("normalised", "raw"):
        board = Board(-0.06, 0.6, kind)  # type: ignore[arg-type]
        board.update(rows)
        loss, ratio = loss_and_ratio(board, np.array([5, 0, 1, 2, 3, 4]))
        np.testing.assert_array_equal(loss, [0.6, 0.2, 0.3, 0.4, 0.5, np.nan])
        np.testing.assert_array_equal(ratio, [np.nan, 0.25, 0.5 / 0.8, np.nan, np.nan, np.nan])


@pytest.mark.parametrize("kind", ["normalised", "raw"])
def test_a_loss_that_was_measured_again_is_the_mean(kind: LossKind) -> None:
    board = Board(-0.06, 0.6, kind)
    board.update([made_row(0, loss=0.2, repeats=2, mean_loss=0.25, mean_raw_loss=0.07, loss_spread=0.01)])
    assert loss_and_ratio(board, np.array([0]))[0].tolist() == [0.25]


def test_the_ratio_is_what_was_measured_whatever_milliseconds_are_told_for() -> None:
    board = Board(-0.06, 0.6, limits=Limits((), 10.0))
    board.update([made_row(0, latency_ms=6.0, teacher_latency_ms=30.0)])
    assert loss_and_ratio(board, np.array([0]))[1].tolist() == [pytest.approx(0.2)]
