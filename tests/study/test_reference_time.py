"""Latencies that compare: told for one time of the teacher wherever two trials stand side by side."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdnas.study.constraints import Limits
from kdnas.study.filter import parse
from kdnas.study.ranked_rows import passing, rank
from kdnas.study.reference_time import at, factor, factors
from kdnas.study.trial_columns import Board
from tests.rows import made_row

# The machine was busy during the second: it and its teacher took three times as long.
QUIET = made_row(0, loss=0.3, latency_ms=4.0, latency_low_ms=3.9, latency_high_ms=4.1, teacher_latency_ms=30.0)
BUSY = made_row(
    1, loss=0.2, latency_ms=9.0, latency_p90_ms=10.5, latency_low_ms=8.7, latency_high_ms=9.3, teacher_latency_ms=90.0
)
AT_30 = Limits((), 30.0)


def told() -> Board:
    board = Board(-0.06, 0.6, limits=AT_30)
    board.update([QUIET, BUSY])
    return board


def test_what_is_faster_beside_its_teacher_is_faster() -> None:
    board = told()
    assert board.column("latency").tolist() == pytest.approx([4.0, 3.0])
    assert board.column("p90").tolist() == pytest.approx([5.5, 3.5])
    assert board.column("interval").tolist() == pytest.approx([0.2, 0.2])
    assert board.column("teacher").tolist() == [30.0, 90.0]  # as it was timed
    assert board.order("latency").tolist() == [1, 0]
    assert board.standing.front.tolist() == [False, True]  # by its milliseconds alone the other was on it


def test_the_filter_means_what_the_tables_show() -> None:
    board = told()
    assert board.mask(parse("latency<4")).tolist() == [False, True]
    scored = rank([QUIET, BUSY], -0.06, 0.6, limits=AT_30)
    assert [s.number for s in passing(parse("latency<4"), scored)] == [1]
    assert [(s.number, s.told.latency_ms) for s in scored] == [(1, pytest.approx(3.0)), (0, 4.0)]
    assert [(s.row.latency_ms, s.speedup) for s in scored] == [(9.0, 10.0), (4.0, 7.5)]  # what was measured stays


def test_the_time_of_the_teacher_may_become_known_after_the_trials() -> None:
    board = Board(-0.06, 0.6)
    board.update([QUIET, BUSY])
    assert board.column("latency").tolist() == [4.0, 9.0] and board.standing.front.tolist() == [True, True]
    board.rescore(-0.06, 0.6, AT_30)
    assert board.column("latency").tolist() == pytest.approx([4.0, 3.0])
    assert board.standing.front.tolist() == [False, True]


times = st.one_of(st.none(), st.just(0.0), st.floats(1e-3, 1e3))


@given(st.lists(times, min_size=1, max_size=6), st.floats(1e-3, 1e3))
def test_many_are_told_as_each_one_is(teachers: list[float | None], reference: float) -> None:
    many = factors(np.array([np.nan if ms is None else ms for ms in teachers]), reference)
    assert many.tolist() == [factor(ms, reference) for ms in teachers]
    row = at(made_row(0, latency_ms=6.0, teacher_latency_ms=teachers[0]), reference)
    assert row.latency_ms == pytest.approx(6.0 * many[0])
    if teachers[0]:
        assert row.teacher_latency_ms == pytest.approx(reference)
