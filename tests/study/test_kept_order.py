"""An order that is kept while nothing moves is the order that sorting anew would give."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdnas.study.filter import parse
from kdnas.study.kept_order import KeptOrder
from kdnas.study.trial_columns import Board
from tests.study.test_trial_columns import BOARD, ROWS

FIGURES = st.lists(st.sampled_from([np.nan, 0.0, 1.0, 2.5]), min_size=0, max_size=8)


@given(st.lists(FIGURES, min_size=1, max_size=4))
def test_it_is_always_the_order_of_the_values_that_it_is_given(columns: list[list[float]]) -> None:
    kept, written = KeptOrder(), np.zeros(8)  # written to in place, as a board's columns are
    for column in columns:
        written[: len(column)] = column
        values, numbers = written[: len(column)], np.arange(len(column))
        assert kept.of(values, numbers).tolist() == np.lexsort((numbers, values)).tolist()


def test_it_is_sorted_once_while_nothing_moves_and_anew_when_something_does() -> None:
    kept, values, numbers = KeptOrder(), np.array([2.0, np.nan, 1.0]), np.arange(3)
    first = kept.of(values, numbers)
    assert kept.of(values.copy(), numbers) is first and first.tolist() == [2, 0, 1]
    values[2] = 3.0
    assert kept.of(values, numbers).tolist() == [0, 2, 1]


def test_nobody_writes_to_an_order_that_is_kept() -> None:
    order = KeptOrder().of(np.array([2.0, 1.0]), np.arange(2))
    with pytest.raises(ValueError, match="read-only"):
        order[0] = 1


def test_the_marked_trials_stand_in_the_order_of_all_of_them() -> None:
    mask = BOARD.mask(parse("state:done or is:marked"))
    chosen = [place for place in BOARD.ranked_places().tolist() if mask[place]]
    assert BOARD.ranked_places(mask).tolist() == chosen and 0 < len(chosen) < len(BOARD)
    assert [s.number for s in BOARD.ranked(mask)] == [BOARD.at(place).number for place in chosen]


def test_an_order_follows_the_rows_the_mask_and_the_direction() -> None:
    board = Board(-0.06, 0.6)
    for rows in (ROWS[: len(ROWS) // 2], ROWS):
        board.update(rows)
        for key in ("loss", "reward", "latency"):
            for descending in (False, True):
                fresh = Board(-0.06, 0.6)
                fresh.update(rows)
                mask = board.mask(parse("state:done"))
                for chosen in (None, mask):
                    asked = {"descending": descending, "mask": chosen}
                    assert board.order(key, **asked).tolist() == fresh.order(key, **asked).tolist()
