"""The columns of a study against the plain rows: the same rows back, the same ranking, the same filter."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings

from kdnas.study.filter import keys_of, lookup, parse
from kdnas.study.ranked_rows import passing, rank
from kdnas.study.trial_columns import Board
from tests.rows import made_row, made_rows
from tests.study.test_filter import naive, sentences

ROWS = [
    *made_rows(300),
    replace(made_row(300, act="relu"), marked=True, tags=("keep", "tiny"), note="Try again with 20 epochs"),
    replace(made_row(301, loss=0.9), latency_flag="unsettled", extra={"accuracy": 0.81}),
    replace(made_row(302), repeats=2, mean_loss=0.25, mean_raw_loss=0.07, loss_spread=0.01),
    replace(made_row(303), candidate={"cell": "lstm", "bidirectional": True, "ids": [1, 2]}, config={"dropout": None}),
]


def board_of(rows, alpha=-0.06, beta=0.6) -> Board:
    board = Board(alpha, beta)
    board.update(rows)
    return board


def test_rows_come_back_as_they_were_put_in():
    board = board_of(ROWS)
    assert len(board) == len(ROWS)
    for row in ROWS:
        scored = board.scored(row.number)
        assert scored is not None and scored.row == row
    assert board.scored(len(ROWS)) is None
    assert board.scored(-1) is None
    assert board.revision == max(row.revision for row in ROWS)


def test_large_numbers_fit():
    row = made_row(0, parameters=7_000_000_000, seed=2**62)
    assert board_of([row, *made_rows(300)[1:]]).row(0) == row


def test_more_than_a_byte_of_different_values_fit():
    row = made_row(0)
    rows = [replace(row, number=n, revision=n, note=f"note {n}", candidate={"width": n}) for n in range(70_000)]
    board = board_of(rows)
    for number in (0, 254, 255, 256, 65_534, 65_535, 65_536, 69_999):
        assert board.row(number) == rows[number]


def test_true_does_not_become_one():
    board = board_of([made_row(0), replace(made_row(1), candidate={"num_hidden_layers": True})])
    scored = board.scored(1)
    assert scored is not None and scored.row.candidate["num_hidden_layers"] is True


@pytest.mark.parametrize(("alpha", "beta"), [(-0.06, 0.6), (0.0, 1.0), (-0.5, 2.0)])
@pytest.mark.parametrize("loss", ["normalised", "raw"])
def test_ranking_equals_that_of_the_rows(alpha, beta, loss):
    board = Board(alpha, beta, loss)
    board.update(ROWS)
    assert board.ranked() == rank(ROWS, alpha, beta, loss)
    assert board.best(5) == rank(ROWS, alpha, beta, loss)[:5]


def test_another_alpha_ranks_again():
    board = board_of(ROWS)
    board.rescore(-0.4, 0.6)
    assert board.ranked() == rank(ROWS, -0.4, 0.6)


def test_a_changed_row_replaces_the_old_one_whole():
    board = board_of(ROWS)
    changed = replace(made_row(7), candidate={"num_hidden_layers": 9}, config={}, revision=9000, tags=("late",))
    board.update([changed])
    assert len(board) == len(ROWS)
    scored = board.scored(7)
    assert scored is not None and scored.row == changed
    assert board.revision == 9000
    rows = [changed if row.number == 7 else row for row in ROWS]
    assert board.ranked() == rank(rows, -0.06, 0.6)


def test_rows_may_come_in_pieces_and_out_of_order():
    board = Board(-0.06, 0.6)
    for start in range(0, len(ROWS), 37):
        board.update(ROWS[::-1][start : start + 37])
    assert board.ranked() == rank(ROWS, -0.06, 0.6)
    board.update([])
    assert len(board) == len(ROWS)


def ended(s):
    return s.row.ended is not None


LETS_THROUGH = {
    "": lambda s: True,
    "gelu": lambda s: "gelu" in s.row.config.values(),
    "312": lambda s: 312 in s.row.config.values(),
    "is:front": lambda s: s.front,
    "is:tie": lambda s: s.tie,
    "is:ranked": lambda s: s.rank is not None,
    "is:marked": lambda s: s.number == 300,
    "is:flagged": lambda s: s.number == 301,
    "is:repeated": lambda s: s.row.repeats > 0,
    "tag:keep": lambda s: s.number == 300,
    "tag!=keep": lambda s: s.number != 300,
    "note:again": lambda s: s.number == 300,
    "flag:unsettled": lambda s: s.number == 301,
    "flag!=settled": lambda s: s.number == 301,
    "error:number": lambda s: s.row.error is not None,
    "accuracy>0.8": lambda s: s.number == 301,
    "accuracy!=0.8": lambda s: False,  # 0.81 is 0.8 to the digit that was written
    "accuracy!=0.80": lambda s: s.number == 301,
    "layers:4,6": lambda s: s.row.config.get("num_hidden_layers") in (4, 6),
    "layers:gelu": lambda s: False,
    "layers!=gelu": lambda s: "num_hidden_layers" in s.row.config,
    "cell:lstm": lambda s: s.number == 303,
    "cell!=lstm": lambda s: False,
    "bidirectional:true": lambda s: s.number == 303,
    "bidirectional=1": lambda s: False,
    "dropout:x": lambda s: False,
    "dropout!=x": lambda s: False,
    "ids:x": lambda s: False,
    "ids!=x": lambda s: s.number == 303,
    "loss<0.25": lambda s: s.loss_used is not None and s.loss_used < 0.25,
    "normalised<0.25": lambda s: s.row.loss is not None and s.row.loss < 0.25,
    "raw<0.06": lambda s: s.row.raw_loss is not None and s.row.raw_loss < 0.06,
    "p90>3": lambda s: s.row.latency_p90_ms is not None and s.row.latency_p90_ms > 3,
    "interval<0.05": lambda s: s.row.latency_high_ms - s.row.latency_low_ms < 0.05,
    "rank<=10": lambda s: s.rank is not None and s.rank <= 10,
    "rank!=3": lambda s: s.rank not in (None, 3),
    "speedup>=5x": lambda s: s.row.speedup is not None and s.row.speedup >= 5,
    "params<=6M": lambda s: s.row.parameters is not None and s.row.parameters <= 6e6,
    "duration>1min": lambda s: ended(s) and s.row.ended - s.row.started > 60,
    "duration>=1min": lambda s: ended(s) and s.row.ended - s.row.started >= 60,
    "seed=12": lambda s: s.row.seed == 12,
    "origin:strategy": lambda s: s.row.origin == "strategy",
    "phase:training": lambda s: s.row.phase == "training",
    "predicted>0": lambda s: s.row.predicted is not None and s.row.predicted > 0,
    "progress<1": lambda s: s.row.progress < 1,
    "epochs=4": lambda s: s.row.epochs == 4,
    "spread>0": lambda s: s.row.loss_spread is not None and s.row.loss_spread > 0,
    "width>200": lambda s: s.row.config.get("hidden_size", 0) > 200,
    "heads=12": lambda s: s.row.candidate.get("num_attention_heads") == 12,
    "repeats=2": lambda s: s.row.repeats == 2,
    "act:relu,silu": lambda s: s.row.config.get("hidden_act") in ("relu", "silu"),
    "tiny": lambda s: s.number == 300,
    "20 epochs": lambda s: s.number == 300,
}


@pytest.mark.parametrize("text", LETS_THROUGH)
def test_a_filter_lets_through_what_its_words_say(text):
    board = board_of(ROWS)
    chosen = parse(text, board.keys() | {"accuracy", "dropout", "bidirectional"})
    expected = [s.number for s in SCORED if LETS_THROUGH[text](s)]
    assert board.numbers[board.mask(chosen)].tolist() == sorted(expected)
    assert [s.number for s in passing(chosen, SCORED)] == expected


@settings(max_examples=60)
@given(sentences)
def test_any_filter_says_the_same_of_columns_and_rows(text):
    chosen = parse(text)
    expected = {s.number for s in SCORED if naive(chosen.root, s)}
    assert set(BOARD.numbers[BOARD.mask(chosen)].tolist()) == expected


def test_a_latency_of_nothing_has_no_speedup():
    rows = [made_row(0, latency_ms=0.0), made_row(1, teacher_latency_ms=0.0), made_row(2, latency_ms=None), made_row(3)]
    board = board_of(rows)
    assert board.numbers[board.mask(parse("speedup>0 or speedup<=0 or speedup!=1"))].tolist() == [3]
    assert [board.at(place).speedup for place in range(4)] == [None, None, None, 6.0]
    assert np.isnan(board.column("speedup")[:3]).all() and board.column("speedup")[3] == 6.0


def test_a_whole_number_beyond_all_floats_is_compared_and_sorted():
    rows = [replace(made_row(n), candidate={"size": value}) for n, value in enumerate((10**400, -(10**400), 3))]
    board = board_of(rows)
    assert board.numbers[board.mask(parse("size>2", ["size"]))].tolist() == [0, 2]
    assert board.order("size").tolist() == [1, 2, 0]


BOARD = board_of(ROWS)
SCORED = rank(ROWS, -0.06, 0.6)


def test_keys_are_those_of_all_rows():
    assert BOARD.keys() >= keys_of(ROWS[:100]) | {"accuracy", "cell", "dropout"}


def test_sorting_puts_missing_values_last_both_ways():
    for descending in (False, True):
        numbers = BOARD.numbers[BOARD.order("loss", descending=descending)].tolist()
        losses = [BOARD.scored(n).loss_used for n in numbers]
        known = [value for value in losses if value is not None]
        assert known == sorted(known, reverse=descending)
        assert all(value is None for value in losses[len(known) :])


def test_sorting_by_reward_is_the_ranking_then_what_runs():
    places = BOARD.order("reward", descending=True)
    scored = [BOARD.at(place) for place in places]
    ranked = [s.number for s in scored if s.rank]
    assert ranked == [s.number for s in SCORED if s.rank]
    after = [s.row.state for s in scored[len(ranked) :]]
    assert after[:2] == ["running", "running"]
    assert "running" not in after[2:]


def test_sorting_by_a_configuration_key_and_by_text():
    numbers = BOARD.numbers[BOARD.order("layers")].tolist()
    layers = [lookup(BOARD.scored(n).row, "layers") for n in numbers]
    known = [value for value in layers if value is not None]
    assert known == sorted(known) and layers[: len(known)] == known
    acts = [lookup(BOARD.scored(n).row, "act") for n in BOARD.numbers[BOARD.order("act")].tolist()]
    assert acts[:-1] == sorted(a for a in acts if a is not None)


def test_sorting_keeps_to_the_mask():
    mask = BOARD.mask(parse("state:pruned"))
    places = BOARD.order("latency", mask=mask)
    assert len(places) == mask.sum()
    assert mask[places].all()


def test_columns_of_an_empty_board():
    board = Board(-0.06, 0.6)
    assert len(board) == 0
    assert board.best(3) == []
    assert board.order("reward").tolist() == []
    assert board.mask(parse("gelu latency<3 is:front")).tolist() == []
    assert np.isnan(board_of(ROWS).column("nothing of the kind")).all()


def test_trials_that_begin_and_get_on_leave_the_ranking_as_it_is() -> None:
    rows = made_rows(40)
    board = Board(-0.06, 0.6)
    board.update(rows[:-2])
    before = board.standing
    board.update(rows[-2:])
    board.update([replace(rows[-1], progress=0.9)])
    whole = Board(-0.06, 0.6)
    whole.update(rows)
    for name in ("reward", "rank", "tie", "front", "order"):
        np.testing.assert_array_equal(getattr(board.standing, name), getattr(whole.standing, name))
    assert board.standing.order is before.order
    board.update([replace(rows[-1], state="done", loss=0.01, raw_loss=0.01)])
    assert board.standing.order[0] == len(rows) - 1
    board.update([replace(rows[0], state="failed", loss=None)])
    assert len(board.standing.order) == len(whole.standing.order)


def test_marks_and_states_draw_again_without_ranking_again() -> None:
    rows = made_rows(40)
    board = Board(-0.06, 0.6)
    board.update(rows)
    before = board.standing
    done = next(row for row in rows if row.state == "done")
    board.update([replace(done, marked=True, tags=("keep",))])
    assert board.standing is not before and board.standing.order is before.order
    marked = board.standing
    board.update([replace(done, marked=True, tags=("keep",), note="again")])
    assert board.standing is marked
    board.update([replace(rows[-1], state="pruned", loss=0.5)])
    assert board.standing is not marked and board.standing.order is before.order
    board.update([replace(done, loss=0.001, latency_ms=1.0)])
    assert board.standing.order is not before.order
    assert board.standing.order[0] == done.number
