"""A study with rungs: table, Detail and Compare say each trial's rung, and who stayed below is marked."""

from __future__ import annotations

from kdnas.study.ranked_rows import rank
from kdnas.study.ranking import Scored
from kdnas.study.trial_columns import Board
from kdnas_tui.screens.candidate import facts
from kdnas_tui.screens.compare import _figures
from kdnas_tui.screens.finalize import in_words
from kdnas_tui.widgets.study_head import legend
from kdnas_tui.widgets.trial_cells import columns_of
from tests.rows import made_row

ROWS = [
    made_row(0, loss=0.3, extra={"rung": 0.0, "loss_as_built": 0.3}, epoch=0),
    made_row(1, loss=0.4, extra={"rung": 1.0, "loss_as_built": 0.5}, epoch=4),
]


def scored() -> list[Scored]:
    found = rank(ROWS, -0.06, 0.6)
    return sorted(found, key=lambda s: s.number)


def test_the_table_has_a_column_of_rungs_and_marks_who_stayed_below() -> None:
    board = Board(-0.06, 0.6)
    board.update(ROWS)
    columns = {column.key: column for column in columns_of(board)}
    assert [columns["rung"].text(s) for s in scored()] == ["0", "1"]
    assert [columns["reward"].text(s)[-1] for s in scored()] == ["<", " "]
    assert "< lower rung, no rank" in legend(board, 0, 100, {}).plain
    assert "< lower rung  " in legend(board, 0, 48, {}).plain
    plain = Board(-0.06, 0.6)
    plain.update([made_row(0)])
    assert "rung" not in {column.key for column in columns_of(plain)} and "<" not in legend(plain, 0, 100, {}).plain


def test_detail_says_what_came_before_the_score() -> None:
    run = [dict(dict(facts(s, [], 0.0))["run"]) for s in scored()]
    assert [part["rung"] for part in run] == ["0: scored as built", "1: scored after 4 epochs"]
    result = dict(dict(facts(scored()[1], [], 0.0))["result"])
    assert result["loss_as_built"] == "0.5" and "rung" not in result
    built = rank([made_row(0, epoch=0, epochs=0)], -0.06, 0.6)[0]
    assert dict(dict(facts(built, [], 0.0))["run"])["epochs"] == "none: scored as built"
    assert "rung" not in dict(dict(facts(built, [], 0.0))["run"])
    assert "rung 0, scored as built" in in_words(scored()[0])


def test_compare_calls_nothing_the_best_across_rungs() -> None:
    unlike = {fact.name: fact for fact in _figures(scored())}
    assert unlike["rung"].cells == ("0", "1")
    assert not unlike["reward"].best and not unlike["loss"].best and unlike["rank"].cells == ("–", "1")
    alike = {fact.name: fact for fact in _figures(rank([made_row(0), made_row(1, loss=0.4)], -0.06, 0.6))}
    assert alike["reward"].best == {0} and "rung" not in alike
