"""The pure part of the drawn panes: nothing leaves its grid, and what it says is what the figures say."""

from __future__ import annotations

import time
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rich.cells import cell_len

from kdnas.study.columns import ABSENT, CodedColumn
from kdnas.study.trial_columns import Board
from kdnas_tui.theme import plain
from kdnas_tui.widgets.axis_scale import Choices, Scale, spans_decades
from kdnas_tui.widgets.axis_ticks import part
from kdnas_tui.widgets.parallel import Axis, page_of
from kdnas_tui.widgets.readout import as_fits, readout
from kdnas_tui.widgets.sketch import DOTS, Sketch
from kdnas_tui.widgets.slices import CELL, Frame, Grid
from kdnas_tui.widgets.time_axis import ticks
from kdnas_tui.widgets.timeline import SIGNS, busy
from tests.rows import made_row

SIZES = st.integers(1, 60)
FIGURES = st.floats(-1e6, 1e6, allow_nan=False)


@given(SIZES, SIZES, st.lists(st.tuples(st.integers(-20, 200), st.integers(-20, 300)), max_size=30), st.text())
def test_a_sketch_keeps_its_size_whatever_is_drawn(width: int, height: int, spots, text: str) -> None:
    sketch = Sketch(width, height)
    x, y = (np.array([spot[i] for spot in spots], dtype=np.int64) for i in (0, 1))
    sketch.dots(x, y, "quiet")
    lines = ["".join(piece for piece, _ in row) for row in sketch.copy().rows()]
    assert len(lines) == height and all(cell_len(line) == width for line in lines)
    inside = {(a, b) for a, b in spots if 0 <= a < 2 * width and 0 <= b < 4 * height}
    assert sum((ord(letter) - 0x2800).bit_count() for line in lines for letter in line if letter != " ") == len(inside)
    for column, row in spots:
        sketch.write(column, row, text, "mark")
        sketch.signs(np.array([column]), np.array([row]), "◆", "mark")
    lines = ["".join(piece for piece, _ in row) for row in sketch.rows()]
    assert len(lines) == height and all(cell_len(line) == width for line in lines)


@example([24.0, 0.75])  # whose logarithm is another last digit in an array
@given(st.lists(FIGURES, min_size=1, max_size=30))
def test_a_scale_keeps_the_order_of_figures(figures: list[float]) -> None:
    values = np.array([*figures, np.nan])
    scale = Scale.of(values)
    at = scale.at(values)
    assert np.isnan(at[-1]) and (at[:-1] >= 0).all() and (at[:-1] <= 1).all()
    order = np.argsort(values[:-1])
    assert (np.diff(at[:-1][order]) >= 0).all()


def test_an_axis_is_logarithmic_where_figures_span_decades() -> None:
    assert spans_decades(np.array([0.5, 30.0, np.nan]))
    assert not spans_decades(np.array([4.0, 34.5]))
    assert not spans_decades(np.array([-1.0, 100.0])) and not spans_decades(np.array([0.0, 100.0]))
    assert Scale.of(np.array([0.1, 1.0, 10.0])).at(np.array([1.0])) == pytest.approx(0.5)


def test_values_stand_in_their_order_numbers_before_words() -> None:
    column = CodedColumn(8)
    column.put(np.arange(7), [64, 8, "relu", 16, "gelu", ABSENT, True])
    choices = Choices.of(column, 7)
    assert choices.labels == ("8", "16", "64", "True", "gelu", "relu")
    assert choices.index.tolist() == [2, 0, 5, 1, 4, -1, 3]
    at = choices.at()
    assert at[1] == 0.0 and at[2] == 1.0 and np.isnan(at[5])


@given(st.integers(1, 40), st.integers(20, 220), st.integers(7, 80), st.integers(2, 8))
def test_small_plots_lie_beside_each_other_on_their_page(count: int, width: int, height: int, left: int) -> None:
    grid = Grid.of(count, width, height, left)
    corners = [grid.corner(place) for place in range(grid.room)]
    assert len(set(corners)) == grid.room
    for x, y in corners:
        assert left <= x and y >= 0
        assert x + grid.width <= width or width < left + CELL[0]
        assert y + grid.height <= height


@given(st.integers(1, 30), st.integers(20, 60), st.integers(7, 30), st.integers(0, 9999))
def test_trials_lie_within_the_band_of_their_value(values: int, width: int, height: int, number: int) -> None:
    choices = Choices(tuple(map(str, range(values))), np.arange(values))
    frame = Frame(3, 2, width, height, choices)
    places = np.arange(values)
    numbers, heights = np.full(values, number), np.linspace(0, 1, values)
    x, y = frame.dots(places, numbers, heights)
    assert (x >= 4 * DOTS[0]).all() and (x < (3 + width) * DOTS[0]).all()
    assert (y >= 3 * DOTS[1]).all() and (y < (3 + frame.rows) * DOTS[1]).all()
    assert (np.diff(x) >= 0).all() and (np.diff(y) <= 0).all()


@given(st.integers(1, 20), st.integers(16, 220))
def test_every_dimension_has_its_page(count: int, width: int) -> None:
    axes = [Axis(str(i), np.zeros(1), ((0.0, "a"),)) for i in range(count)]
    results = [Axis(name, np.zeros(1), ((0.0, "0"),)) for name in ("loss", "latency", "reward")]
    _, pages = page_of(axes, results, width, 0)
    seen = []
    for page in range(pages):
        shown, again = page_of(axes, results, width, page)
        assert again == pages and shown[-1].name == "reward"
        seen += [axis.name for axis in shown if axis not in results]
    assert set(seen) == {axis.name for axis in axes}


@given(
    st.lists(st.tuples(st.floats(0, 1000), st.floats(0, 200)), max_size=20), st.floats(0, 500), st.floats(1, 1000),
    st.integers(1, 40),
)  # fmt: skip
def test_busy_times_are_those_of_the_intervals(spans, start: float, length: float, cells: int) -> None:
    edges = np.linspace(start, start + length, cells + 1)
    first, last = np.array([s for s, _ in spans]), np.array([s + took for s, took in spans])
    found = busy(first, last, edges)
    for cell in range(cells):
        low, high = edges[cell], edges[cell + 1]
        wanted = sum(max(0.0, min(high, b) - max(low, a)) for a, b in zip(first, last, strict=True))
        assert found[cell] == pytest.approx(wanted, abs=1e-6)


@given(st.floats(1.0e9, 2.0e9), st.floats(1, 4e7), st.integers(5, 200))
def test_clock_times_do_not_touch(start: float, span: float, cells: int) -> None:
    found = ticks(start, start + span, cells)
    for (cell, label), (after, _) in pairwise(found):
        assert after > cell + len(label)
    assert all(cell >= 0 and cell + len(label) <= cells for cell, label in found)


def test_an_evening_has_round_clock_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    midnight = 20_000 * 86400.0
    assert ticks(midnight - 7000, midnight + 7000, 40) == [(9, "23:00"), (20, "4 Oct"), (30, "01:00")]


@given(FIGURES, st.floats(0.001, 1e6), st.integers(0, 16), st.floats(-0.5, 1.5))
def test_coming_closer_halves_the_axis_and_stays_within_it(low: float, span: float, times: int, at: float) -> None:
    high = low + span
    first, last = part(low, high, times, low + at * span)
    assert first >= low - 1e-6 * span and last <= high + 1e-6 * span + 1e-9 * abs(high)
    assert last - first == pytest.approx((high - low) / 2**times, rel=1e-3, abs=1e-9 * (abs(low) + abs(high)))
    if 0 <= at <= 1:
        middle = low + at * span
        assert first - 1e-6 * span <= middle <= last + 1e-6 * span


def test_the_readout_leaves_the_least_out_first() -> None:
    board = Board(-0.06, 0.6)
    board.update([made_row(7, loss=0.1387, latency_ms=4.12), made_row(8, state="failed", loss=None, latency_ms=None)])
    pieces = readout(board, 7)
    assert pieces[0] == "#7" and "loss 0.139" in pieces and "4.12 ms" in pieces
    assert readout(board, 8) == ("#8", "failed") and readout(board, 9) == () == readout(None, 7)
    whole = as_fits(pieces, 100)
    for room in range(101):
        text = as_fits(pieces, room)
        assert len(text) <= room and whole.startswith(text)


def test_states_differ_without_colour_and_in_ascii() -> None:
    signs = [sign for sign, _ in SIGNS.values()] + ["·", "╌", " "]
    assert len(set(signs)) == len(signs) == len({plain(sign) for sign in signs})
