"""A table of blocks adds up to the models that it was made from, and says how wrong it is for others."""

from __future__ import annotations

import numpy as np
import pytest

from kdnas.measuring.block_table import Block, BlockTable, Check, Reading, check, uniform
from kdnas.system.errors import KdnasError, UsageError

SMALL, LARGE, WIDE = Block(64, "2 heads, 128"), Block(64, "4 heads, 256"), Block(96, "2 heads, 128")
COST, AROUND = {SMALL: 0.5, LARGE: 0.8, WIDE: 1.5}, {64: 0.3, 96: 0.4}


def cost(blocks: tuple[Block, ...]) -> float:
    return AROUND[blocks[0].width] + sum(COST[block] for block in blocks)


def reading(blocks: tuple[Block, ...], half: float = 0.0, factor: float = 1.0) -> Reading:
    return Reading(blocks, cost(blocks) * factor, half)


EXACT = [reading(uniform(n, block)) for block in COST for n in (1, 6)]


def test_parts_of_exact_readings_are_found_exactly_and_predict_every_depth_and_mixture() -> None:
    table = BlockTable.of(EXACT)
    assert {block: pytest.approx(ms) for block, ms in table.blocks.items()} == COST
    assert {width: pytest.approx(ms) for width, ms in table.around.items()} == AROUND
    for blocks in (uniform(3, SMALL), uniform(12, WIDE), (SMALL, LARGE, LARGE, SMALL)):
        found = table.predict(blocks)
        assert found.ms == pytest.approx(cost(blocks)) and found.low == found.ms == found.high
        assert found.flag == "predicted by the table of blocks"


def test_the_readings_intervals_are_carried_over_to_the_sum() -> None:
    """Against readings drawn anew with that noise: the sum's half is 1.96 standard deviations of what they give."""
    share = 0.01  # half of the 95 % interval over the median
    readings = [reading(r.blocks, share * r.ms) for r in EXACT if r.blocks[0].width == 64]
    wanted = uniform(4, SMALL)
    told = BlockTable.of(readings).predict(wanted)
    rng = np.random.default_rng(0)
    drawn = [
        BlockTable.of([reading(r.blocks, factor=1 + share / 1.96 * rng.standard_normal()) for r in readings])
        .predict(wanted)
        .ms
        for _ in range(2000)
    ]
    assert (told.high - told.low) / 2 == pytest.approx(1.96 * np.std(drawn), rel=0.06)
    assert told.low < told.ms < told.high


def test_more_readings_than_parts_are_weighed_by_their_size() -> None:
    off = [reading(uniform(n, SMALL), factor=f) for n, f in ((1, 1.01), (3, 0.99), (6, 1.01), (12, 0.99))]
    table = BlockTable.of(off)
    assert max(abs(error) for error in check(table, off).errors) < 0.015  # of the small one, too


def test_doubt_about_a_reading_stays_with_what_is_made_of_it() -> None:
    doubtful = [Reading(uniform(6, LARGE), cost(uniform(6, LARGE)), 0.1, "contended: 30 %"), *EXACT]
    table = BlockTable.of(doubtful)
    assert table.predict((LARGE,)).flag == "predicted by the table of blocks, from doubtful readings"
    assert table.predict((SMALL,)).flag == "predicted by the table of blocks"


@pytest.mark.parametrize(
    ("readings", "words"),
    [
        ([reading(uniform(3, SMALL))], "do not tell a block's latency"),
        ([reading(uniform(3, SMALL)), reading(uniform(3, LARGE))], "two depths"),
        ([Reading((), 1.0)], "at least one block"),
        ([Reading((SMALL,), 0.0), Reading((SMALL,) * 2, 1.0)], "a time"),
    ],
)
def test_readings_that_tell_no_table_are_refused(readings: list[Reading], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        BlockTable.of(readings)
    assert words in str(caught.value)


def test_a_part_that_takes_no_time_is_noise() -> None:
    with pytest.raises(KdnasError) as caught:
        BlockTable.of([Reading((SMALL,), 1.0), Reading((SMALL,) * 6, 0.9)])
    assert "which is noise" in str(caught.value)


def test_what_was_never_measured_is_not_predicted() -> None:
    table = BlockTable.of([r for r in EXACT if LARGE not in r.blocks])
    for blocks, words in (((LARGE,), "none of width 64, 4 heads"), ((SMALL, WIDE), "2 widths"), ((), "0 widths")):
        with pytest.raises(UsageError) as caught:
            table.predict(blocks)
        assert words in str(caught.value)


def test_a_check_says_how_far_off_the_sums_are() -> None:
    table = BlockTable.of(EXACT)
    others = [reading(uniform(n, SMALL), factor=1 / (1 + error)) for n, error in ((2, 0.02), (3, -0.04), (4, 0.01))]
    found = check(table, [*others, EXACT[0]])
    assert found.errors == pytest.approx((0.02, -0.04, 0.01, 0.0)) and found.own == 1
    assert (found.median, found.most, found.bias) == pytest.approx((0.015, 0.04, -0.0025))
    assert "4 models measured whole (1 of them are in the table)" in str(found) and "-0.2% on average" in str(found)
    assert Check(tuple(i / 100 for i in range(100)), 0).most == 0.94
    with pytest.raises(UsageError):
        check(table, [])
