"""The reward: its formula, its tail, and figures at the ends of what a float holds."""

from __future__ import annotations

from math import exp, inf, isfinite, nan
from sys import float_info

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdnas.study.ranked_rows import rank
from kdnas.study.ranking import rewards
from kdnas.study.reward import Exchange, exchange, quality, reward
from kdnas.study.spec_part import FLOOR
from tests.rows import made_row

TINY = 5e-324


def test_the_reward_is_the_formula() -> None:
    assert reward(0.25, 3.0, 30.0, -0.06, 0.6) == 0.75 * (3.0 / (0.6 * 30.0)) ** -0.06
    assert reward(0.25, 3.0, 30.0, 0.0, 0.6) == 0.75
    assert reward(0.0, 18.0, 30.0, -2.0, 0.6) == 1.0
    assert reward(0.5, 36.0, 30.0, -1.0, 0.6) == pytest.approx(0.25)


def test_quality_falls_steadily_and_stays_positive() -> None:
    assert quality(-0.5) == 1.5
    assert quality(0.9) == 1 - 0.9
    assert quality(1.0) == pytest.approx(0.1 * exp(-1))
    assert quality(1.9) == pytest.approx(0.1 * exp(-10))
    assert quality(0.9 + 1e-6) == pytest.approx(0.1 - 1e-6, rel=1e-9)  # the slope is the same on both sides


@pytest.mark.parametrize(
    "figures",
    [
        (0.2, 0.0, 1.0, -0.06, 0.6), (0.2, 1.0, 0.0, -0.06, 0.6), (0.2, 1.0, 1.0, -0.06, 0.0),
        (0.2, -1.0, -1.0, -0.06, 0.6), (nan, 1.0, 1.0, -0.06, 0.6), (inf, 1.0, 1.0, -0.06, 0.6),
        (0.2, inf, 1.0, -0.06, 0.6), (0.2, 1.0, inf, -0.06, 0.6), (0.2, nan, 1.0, -0.06, 0.6),
        (0.2, 1.0, 1.0, nan, 0.6), (0.2, 1.0, 1.0, -inf, 0.6), (0.2, 1.0, 1.0, -0.06, inf), (0.2, 1.0, 1.0, -0.06, nan),
    ],
)  # fmt: skip
def test_figures_without_a_reward_are_refused_alone_and_nan_in_an_array(figures: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=r"must be positive|the loss is"):
        reward(*figures)
    loss, latency, teacher, alpha, beta = figures
    assert np.isnan(rewards(np.array([loss]), np.array([latency]), np.array([teacher]), alpha, beta)).all()


@pytest.mark.parametrize(
    ("figures", "expected"),
    [
        ((0.5, 1.0, 1.0, -1.0, TINY), 0.5 * TINY),
        ((0.5, 1.0, 0.4, -1.0, TINY), 0.0),  # β times the teacher's latency is below every float
        ((0.5, 1.0, 0.4, 0.0, TINY), 0.5),
        ((0.5, TINY, 1.0, -2.0, 1.0), 0.5 * float_info.max),
        ((0.5, 1e-200, 1e300, -0.5, 1.0), 0.5e250),
        ((0.5, 1e300, TINY, -1.0, 1.0), 0.0),
        ((-1e308, 1e-5, 1e5, -2.0, 1.0), float_info.max),
        ((1e308, 1.0, 1.0, -0.06, 1.0), 0.0),
    ],
)
def test_a_reward_at_the_ends_of_the_floats_is_its_limit(figures: tuple[float, ...], expected: float) -> None:
    assert reward(*figures) == pytest.approx(expected, rel=1e-9)
    loss, latency, teacher, alpha, beta = figures
    (of_arrays,) = rewards(np.array([loss]), np.array([latency]), np.array([teacher]), alpha, beta)
    assert of_arrays == pytest.approx(reward(*figures), rel=1e-9)


any_float = st.one_of(st.floats(), st.sampled_from([TINY, 2.2e-308, 1e308, -1e308, 0.0, -0.0, inf, -inf, nan]))


@given(st.lists(st.tuples(any_float, any_float, any_float), min_size=1, max_size=8), any_float, any_float)
def test_a_ranking_survives_any_stored_number(points: list[tuple[float, ...]], alpha: float, beta: float) -> None:
    rows = [
        made_row(n, loss=loss, latency_ms=latency, teacher_latency_ms=teacher, latency_low_ms=teacher,
                 latency_high_ms=latency, loss_spread=loss)
        for n, (loss, latency, teacher) in enumerate(points)
    ]  # fmt: skip
    found = rank(rows, alpha, beta)
    assert sorted(s.number for s in found) == list(range(len(points)))
    for s in found:
        assert s.reward is None or (isfinite(s.reward) and s.rank is not None)
        try:
            alone = reward(s.row.loss, s.row.latency_ms, s.row.teacher_latency_ms, alpha, beta)  # type: ignore[arg-type]
        except ValueError:
            assert s.reward is None and s.rank is None
        else:
            assert s.reward == pytest.approx(alone, rel=1e-6, abs=1e-300)
    ranked = [s.reward for s in found if s.rank is not None]
    assert ranked == sorted(ranked, reverse=True)  # type: ignore[type-var]


@given(st.floats(0.0, 3.0), st.floats(1e-6, 1e9), st.floats(1e-6, 1e9), st.floats(-2, 0), st.floats(FLOOR, 10))
def test_what_a_spec_allows_needs_no_limit(loss: float, latency: float, teacher: float, alpha: float, beta: float):
    assert reward(loss, latency, teacher, alpha, beta) == quality(loss) * (latency / (beta * teacher)) ** alpha


def test_an_exchange_says_the_loss_that_speed_outweighs() -> None:
    found = exchange(-0.06)
    assert found == Exchange(10.0, 0.2, 0.8 * (1 - 10**-0.06))
    assert str(found) == "10 times faster is worth 0.103 of loss (at a loss of 0.2)"
    assert str(exchange(0.0)) == "10 times faster is worth nothing: only the loss counts"
    assert str(exchange(0.1, faster=2.5, reference_loss=0.5)) == (
        "2.5 times faster costs 0.048 of loss (at a loss of 0.5)"
    )
    # The reward of the reference student equals that of the faster, worse one.
    slow = reward(0.2, 10.0, 30.0, -0.06, 0.6)
    assert reward(0.2 + found.loss_worth, 1.0, 30.0, -0.06, 0.6) == pytest.approx(slow)


@pytest.mark.parametrize("alpha", [1e308, -1e308, inf, -inf, nan])
def test_an_exchange_survives_any_stored_alpha(alpha: float) -> None:
    assert str(exchange(alpha)).startswith("10 times faster ")
