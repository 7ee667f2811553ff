"""What a full distillation takes is told by the candidate's epochs in the search, where there are enough of them."""

from __future__ import annotations

import pytest

from kdnas.study.full_time import full_time
from kdnas.study.rows import CurvePoint


def points(*seconds: float, tokens: int = 1000) -> list[CurvePoint]:
    ends = [sum(seconds[: n + 1]) for n in range(len(seconds))]
    return [CurvePoint(1, n + 1, 0.5, 0.5, 0.5, end, tokens * (n + 1)) for n, end in enumerate(ends)]


TOKENS = {"training_tokens": 10_000, "held_out_tokens": 300}


def test_it_is_as_wide_as_the_epochs_of_the_search_differ() -> None:
    assert full_time(points(1.1, 2.2), TOKENS, 3) == pytest.approx((3 * 10.1, 3 * 20.2))
    assert full_time(points(2.2, 1.1), TOKENS, 1) == pytest.approx((10.1, 20.2))


def test_the_score_before_the_first_step_is_no_epoch() -> None:
    built = [CurvePoint(1, 0, 0.9, 0.9, 0.9, 50.0, 0), *points(1.1, 1.1)]
    later = [built[0], *(CurvePoint(1, p.epoch, 0.5, 0.5, 0.5, 50 + p.seconds, p.tokens) for p in built[1:])]
    assert full_time(later, TOKENS, 1) == pytest.approx((10.1, 10.1))


@pytest.mark.parametrize("known", [{}, {"training_tokens": "many", "held_out_tokens": 1}, {"training_tokens": 10_000}])
def test_nothing_is_told_where_nothing_is_known(known: dict[str, object]) -> None:
    assert full_time(points(1.0, 1.0), known, 3) is None
    assert full_time(points(1.0), TOKENS, 3) is None  # one epoch has no spread
    assert full_time([], TOKENS, 3) is None
