"""The line above a study, its legend and the room of its panes: what matters most stays, whatever the width."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kdnas.study.rows import Status, StudyRow
from kdnas.study.trial_columns import Board
from kdnas_tui.screens.panes import PLOTS, Panes
from kdnas_tui.watched import Watched
from kdnas_tui.widgets.study_head import head, legend
from tests.rows import made_row, made_rows

ROW = StudyRow(
    study_id=1, name="minilm-imdb-with-a-long-name", spec={}, status=Status.RUNNING, trials=600, done=412, pruned=61,
    failed=3, reused=2, running=2, alpha=-0.06, beta=0.6, best_reward=0.842, best_number=7, workers=2,
    hosts=("gpubox",), heartbeat=9_998.0, teacher_latency_ms=30.0, space_size=4096, ending=None, created=1_000.0,
    updated=9_990.0, revision=9, eta_s=None,
)  # fmt: skip


@pytest.mark.parametrize("width", [48, 60, 80, 100, 120, 200])
def test_best_and_eta_outlast_what_matters_less(width: int) -> None:
    text = head(
        ROW.name, ROW, fault="", devices=(), now=10_000.0, readonly=False, eta=(3000.0, 5400.0), width=width, colours={}
    )
    said = text.plain
    assert text.cell_len <= width and "412/600" in said
    assert "best 0.842" in said
    assert ("ETA 50m–1h30" in said) >= ("worker" in said) >= ("heard" in said)
    if width >= 80:
        assert "ETA 50m–1h30" in said


@pytest.mark.parametrize("width", [100, 120, 160, 200])
def test_table_and_plots_share_the_width_and_the_border_can_be_moved(width: int) -> None:
    panes = Panes()
    usual = panes.table_cells(width, 78)
    assert usual == min(78, width - PLOTS)
    panes.move_border(1, width, usual)
    wider = panes.table_cells(width, 78)
    assert wider > usual
    panes.move_border(-1, width, wider)
    assert panes.table_cells(width, 78) < wider


def test_a_pane_is_zoomed_and_a_phone_gets_the_table() -> None:
    panes = Panes()
    panes.fit(48, 40)
    assert panes.layout == "tabs" and panes.visible("trials")
    panes.fit(120, 36)
    assert panes.layout == "wide"
    panes.zoomed = True
    panes.fit(120, 36)
    assert panes.layout == "tabs"
    panes.fit(39, 40)
    assert panes.layout == "card"


def test_the_legend_says_what_stands_in_the_table_and_no_more() -> None:
    board = Board(-0.06, 0.6)
    board.update([made_row(0, loss=0.2, latency_ms=5.0)])
    assert legend(board, 0, 80, {}).plain.split() == ["*", "front"]
    board.update([made_row(1, loss=0.3, latency_ms=4.0, latency_flag="unsettled", marked=True)])
    said = legend(board, 3, 80, {}).plain
    assert "! doubtful latency" in said and "● marked" in said and "→ 3 more columns" in said
    assert "! doubtful  ●" in legend(board, 5, 48, {}).plain


def test_an_eta_is_a_range_and_only_where_it_is_known() -> None:
    watched = Watched("minilm")
    watched.study = replace(ROW, done=2, trials=40, workers=1)
    watched.trials = Board(-0.06, 0.6)
    rows = [replace(row, started=100.0 * n, ended=100.0 * n + 60 + n) for n, row in enumerate(made_rows(5))]
    watched.trials.update(rows[:2])
    assert watched.eta(1000.0) is None  # of two nothing is known
    watched.trials.update(rows)
    found = watched.eta(1000.0)
    assert found is not None and 0 < found[0] < 38 * 62 < found[1]
    watched.trials.update([made_row(9, state="running", started=0.0, ended=None, epoch=0, loss=None)])
    assert watched.eta(1000.0) is None  # it takes longer than any before it
    watched.study = replace(watched.study, status=Status.PAUSED)
    assert watched.eta(1000.0) is None


def test_what_waits_for_latency_is_not_counted() -> None:
    def said(row: StudyRow) -> str:
        return head(
            ROW.name, row, fault="", devices=(), now=10_000.0, readonly=False, eta=None, width=200, colours={}
        ).plain

    assert "waiting for latency 5" in said(replace(ROW, waiting=5)) and "latency" not in said(ROW)
