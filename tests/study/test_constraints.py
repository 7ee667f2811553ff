"""Constraints: what keeps them, what misses them and by how much, how ranks and front follow, what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdnas.study.constraints import UNKNOWN, Limits, figures, limits_of
from kdnas.study.filter import parse
from kdnas.study.ranked_rows import missed, nearest_of, passing, rank
from kdnas.study.ranking import misses
from kdnas.study.spec import from_store, from_values
from kdnas.study.spec_differences import differences
from kdnas.study.spec_flags import assigned, command, overlay
from kdnas.study.spec_toml import to_toml
from kdnas.study.trial_columns import Board
from kdnas.system.errors import BadOptionError
from tests.rows import made_row, made_rows

sizes = st.floats(0.01, 1e6)
maybe = st.none() | sizes
given_limits = st.fixed_dictionaries(
    {},
    optional={
        "max_latency_ms": sizes,
        "min_speedup": sizes,
        "max_parameters": st.integers(1, 10**9),
        "max_size_mib": sizes,
        "max_loss": sizes,
    },
)


@given(given_limits, maybe, maybe, maybe, st.none() | st.integers(0, 10**9), maybe)
def test_arrays_and_single_figures_agree(
    bounds: dict[str, Any],
    loss: float | None,
    latency: float | None,
    teacher: float | None,
    parameters: int | None,
    reference: float | None,
) -> None:
    limits = limits_of(bounds, reference)
    told = figures(
        loss=loss, latency_ms=latency, teacher_latency_ms=teacher, parameters=parameters, reference_ms=reference
    )

    def one(value: float | None) -> np.ndarray:
        return np.array([np.nan if value is None else value], dtype=float)

    found = misses(
        limits,
        loss=one(loss),
        latency_ms=one(latency),
        teacher_latency_ms=one(teacher),
        parameters=one(parameters),
    )
    assert found[0] == pytest.approx(limits.miss(told))
    assert (found[0] > 0) == bool(limits.miss(told))
    assert bool(limits.told(told)) == bool(limits.miss(told))


@given(sizes, sizes)
def test_the_sign_says_whether_a_bound_is_kept_and_the_size_by_which_share_it_is_missed(
    value: float, bound: float
) -> None:
    most = limits_of({"max_loss": bound}, None).violations(figures(loss=value))["max_loss"]
    assert (most <= 0) == (value <= bound) and most == pytest.approx(value / bound - 1, rel=1e-6, abs=1e-9)
    least = limits_of({"min_speedup": bound}, None).violations(figures(latency_ms=1.0, teacher_latency_ms=value))
    assert (least["min_speedup"] <= 0) == (value >= bound)


def test_a_figure_that_is_lacking_counts_as_missed_by_its_whole_bound() -> None:
    limits = limits_of({"max_parameters": 5, "max_loss": 0.2}, None)
    assert limits.violations(figures(loss=float("nan"))) == {"max_parameters": UNKNOWN, "max_loss": UNKNOWN}
    assert limits.told(figures(loss=0.1)) == "no parameters for max_parameters 5"


def test_a_latency_is_bounded_as_it_is_shown() -> None:
    """Both times were 20 % longer at this trial: what was measured is the ratio."""
    limits = limits_of({"max_latency_ms": 5.0}, 30.0)
    assert not limits.miss(figures(latency_ms=6.0, teacher_latency_ms=36.0, reference_ms=30.0))
    assert limits.miss(figures(latency_ms=6.0, teacher_latency_ms=30.0, reference_ms=30.0)) == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("bounds", "values", "words"),
    [
        ({"max_latency_ms": 5}, {"latency_ms": 5.6}, "5.6 ms for at most 5"),
        ({"max_latency_ms": 5}, {"latency_ms": 5.0004}, "5.0004 ms for at most 5"),
        ({"max_size_mib": 20}, {"parameters": 8_000_000}, "30.5 MiB for at most 20"),
        ({"max_parameters": 2_000_000}, {"parameters": 3_100_000}, "3,100,000 parameters for at most 2,000,000"),
        ({"min_speedup": 4}, {"latency_ms": 10, "teacher_latency_ms": 30}, "3× for at least 4"),
        ({"max_loss": 0.2, "max_latency_ms": 9}, {"loss": 0.31, "latency_ms": 8}, "loss 0.31 for at most 0.2"),
    ],
)
def test_what_a_trial_misses_in_words(bounds: dict[str, Any], values: dict[str, Any], words: str) -> None:
    assert limits_of(bounds, None).told(figures(**values)) == words


BOUND = limits_of({"max_latency_ms": 5.0, "max_loss": 0.4}, None)


@settings(max_examples=40)
@given(st.integers(0, 100), st.integers(0, 40), st.floats(0.5, 12), st.floats(0.1, 0.9))
def test_what_keeps_the_constraints_ranks_before_what_misses_them(
    seed: int, count: int, latency: float, loss: float
) -> None:
    limits = limits_of({"max_latency_ms": latency, "max_loss": loss}, None)
    scored = rank(made_rows(count, seed), -0.06, 0.6, limits=limits)
    ranked = [s for s in scored if s.rank is not None]
    assert [s.rank for s in ranked] == list(range(1, len(ranked) + 1))
    kept = [s for s in ranked if not s.infeasible]
    assert ranked[: len(kept)] == kept
    others = ranked[len(kept) :]
    assert [s.miss for s in others] == sorted(s.miss or 0.0 for s in others)
    assert not any(s.tie for s in others)
    if kept:
        assert not any(s.front for s in others)
        alone = {s.number: s for s in rank([s.row for s in kept], -0.06, 0.6)}
        assert [(s.number, s.rank, s.tie, s.front) for s in kept] == [
            (s.number, s.rank, s.tie, s.front) for s in alone.values()
        ]
        assert nearest_of(scored, limits) == ""
    elif ranked:
        assert any(s.front for s in others)
        assert nearest_of(scored, limits).startswith(f"nearest: trial {ranked[0].number}, ")
    for s in scored:
        assert bool(missed(s, limits)) == s.infeasible and (s.miss is None) == (s.reward is None)


@settings(max_examples=30)
@given(st.integers(0, 30), st.floats(0.5, 12), st.floats(-2, 0), st.integers(1, 12))
def test_another_alpha_ranks_under_the_same_constraints(seed: int, latency: float, alpha: float, count: int) -> None:
    rows, limits = made_rows(30, seed), limits_of({"max_latency_ms": latency}, None)
    board = Board(-0.06, 0.6, limits=limits)
    board.update(rows)
    places, _ = board.best_for(alpha, 0.6, count)
    expected = [s.number for s in rank(rows, alpha, 0.6, limits=limits) if s.rank is not None][:count]
    assert board.numbers[places].tolist() == expected


def test_other_constraints_rank_the_same_board_anew() -> None:
    board = Board(-0.06, 0.6)
    board.update([made_row(0, loss=0.1, latency_ms=9.0), made_row(1, loss=0.3, latency_ms=4.0)])
    assert [s.number for s in board.best(2)] == [0, 1] and board.standing.best == 0
    board.rescore(-0.06, 0.6, BOUND)
    assert [s.number for s in board.best(2)] == [1, 0] and board.standing.best == 1
    assert board.order("reward", descending=True).tolist() == [1, 0]
    assert board.order("reward").tolist() == [0, 1]
    board.rescore(-0.06, 0.6, limits_of({"max_latency_ms": 3.0}, None))
    assert board.standing.best is None and board.standing.nearest == 1
    board.update([replace(made_row(2), state="running", loss=None)])
    assert np.isnan(board.standing.miss[2])


def test_a_filter_knows_what_keeps_the_constraints() -> None:
    rows = [made_row(0, latency_ms=9.0), made_row(1, latency_ms=4.0), made_row(2, state="running", loss=None)]
    scored = rank(rows, -0.06, 0.6, limits=BOUND)
    for text, numbers in (("is:feasible", {1}), ("is:infeasible", {0}), ("not is:feasible", {0, 2})):
        assert {s.number for s in passing(parse(text), scored)} == numbers
    free = rank(rows, -0.06, 0.6)
    assert {s.number for s in passing(parse("is:feasible"), free)} == {0, 1}


# ------------------------------------------------------------------------------------------------------- the spec


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("max_latency_ms", "5ms", "'5ms' is no number. Give a number of more than 0, as in 5 (milliseconds)"),
        ("max_size_mib", "20MB", "'20MB' is no number. Give a number of more than 0, as in 20 (MiB)"),
        ("max_parameters", "2M", "'2M' is no whole number. Give a whole number of at least 1, as in 2000000"),
        ("max_latency_ms", -5, "-5 is out of range. Give a number of more than 0"),
        ("max_latency_ms", 0, "0 is out of range."),
        ("max_loss", float("nan"), "nan is out of range."),
        ("min_speedup", float("inf"), "inf is out of range."),
        ("max_parameters", 2.5, "2.5 is no whole number."),
        ("max_latency", 5, "There is no setting constraints.max_latency. Did you mean 'max_latency_ms'?"),
    ],
)
def test_a_bad_bound_says_which_number_is_wanted(field: str, value: object, words: str) -> None:
    with pytest.raises(BadOptionError) as raised:
        from_values({"constraints": {field: value}})
    assert words in str(raised.value) and raised.value.field == f"constraints.{field}"


def test_a_spec_of_before_is_the_same_study() -> None:
    old = from_values({"name": "s"}).model_dump(mode="json")
    del old["constraints"]
    assert from_store(old) == from_values({"name": "s"}) and not differences(
        from_store(old), from_values({"name": "s"})
    )


def test_other_constraints_are_the_same_study() -> None:
    bounded = from_values({"name": "s", "constraints": {"max_loss": 0.2}})
    assert not differences(from_values({"name": "s"}), bounded)


def test_constraints_go_through_a_command_and_a_file() -> None:
    spec = from_values({"name": "s", "constraints": {"max_latency_ms": 5, "max_parameters": 2_000_000}})
    line = command(spec)
    assert "--max-latency-ms 5.0" in line and "--max-parameters 2000000" in line
    assert "[constraints]\nmax_latency_ms = 5.0\nmax_parameters = 2000000\n" in to_toml(spec)
    lifted = overlay(spec.model_dump(mode="json"), [assigned("constraints.max_latency_ms=")])
    assert from_values(lifted).constraints.max_latency_ms is None


def test_without_a_bound_there_are_no_limits() -> None:
    assert not limits_of(None, 3.0) and not limits_of({"max_loss": None}, None)
    assert Limits().miss({}) == 0


def test_every_miss_is_told_with_its_figure_for_one_time_of_the_teacher() -> None:
    """The row took 5 ms beside a teacher of 30 ms: 10 ms for a teacher of 60."""
    bounds = {"max_latency_ms": 8, "min_speedup": 7, "max_parameters": 2_000_000, "max_size_mib": 20, "max_loss": 0.1}
    limits = limits_of(bounds, 60.0)
    (scored,) = rank([made_row(7, teacher_latency_ms=30.0, raw_loss=0.3)], -0.06, 0.6, "normalised", limits)
    told = (
        "10 ms for at most 8, 6× for at least 7, 14,200,000 parameters for at most 2,000,000, "
        "54.2 MiB for at most 20, loss 0.2 for at most 0.1"
    )
    assert missed(scored, limits) == told
    assert nearest_of([scored], limits) == f"nearest: trial 7, {told}"
    assert scored.miss == pytest.approx(0.25 + 1 / 7 + 6.1 + (54.168701171875 - 20) / 20 + 1.0)
