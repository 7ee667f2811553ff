"""Trials that wait for their latency: screens call them done or running, or count them nowhere."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from kdnas.study.ranked_rows import rank
from kdnas.study.trial_columns import Board
from kdnas_tui.screens.candidate import facts
from kdnas_tui.widgets.trial_cells import columns_of
from tests.rows import made_row

NONE: dict[str, Any] = dict.fromkeys(
    ("latency_ms", "latency_p90_ms", "latency_low_ms", "latency_high_ms", "latency_count", "teacher_latency_ms")
)
WAITS = made_row(1, state="waiting", phase="waiting for latency", **NONE)
ROWS = [made_row(0), WAITS, replace(WAITS, number=2, phase="timing")]


def test_the_table_and_detail_say_that_a_latency_is_missing() -> None:
    board = Board(-0.06, 0.6)
    board.update(ROWS)
    columns = {column.key: column for column in columns_of(board)}
    scored = sorted(rank(ROWS, -0.06, 0.6), key=lambda s: s.number)
    assert [columns["state"].text(s) for s in scored] == ["done", "waiting", "timing"]
    assert columns["state"].width == 7
    assert [s.rank for s in scored] == [1, None, None] and [s.reward is None for s in scored] == [False, True, True]
    result = [dict(dict(facts(s, [], 0.0))["result"])["state"] for s in scored]
    assert result == ["done", "waiting for latency", "timing"]
    assert board.running() == []
