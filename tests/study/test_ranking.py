"""Rankings: order, ties, front, and the vectorised reward against the scalar one."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdnas.study.ranked_rows import rank
from kdnas.study.ranking import LOSS_NOISE, Figures, noises, on_front, rewards, ties
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


def figures(count: int = 1, **changed) -> Figures:
    """`count` done trials of loss 0.2 and 5 ms beside a teacher's 30; keywords replace columns."""
    columns = {
        "number": np.arange(count), "done": np.ones(count, bool), "scored": np.ones(count, bool),
        "loss": np.full(count, 0.2), "latency_ms": np.full(count, 5.0), "told_ms": np.full(count, 5.0),
        "low_ms": np.full(count, np.nan), "high_ms": np.full(count, np.nan), "teacher_latency_ms": np.full(count, 30.0),
        "spread": np.full(count, np.nan), "repeats": np.zeros(count),
        "rung": np.full(count, np.nan), "miss": np.zeros(count),
    }  # fmt: skip
    return Figures(**columns | {name: np.array(value) for name, value in changed.items()})


def test_noise_is_the_stated_one_of_the_loss_and_the_interval_of_the_latency():
    reward_of = np.array([0.7])
    of_loss = 1.96 * LOSS_NOISE * 0.2 / (1 - 0.2)  # a share of the reward
    assert noises(figures(), reward_of, -0.06) == pytest.approx(0.7 * of_loss)
    timed = figures(low_ms=[4.0], high_ms=[6.0])
    assert noises(timed, reward_of, 0.0) == pytest.approx(0.7 * of_loss)
    assert noises(timed, reward_of, -0.5) == pytest.approx(0.7 * np.hypot(of_loss, 0.5 * (1.0 / 5.0)))
    assert noises(timed, -reward_of, -0.5) == pytest.approx(0.7 * np.hypot(of_loss, 0.5 * (1.0 / 5.0)))


def test_noise_of_the_loss_shrinks_with_the_root_of_the_evaluations():
    found = noises(figures(2, spread=[0.03, 0.03], repeats=[0, 3]), np.ones(2), 0.0)
    assert found == pytest.approx([1.96 * 0.03 * 0.25, 1.96 * 0.03 * 0.25 / 2])


def test_trials_without_repeats_take_the_root_mean_square_of_the_others_spreads():
    found = noises(figures(3, spread=[0.03, 0.04, np.nan]), np.ones(3), 0.0)
    assert found[2] == pytest.approx(1.96 * 0.25 * np.sqrt((0.03**2 + 0.04**2) / 2))
    assert found[:2] == pytest.approx(1.96 * 0.25 * np.array([0.03, 0.04]))  # those with repeats keep their own


def test_an_interval_without_end_adds_no_noise():
    timed = figures(2, low_ms=[1.0, -np.inf], high_ms=[np.inf, 1.0])
    assert noises(timed, np.ones(2), -1.0) == pytest.approx(noises(figures(2), np.ones(2), -1.0))


def test_noise_above_the_knee_is_that_of_the_tail():
    found = noises(figures(3, loss=[0.9, 1.0, 2.0]), np.ones(3), 0.0)
    assert found == pytest.approx(1.96 * LOSS_NOISE * np.array([0.9, 1.0, 2.0]) / 0.1)


def test_a_tie_counts_the_noise_of_both():
    # The second's own noise decides here: the best is known to the point, and their gap is 0.02.
    assert ties(np.array([0.80, 0.78]), np.array([0.0, 0.03])) == [False, True]
    assert ties(np.array([0.80, 0.78]), np.array([0.03, 0.0])) == [False, True]
    assert ties(np.array([0.80, 0.78]), np.array([0.0, 0.01])) == [False, False]
    assert ties(np.array([0.80, 0.78]), np.array([0.016, 0.016])) == [False, True]  # only both together reach it
    assert ties(np.array([0.75, 0.50]), np.array([0.25, 0.0])) == [False, True]  # exactly as far as the noise


def test_the_noise_of_the_second_candidate_makes_a_tie():
    exact = {"repeats": 3, "loss_spread": 1e-6}
    best = replace(made_row(0, loss=0.200), mean_loss=0.200, **exact)
    second = replace(made_row(1, loss=0.205), mean_loss=0.205, repeats=1, loss_spread=0.02)
    assert [s.tie for s in rank([best, second], 0.0, 0.6)] == [False, True]
    assert [s.tie for s in rank([best, replace(second, **exact)], 0.0, 0.6)] == [False, False]


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
    assert {s.number for s in rank(rows, -0.06, 0.6) if s.front} == {0, 1}


def test_equal_rewards_go_by_trial_number_whatever_the_order_of_rows():
    rows = [made_row(n) for n in (3, 1, 2)]
    assert [s.number for s in rank(rows, -0.06, 0.6)] == [1, 2, 3]


def plainly(rows, alpha, beta):
    """The ranking once more, written as plainly as can be: (number, rank, reward, tie, front), ranked ones first."""

    def whole(row):
        return row.loss is not None and row.latency_ms and row.teacher_latency_ms

    scores = {
        row.number: reward(row.loss, row.latency_ms, row.teacher_latency_ms, alpha, beta)
        for row in rows
        if row.state in ("done", "reused") and whole(row)
    }
    done = [row for row in rows if row.state == "done" and whole(row)]
    done.sort(key=lambda row: (-scores[row.number], row.number))
    found, best, noise = [], float("inf"), 0.0
    for place, row in enumerate(done, 1):
        value = scores[row.number]
        half = (row.latency_high_ms - row.latency_low_ms) / 2 / row.latency_ms
        own = value * np.hypot(1.96 * 0.01 * row.loss / (1 - min(row.loss, 0.9)), alpha * half)
        tie = best - value <= np.hypot(noise, own)
        if not tie:
            best, noise = value, own
        front = not any(
            (other.loss <= row.loss and other.latency_ms <= row.latency_ms)
            and (other.loss, other.latency_ms) != (row.loss, row.latency_ms)
            for other in done
        )
        found.append((row.number, place, value, tie, front))
    placed = {entry[0] for entry in found}
    rest = sorted(row.number for row in rows if row.number not in placed)
    return [*found, *((number, None, scores.get(number), False, False) for number in rest)]


@pytest.mark.parametrize(("alpha", "beta"), [(-0.06, 0.6), (0.0, 1.0), (-1.5, 2.0)])
@pytest.mark.parametrize("seed", range(4))
def test_a_ranking_agrees_with_a_naive_one(alpha, beta, seed):
    rows = made_rows(120, seed=seed)
    rows[5] = replace(rows[5], state="reused", loss=0.2)
    expected = plainly(rows, alpha, beta)
    found = rank(rows[::-1], alpha, beta)
    assert [(s.number, s.rank, s.tie, s.front) for s in found] == [(n, r, t, f) for n, r, _, t, f in expected]
    for s, (_, _, value, _, _) in zip(found, expected, strict=True):
        assert s.reward == (None if value is None else pytest.approx(value, rel=1e-12))
    assert any(s.tie for s in found) and any(s.front for s in found)


def test_of_several_rows_of_one_number_the_last_counts():
    found = rank([made_row(0, loss=0.5), made_row(1, loss=0.3), made_row(0, loss=0.1)], -0.06, 0.6)
    assert [(s.number, s.loss_used) for s in found] == [(0, 0.1), (1, 0.3)]


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
    code = f"import kdnas.study.filter, kdnas.study.ranked_rows, sys; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
