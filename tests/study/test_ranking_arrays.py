"""The arrays behind a ranking: their types and order, what is narrowed first, and figures at the ends of the floats."""

from __future__ import annotations

import warnings
from math import inf, nan

import numpy as np
import pytest

from kdnas.study.ranking import MANY, Figures, _plainly_beaten, noises, on_front, rewards, stand, ties
from kdnas.study.reward import reward


def figures(**changed: list[float]) -> Figures:
    """Four trials, of which the second is reused and the fourth has no latency; keywords replace columns."""
    columns = {
        "number": [7, 3, 5, 9], "done": [True, False, True, True], "scored": [True, True, True, True],
        "loss": [0.3, 0.1, 0.2, 0.1], "latency_ms": [5.0, 5.0, 5.0, nan], "told_ms": [5.0, 5.0, 5.0, nan],
        "low_ms": [nan] * 4, "high_ms": [nan] * 4,
        "teacher_latency_ms": [30.0] * 4, "spread": [nan] * 4, "repeats": [0.0] * 4,
        "rung": [nan] * 4, "miss": [0.0] * 4,
    }  # fmt: skip
    return Figures(**{name: np.array(values) for name, values in {**columns, **changed}.items()})


def test_a_standing_holds_whole_ranks_and_plain_truth_and_the_order_of_the_ranked() -> None:
    found = stand(figures(), -0.06, 0.6)
    assert found.order.tolist() == [2, 0] and found.rank.tolist() == [2, 0, 1, 0]
    assert found.tie.tolist() == [False] * 4 and found.front.tolist() == [False, False, True, False]
    # Screens print ranks and negate the others: `~` of a number would be another number.
    assert found.rank.dtype == np.int64 and found.tie.dtype == found.front.dtype == np.bool_
    assert np.isnan(found.reward).tolist() == [False, False, False, True]
    assert on_front(np.zeros(0), np.zeros(0)).dtype == on_front(np.zeros(2), np.zeros(2)).dtype == np.bool_


def test_equal_points_stand_on_the_front_together_wherever_they_lie() -> None:
    loss, latency = np.array([0.9, 0.5, 0.5, 0.1, 0.1, 0.5]), np.array([1.0, 2.0, 2.0, 3.0, 3.0, 2.5])
    assert on_front(loss, latency).tolist() == [True, True, True, True, True, False]


def test_of_many_points_few_are_left_to_sort_and_none_of_the_front_is_lost() -> None:
    rng = np.random.default_rng(0)
    latency = rng.lognormal(2.0, 0.8, 20 * MANY)
    loss = 0.9 - 0.15 * np.log(latency) + rng.exponential(0.1, len(latency))
    beaten = _plainly_beaten(loss, latency)
    assert beaten.dtype == np.bool_ and 0.5 * len(latency) < beaten.sum() < len(latency)
    assert not (beaten & on_front(loss, latency)).any()
    assert not _plainly_beaten(loss[: MANY - 1], latency[: MANY - 1]).any()  # few are sorted at once


def test_figures_without_a_result_cost_no_warning() -> None:
    """A warning would be printed over the screen; an interval or a result that is missing is nothing unusual."""
    odd = figures(
        latency_ms=[0.0, 5.0, inf, 5e-324], low_ms=[1.0, inf, nan, 1.0], high_ms=[1.0, inf, 1.0, 1e308],
        loss=[1e308, -1e308, inf, 0.2], spread=[1e200, nan, inf, 0.1],
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = rewards(odd.loss, odd.latency_ms, odd.teacher_latency_ms, -1.5, 1e-300)
        noises(odd, found, -1.5)
        ties(np.array([2.0, 1.0]), np.array([1e200, 1e200]))


def test_an_interval_whose_ends_are_the_wrong_way_round_adds_no_noise_without_end() -> None:
    plain = noises(figures(), np.ones(4), -1.0)
    for low, high in ((inf, 1.0), (1.0, inf), (nan, 1.0)):
        found = noises(figures(low_ms=[low] * 4, high_ms=[high] * 4), np.ones(4), -1.0)
        assert found == pytest.approx(plain)


def test_what_floats_hold_exactly_comes_out_exactly() -> None:
    """Only where a step of the formula leaves the floats is it taken by logarithms, which round."""
    for latency, alpha, speed in (
        (8.0, -2.0, 64.0),
        (8.0, -3.0, 512.0),
        (512.0, -2.0, 2.0**-6),
        (512.0, -3.0, 2.0**-9),
    ):
        (found,) = rewards(np.array([0.5]), np.array([latency]), np.array([128.0]), alpha, 0.5)
        assert found == reward(0.5, latency, 128.0, alpha, 0.5) == 0.5 * speed


@pytest.mark.parametrize(
    ("latency", "teacher", "alpha", "speed"),
    [(1e-200, 1e300, 0.5, 1e-250), (1e300, 1e-200, -0.5, 1e-250), (1e300, 1e-200, 0.5, 1e250)],
)
def test_a_ratio_that_no_float_holds_has_a_power_that_one_does(
    latency: float, teacher: float, alpha: float, speed: float
) -> None:
    (of_arrays,) = rewards(np.array([0.5]), np.array([latency]), np.array([teacher]), alpha, 1.0)
    for found in (reward(0.5, latency, teacher, alpha, 1.0), of_arrays):
        assert found / speed == pytest.approx(0.5, rel=1e-9)


def test_rewards_without_their_noise_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        ties(np.ones(3), np.ones(2))
