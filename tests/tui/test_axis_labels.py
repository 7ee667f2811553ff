"""Labels of an axis never touch, whatever is drawn on it and however short it is."""

from __future__ import annotations

from itertools import pairwise
from math import floor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdnas_tui.widgets.axis_ticks import LogTicks, Ticks, outward

VALUES = st.floats(-1e6, 1e6, allow_nan=False).filter(lambda value: value == 0 or abs(value) > 1e-6)


def spans(ticks: list[float], labels: list[str], low: float, high: float, cells: int) -> list[tuple[int, int]]:
    """First and one past the last cell of each label, written as the canvas does: its middle on the tick's cell."""
    found = []
    for tick, label in zip(ticks, labels, strict=True):
        start = floor((tick - low) / (high - low) * cells) - len(label) // 2
        found.append((start, start + len(label)))
    return found


@given(VALUES, VALUES, st.integers(8, 200), st.booleans())
def test_no_two_labels_touch(one: float, other: float, cells: int, whole: bool) -> None:
    low, high = outward(min(one, other), max(one, other))
    formatter = Ticks(8, whole=whole)
    formatter.cells = cells
    ticks = formatter.get_ticks(low, high)
    labels = formatter.get_labels_for_ticks(ticks)
    for (_, end), (start, _) in pairwise(spans(ticks, labels, low, high, cells)):
        assert start - end >= 1


@given(st.floats(-3, 5), st.floats(0.01, 6), st.integers(8, 200))
def test_no_two_labels_of_a_logarithmic_axis_touch(low: float, span: float, cells: int) -> None:
    formatter = LogTicks()
    formatter.cells = cells
    ticks = formatter.get_ticks(low, low + span)
    labels = formatter.get_labels_for_ticks(ticks)
    assert all(low <= tick <= low + span for tick in ticks)
    for (_, end), (start, _) in pairwise(spans(ticks, labels, low, low + span, cells)):
        assert start - end >= 1


@pytest.mark.parametrize("cells", [20, 34, 60])
def test_one_trial_and_a_hundred_columns_have_labels_apart(cells: int) -> None:
    low, high = outward(3.2, 3.2)
    formatter = Ticks(8)
    formatter.cells = cells
    ticks = formatter.get_ticks(low, high)
    assert ticks
    for (_, end), (start, _) in pairwise(spans(ticks, formatter.get_labels_for_ticks(ticks), low, high, cells)):
        assert start - end >= 1
