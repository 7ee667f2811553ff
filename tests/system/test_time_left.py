"""How long something still takes is said only where it is known, and with its spread."""

from __future__ import annotations

import math

import numpy as np
import pytest

from kdnas.system.time_left import BLOCK_S, FEWEST, FEWEST_BLOCKS, Pace, duration, span, words


def test_nothing_is_said_of_too_few_pieces_or_of_one_that_hangs() -> None:
    assert span(10, FEWEST - 1, 5.0, 1.0, 6.0) is None
    assert span(10, FEWEST, 5.0, 1.0, 6.0, workers=0) is None
    assert span(10, 50, 5.0, 1.0, 6.0, begun=(7.9,)) is not None
    assert span(10, 50, 5.0, 1.0, 6.0, begun=(8.1,)) is None  # longer than any, and than three deviations


def test_the_range_holds_what_then_happens_about_as_often_as_two_errors_do() -> None:
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(400):
        seen = rng.gamma(9.0, 1.0, 12)
        low_high = span(20, 12, float(seen.mean()), float(seen.std(ddof=1)), float(seen.max()))
        assert low_high is not None
        held += low_high[0] <= rng.gamma(9.0, 1.0, 20).sum() <= low_high[1]
    assert held / 400 > 0.93


def test_what_runs_is_counted_once_and_workers_share() -> None:
    assert span(4, 9, 10.0, 0.0, 10.0) == (40.0, 40.0)
    assert span(4, 9, 10.0, 0.0, 10.0, begun=(2.0, 9.0), workers=2) == (14.5, 14.5)
    assert span(0, 9, 10.0, 3.0, 10.0) == (0.0, 0.0)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def worked(steps: list[float]) -> tuple[Pace, float]:
    """A pace of steps of so many seconds each, and how many were done."""
    clock = Clock()
    pace = Pace(clock)
    pace.reached(0.0)
    for done, seconds in enumerate(steps, 1):
        clock.now += seconds
        pace.reached(done)
    return pace, len(steps)


def test_a_pace_is_told_after_some_blocks_with_its_spread() -> None:
    pace, _ = worked([BLOCK_S] * (FEWEST_BLOCKS - 1))
    assert pace.left(10) is None
    pace, _ = worked([0.5] * 60)
    found = pace.left(100)
    assert found is not None and found == pytest.approx((50.0, 50.0))
    uneven, _ = worked([0.4, 0.9, 1.1] * 20)
    low, high = uneven.left(100) or (math.nan, math.nan)
    assert low < 80 < high
    slow, _ = worked([2.0] * 10)  # a step may be longer than a block
    assert slow.left(3) == pytest.approx((6.0, 6.0))


def test_a_pause_is_no_work_and_an_earlier_place_begins_anew() -> None:
    clock = Clock()
    pace = Pace(clock)
    for done in range(40):
        pace.reached(done)
        clock.now += 1.0
        if done == 20:
            pace.pause()
            clock.now += 1000.0
    assert pace.left(10) == pytest.approx((10.0, 10.0))
    pace.reached(0)
    clock.now += 1.0
    pace.reached(1)
    assert pace.left(10) == pytest.approx((10.0, 10.0))


@pytest.mark.parametrize(
    ("seconds", "said"), [(None, "–"), (0, "0s"), (59.4, "59s"), (245, "4m05"), (754, "12m"), (11530, "3h12")]
)
def test_durations(seconds: float | None, said: str) -> None:
    assert duration(seconds) == said


def test_a_range_of_one_value_is_one_value() -> None:
    assert words((50.0, 70.0)) == "50s–1m10"
    assert words((720.0, 730.0)) == "12m"
