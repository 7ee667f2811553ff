"""Rankings: order, ties, front, and the vectorised reward against the scalar one."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdnas.study.ranking import LOSS_NOISE, on_front, pareto, rank, reward_noise, rewards
from kdnas.study.reward import reward
from tests.rows import made_row, made_rows

finite = st.floats(0.0, 3.0)
latencies = st.floats(0.01, 1e4)


@given(
    st.lists(st.tuples(finite, latencies, latencies), min_size=1, max_size=20), st.floats(-2, 0), st.floats(0.05, 10)
)
def test_arrays_of_rewards_equal_the_scalar_reward(points, alpha, beta):
    loss, latency, teacher = (np.array(column) for column in zip(*points, strict=True))
    found = rewards(loss, latency, teacher, alpha, beta)
    for value, point in zip(found, points, strict=True):
        assert value == pytest.approx(reward(*point, alpha, beta), rel=1e-12, abs=1e-300)


def test_the_knee_itself_scores_like_the_scalar():
    for loss in (0.9, np.nextafter(0.9, 0), np.nextafter(0.9, 1), 1.0, 30.0):
        (value,) = rewards(np.array([loss]), np.array([3.0]), np.array([9.0]), -0.06, 0.6)
        assert value == pytest.approx(reward(loss, 3.0, 9.0, -0.06, 0.6), rel=1e-12)


def test_best_first_then_unranked_by_number():
    rows = [
        made_row(0, loss=0.4),
        made_row(1, state="running", loss=None),
        made_row(2, loss=0.1),
        made_row(3, state="failed", loss=None, latency_ms=None),
        made_row(4, loss=0.2),
        made_row(5, state="pruned", loss=0.01),
    ]
    scored = rank(rows, -0.06, 0.6)
    assert [(s.number, s.rank) for s in scored] == [(2, 1), (4, 2), (0, 3), (1, None), (3, None), (5, None)]
    assert [s.number for s in scored if s.reward is None] == [1, 3, 5]
    assert scored[0].reward == pytest.approx(reward(0.1, 5.0, 30.0, -0.06, 0.6), rel=1e-12)


def test_a_reused_result_has_a_reward_but_takes_no_rank():
    scored = rank([made_row(0), made_row(1, state="reused", reused_from=0)], -0.06, 0.6)
    assert [s.rank for s in scored] == [1, None]
    assert scored[0].reward == scored[1].reward
    assert not scored[1].front


@pytest.mark.parametrize(
    "broken",
    [{"loss": None}, {"loss": float("nan")}, {"latency_ms": 0.0}, {"latency_ms": None}, {"teacher_latency_ms": None}],
)
def test_a_done_trial_without_a_whole_result_is_not_ranked(broken):
    scored = rank([made_row(0, **broken), made_row(1)], -0.06, 0.6)
    assert [(s.number, s.rank) for s in scored] == [(1, 1), (0, None)]


def test_repeats_rank_by_their_mean():
    lucky = made_row(0, loss=0.10, mean_loss=0.22, repeats=2, loss_spread=0.01)
    steady = made_row(1, loss=0.20)
    scored = rank([lucky, steady], -0.06, 0.6)
    assert [s.number for s in scored] == [1, 0]
    assert scored[1].loss_used == 0.22


def test_raw_loss_is_ranked_where_asked_for():
    rows = [made_row(0, loss=0.1, raw_loss=0.3), made_row(1, loss=0.2, raw_loss=0.1)]
    assert [s.number for s in rank(rows, -0.06, 0.6, "raw")] == [1, 0]
    assert rank(rows, -0.06, 0.6, "raw")[0].loss_used == 0.1


def test_alpha_decides_between_fast_and_good():
    good, fast = made_row(0, loss=0.10, latency_ms=20.0), made_row(1, loss=0.20, latency_ms=2.0)
    assert rank([good, fast], 0.0, 0.6)[0].number == 0
    assert rank([good, fast], -0.3, 0.6)[0].number == 1


def test_rewards_closer_than_their_noise_are_ties_with_the_best_of_their_group():
    rows = [made_row(0, loss=0.200), made_row(1, loss=0.201), made_row(2, loss=0.25), made_row(3, loss=0.2505)]
    assert [(s.number, s.tie) for s in rank(rows, -0.06, 0.6)] == [(0, False), (1, True), (2, False), (3, True)]


def test_a_wide_latency_interval_makes_ties_only_where_latency_counts():
    rows = [
        replace(made_row(0, loss=0.20), latency_low_ms=2.0, latency_high_ms=8.0),
        made_row(1, loss=0.22),
    ]
    assert [s.tie for s in rank(rows, 0.0, 0.6)] == [False, False]
    assert [s.tie for s in rank(rows, -0.3, 0.6)] == [False, True]


def test_a_measured_spread_replaces_the_stated_noise():
    close = [made_row(0, loss=0.200), made_row(1, loss=0.203)]
    assert rank(close, -0.06, 0.6)[1].tie
    exact = [replace(row, repeats=3, mean_loss=row.loss, loss_spread=1e-5) for row in close]
    assert not rank(exact, -0.06, 0.6)[1].tie
    # One repeated trial tells the spread of those that were not repeated.
    steady = made_row(2, loss=0.5, repeats=3, mean_loss=0.5, loss_spread=1e-5)
    assert not any(s.tie for s in rank([*close, steady], -0.06, 0.6))


def test_noise_grows_with_the_latency_interval():
    narrow = reward_noise(made_row(0), -0.06, 0.6)
    wide = reward_noise(made_row(0, latency_low_ms=1.0, latency_high_ms=9.0), -0.06, 0.6)
    assert narrow is not None and wide is not None and wide > narrow > 0
    value = reward(0.2, 5.0, 30.0, 0.0, 0.6)
    assert reward_noise(made_row(0), 0.0, 0.6) == pytest.approx(value * 1.96 * LOSS_NOISE * 0.2 / 0.8)


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=25))
def test_front_equals_the_definition(points):
    loss = np.array([float(p[0]) for p in points])
    latency = np.array([float(p[1]) for p in points])
    expected = [not any((q[0] <= p[0] and q[1] <= p[1]) and q != p for q in points) for p in points]
    assert on_front(loss, latency).tolist() == expected


@pytest.mark.parametrize("steps", [None, 40])
def test_front_of_many_equals_the_definition(steps):
    rng = np.random.default_rng(3)
    latency = rng.lognormal(2.0, 0.8, 3000)
    loss = 0.9 - 0.15 * np.log(latency) + rng.normal(0, 0.05, 3000)
    if steps:  # many equal ones
        latency, loss = np.round(latency), np.round(loss * steps) / steps
    no_worse = (loss <= loss[:, None]) & (latency <= latency[:, None])
    better = (loss < loss[:, None]) | (latency < latency[:, None])
    expected = ~(no_worse & better).any(axis=1)
    assert 1 < expected.sum() < 300
    assert (on_front(loss, latency) == expected).all()


def test_only_done_trials_stand_on_the_front():
    rows = [made_row(0, loss=0.3), made_row(1, loss=0.1, latency_ms=9.0), made_row(2, state="pruned", loss=0.01)]
    assert [row.number for row in pareto(rows)] == [0, 1]
    assert {s.number for s in rank(rows, -0.06, 0.6) if s.front} == {0, 1}


def test_equal_rewards_go_by_trial_number_whatever_the_order_of_rows():
    rows = [made_row(n) for n in (3, 1, 2)]
    assert [s.number for s in rank(rows, -0.06, 0.6)] == [1, 2, 3]


def test_nothing_to_rank():
    assert rank([], -0.06, 0.6) == []
    assert rank([made_row(0, state="running", loss=None)], -0.06, 0.6)[0].rank is None


def test_ranking_a_whole_search_keeps_every_row():
    rows = made_rows(500)
    scored = rank(rows, -0.06, 0.6)
    assert sorted(s.number for s in scored) == list(range(500))
    values = [s.reward for s in scored if s.rank is not None]
    assert values == sorted(values, reverse=True)
    assert [s.rank for s in scored if s.rank] == list(range(1, len(values) + 1))


def test_rankings_and_filters_load_nothing_heavy():
    heavy = "('torch', 'transformers', 'datasets', 'optuna')"
    code = f"import kdnas.study.filter, kdnas.study.ranking, sys; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
