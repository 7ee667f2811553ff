"""What just passes a filter and what just does not: ends of ranges, one repeat, several tags, parentheses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from kdnas.study.filter import FilterError, parse
from kdnas.study.ranked_rows import passing, rank
from kdnas.study.ranking import on_highest_rung
from tests.rows import made_row


def passes(text: str, **changes: Any) -> bool:
    return bool(passing(parse(text), rank([made_row(**changes)], -0.06, 0.6)))


@pytest.mark.parametrize(("latency", "found"), [(11.4999, False), (11.5, True), (12.4999, True), (12.5, False)])
def test_a_number_of_no_decimals_is_all_that_rounds_to_it(latency: float, found: bool) -> None:
    assert passes("latency=12", latency_ms=latency) is found
    assert passes("latency!=12", latency_ms=latency) is not found


def test_one_repeat_is_a_repeat() -> None:
    assert [passes("is:repeated", repeats=count) for count in (0, 1, 2)] == [False, True, True]


def test_one_tag_of_several_is_enough_and_none_may_be_the_unwanted_one() -> None:
    for tags, wanted in (((), False), (("a",), True), (("b",), False), (("b", "A"), True)):
        assert passes("tag:a", tags=tags) is wanted
        assert passes("tag!=a", tags=tags) is not wanted
    assert passes("tag:a,b", tags=("c", "b")) and not passes("tag:a,b", tags=("c",))


def test_a_part_of_a_note_is_enough_and_a_part_of_any_other_word_is_not() -> None:
    assert passes("note:later", note="look LATER") and not passes("note=later", note="look later")
    assert not passes("act:gel") and passes("act:gelu")


def test_numbers_and_words_of_one_key_are_both_compared() -> None:
    """A key that is a number in one configuration and a word in another."""
    rows = [replace(made_row(n), config={"depth": value}) for n, value in enumerate((3, "deep", 5, None))]
    found = passing(parse("depth:deep,5", ["depth"]), rank(rows, -0.06, 0.6))
    assert {s.number for s in found} == {1, 2}


def test_parentheses_that_were_closed_do_not_count_as_open() -> None:
    deepest = "(" * 40 + "layers=4" + ")" * 40
    assert passes(deepest) and passes(f"(layers=4) (layers=4) {deepest}")
    with pytest.raises(FilterError, match="More than 40 parentheses"):
        parse(f"({deepest})")


def test_a_page_of_conditions_is_read_and_a_book_of_them_is_refused_with_its_beginning() -> None:
    longest = " or ".join(["layers=4"] * 800)
    assert passes(longest.ljust(10_000))
    with pytest.raises(FilterError, match="has 10,001 characters; 10,000 are the most") as refused:
        parse(longest.ljust(10_001))
    shown, below = refused.value.underlined
    assert longest.startswith(shown) and len(shown) == len(below) == 60


def test_only_the_highest_rung_counts_and_unknown_rungs_stand_with_it() -> None:
    nan = float("nan")
    for rungs, on_it in (
        ([0.0, 2.0, 1.0, 2.0], [False, True, False, True]),
        ([nan, 1.0, 0.0], [True, True, False]),
        ([nan, nan], [True, True]),
        ([], []),
    ):
        assert on_highest_rung(np.array(rungs)).tolist() == on_it


def test_a_studys_own_figure_comes_before_a_short_name_of_a_column() -> None:
    """`x` is short for the speed-up, unless the study has a figure of that name."""
    rows = rank([made_row(0, extra={"x": 5.0}), made_row(1, extra={"x": 7.0})], -0.06, 0.6)
    assert [s.number for s in passing(parse("x<5.5", {"x"}), rows)] == [0]
    assert passing(parse("x<5.5"), rows) == []
