"""What constraints say of themselves and of a trial, which of them are known when, and those of a stored study."""

from __future__ import annotations

from dataclasses import replace
from math import log

import pytest

from kdnas.study.constraints import figures, limits_of, of_study
from kdnas.study.ranked_rows import nearest_miss, nearest_of, rank, rank_of
from tests.rows import made_row
from tests.study.test_export import study

ALL = {"max_latency_ms": 5.0, "min_speedup": 3, "max_parameters": 2_000_000, "max_size_mib": 20.5, "max_loss": 0.2}


def test_a_constraint_is_named_with_its_bound() -> None:
    told = "max_latency_ms 5, min_speedup 3, max_parameters 2,000,000, max_size_mib 20.5, max_loss 0.2"
    assert str(limits_of(ALL, None)) == told
    assert str(limits_of({}, None)) == ""


def test_a_figure_that_meets_its_bound_is_no_miss() -> None:
    limits = limits_of({"max_loss": 0.2, "max_latency_ms": 5.0}, None)
    assert limits.told(figures(loss=0.2, latency_ms=6.0)) == "6 ms for at most 5"
    assert limits.told(figures(loss=0.2, latency_ms=5.0)) == ""


@pytest.mark.parametrize(
    ("bound", "latency_ms", "words"),
    [
        (1234.5, 2000.0, "2,000 ms for at most 1,234.5"),
        (5000.0, 5612.0, "5,610 ms for at most 5,000"),
        (2_000_000.0, 3e6, "3,000,000 ms for at most 2,000,000"),
        (1000.0, 1600.0, "1,600 ms for at most 1,000"),
        (5.0, 1e15, "1e+15 ms for at most 5"),
        (0.12345678, 0.2, "0.2 ms for at most 0.123"),
    ],
)
def test_a_bound_is_told_whole_where_six_digits_are_enough(bound: float, latency_ms: float, words: str) -> None:
    assert limits_of({"max_latency_ms": bound}, None).told(figures(latency_ms=latency_ms)) == words


def test_sizes_are_known_before_anything_is_built_and_latencies_before_training() -> None:
    limits = limits_of(ALL, 30.0)
    sizes, times = limits.on_sizes(), limits.on_times()
    assert [one.field for one in sizes.limits] == ["max_parameters", "max_size_mib"]
    assert [one.field for one in times.limits] == ["max_latency_ms", "min_speedup"]
    assert sizes.reference_ms == times.reference_ms == 30.0
    assert set(sizes.limits) | set(times.limits) < set(limits.limits)


def test_samplers_are_told_misses_and_what_is_kept_by_the_logarithm_of_figure_and_bound() -> None:
    limits = limits_of({"max_loss": 0.2, "max_latency_ms": 5.0, "min_speedup": 4}, None)
    seen = figures(loss=0.1, latency_ms=10.0, teacher_latency_ms=30.0)
    assert limits.violations(seen) == {"max_loss": -0.5, "max_latency_ms": 1.0, "min_speedup": 0.25}
    expected = {"max_loss": log(0.1 / 0.2), "max_latency_ms": log(10 / 5), "min_speedup": log(4 / 3)}
    assert limits.scaled(seen) == pytest.approx(expected)


def test_a_latency_and_its_speedup_miss_by_the_same() -> None:
    for latency_ms in (2.0, 7.4, 7.6, 400.0):
        seen = figures(loss=0.1, latency_ms=latency_ms, teacher_latency_ms=30.0)
        both = limits_of({"max_latency_ms": 7.5, "min_speedup": 4}, None).scaled(seen)
        assert both["max_latency_ms"] == pytest.approx(both["min_speedup"])
        assert (both["max_latency_ms"] > 0) == (latency_ms > 7.5)


def test_figures_of_nothing_or_without_a_number_have_a_finite_miss() -> None:
    limits = limits_of({"max_loss": 0.2, "min_speedup": 4}, None)
    assert limits.scaled({"loss": 0.0, "speedup": None}) == {"max_loss": log(1e-3), "min_speedup": log(2)}
    assert limits.scaled({"loss": float("nan"), "speedup": 0.0}) == {"max_loss": log(2), "min_speedup": log(1e3)}


def test_a_studys_constraints_are_those_of_its_row() -> None:
    row = study()
    bounded = replace(row, spec={**row.spec, "constraints": {"max_latency_ms": 5.0}}, teacher_latency_ms=60.0)
    assert of_study(bounded) == limits_of({"max_latency_ms": 5.0}, 60.0)
    assert not of_study(replace(row, spec={n: v for n, v in row.spec.items() if n != "constraints"}))


ROWS = [
    made_row(0, loss=0.1, raw_loss=0.4, latency_ms=9.0),
    made_row(1, loss=0.3, raw_loss=0.1, latency_ms=4.0),
    made_row(2, loss=0.25, raw_loss=0.39, latency_ms=2.0),
]


def test_a_studys_rows_are_ranked_by_what_it_says_now() -> None:
    row = study(alpha=-0.9, beta=0.3, teacher_latency_ms=None)
    assert rank_of(row, ROWS) == rank(ROWS, -0.9, 0.3)
    assert rank_of(row, ROWS, alpha=0.0) == rank(ROWS, 0.0, 0.3) != rank(ROWS, -0.9, 0.3)
    assert rank_of(row, ROWS, beta=0.9) == rank(ROWS, -0.9, 0.9) != rank(ROWS, -0.9, 0.3)
    assert [s.number for s in rank_of(row, ROWS, 0.0, 0.6)] == [0, 2, 1]
    raw = replace(row, spec={**row.spec, "reward": {**row.spec["reward"], "loss": "raw"}})
    assert [s.number for s in rank_of(raw, ROWS, 0.0, 0.6)] == [1, 2, 0]
    bounded = replace(row, spec={**row.spec, "constraints": {"max_latency_ms": 5.0}}, teacher_latency_ms=30.0)
    assert rank_of(bounded, ROWS) == rank(ROWS, -0.9, 0.3, limits=limits_of({"max_latency_ms": 5.0}, 30.0))


def test_the_nearest_is_named_only_where_nothing_keeps_the_constraints() -> None:
    row = study()
    tight = replace(row, spec={**row.spec, "constraints": {"max_latency_ms": 1.0}})
    assert nearest_miss(ROWS, tight) == "nearest: trial 2, 2 ms for at most 1"
    loose = replace(row, spec={**row.spec, "constraints": {"max_latency_ms": 3.0}})
    assert nearest_miss(ROWS, loose) == nearest_miss(ROWS, row) == ""
    limits = limits_of({"max_latency_ms": 1.0}, None)
    running = [made_row(3, state="running", loss=None, raw_loss=None)]
    assert nearest_of([], limits) == nearest_of(rank(running, -0.06, 0.6, limits=limits), limits) == ""
