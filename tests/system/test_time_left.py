"""How long something still takes is said only where it is known, and with its spread."""

from __future__ import annotations

import math

import numpy as np
import pytest

from kdnas.system.time_left import BLOCK_S, BLOCKS, FEWEST, FEWEST_BLOCKS, Pace, duration, span, words


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


def test_the_range_is_two_errors_of_the_mean_and_of_what_is_to_come() -> None:
    # 4 · 10 ± 2 · 3 · (√4 + 4 / √9)
    assert span(4, 9, 10.0, 3.0, 10.0) == pytest.approx((20.0, 60.0))
    assert span(4, FEWEST, 10.0, 0.0, 10.0) == (40.0, 40.0)
    assert span(4, 9, 10.0, 0.0, 10.0, begun=(10.0,)) == (30.0, 30.0)  # as long as the longest, and no longer


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


def test_small_parts_are_put_together_to_blocks() -> None:
    pace, _ = worked([0.1 * BLOCK_S] * 10 * (FEWEST_BLOCKS - 1))
    assert pace.left(10) is None
    enough, _ = worked([BLOCK_S] * FEWEST_BLOCKS)
    assert enough.left(10) == pytest.approx((10 * BLOCK_S, 10 * BLOCK_S))


def test_the_spread_is_that_of_the_blocks() -> None:
    """Shares of a whole, a hundredth at a time, which take one second and two by turns."""
    clock = Clock()
    pace = Pace(clock)
    for step in range(11):
        pace.reached(step / 100)
        clock.now += 1.0 + step % 2
    deviation = float(np.std([1.0, 2.0] * 5, ddof=1))
    assert pace.left(0.25) == pytest.approx(span(25, 10, 1.5, deviation, math.inf))


def test_a_stall_is_part_of_the_work_and_only_the_last_blocks_count() -> None:
    clock = Clock()
    pace = Pace(clock)
    pace.reached(0)
    for done in range(1, 20):
        for amount in (done - 1, done - 1, done):  # nothing for four seconds
            clock.now += 2.0
            pace.reached(amount)
    assert pace.left(10) == pytest.approx((60.0, 60.0))
    for done in range(20, 20 + BLOCKS):
        clock.now += 1.0
        pace.reached(done)
    assert pace.left(10) == pytest.approx((10.0, 10.0))


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
    ("seconds", "said"),
    [
        *((None, "–"), (0, "0s"), (59.4, "59s"), (60, "1m00"), (245, "4m05"), (540, "9m00"), (600, "10m")),
        *((754, "12m"), (3600, "1h00"), (10800, "3h00"), (10860, "3h01"), (11530, "3h12")),
    ],
)
def test_durations(seconds: float | None, said: str) -> None:
    assert duration(seconds) == said


def test_a_range_of_one_value_is_one_value() -> None:
    assert words((50.0, 70.0)) == "50s–1m10"
    assert words((720.0, 730.0)) == "12m"
