"""The study's screen: every action on a real store, seen on the screen and in the store."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from threading import Event

import pytest
import sqlalchemy as sa
from textual.pilot import Pilot

from kdnas.store import changes, queries, read_columns, recording
from kdnas.store import tables as t
from kdnas.store.database import Store, open_store
from kdnas.study.constraints import of_study
from kdnas.study.rows import TrialRow
from kdnas.system.paths import state_folder
from kdnas_tui import feed
from kdnas_tui.app import KdnasApp
from kdnas_tui.feed import News
from kdnas_tui.screens.ask import Ask, Write
from kdnas_tui.screens.candidate import CandidateScreen
from kdnas_tui.screens.compare import CompareScreen
from kdnas_tui.screens.export import ExportScreen
from kdnas_tui.screens.help import HelpScreen
from kdnas_tui.screens.rescore import RescoreScreen
from kdnas_tui.screens.studies import StudiesScreen
from kdnas_tui.screens.study import StudyScreen
from kdnas_tui.widgets.curves import Curves
from kdnas_tui.widgets.importance import Importance
from kdnas_tui.widgets.log_tail import LogTail
from kdnas_tui.widgets.pareto_plot import ParetoPlot
from kdnas_tui.widgets.trials_table import TrialsTable
from tests.tui.driving import SIZES, app_on, driven, opened, screen, settled, shows, text_of, until


@pytest.fixture
def store(three_studies: Path, tmp_path: Path) -> Iterator[Store]:
    shutil.copy(three_studies, tmp_path / "kdnas.db")
    with open_store(tmp_path / "kdnas.db") as store:
        yield store


@pytest.fixture
async def pilot(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Pilot[str]]:
    monkeypatch.chdir(tmp_path)
    async with driven(app_on(store.url)) as pilot:
        await opened(pilot, "minilm")
        yield pilot


def row_of(store: Store, number: int, study: str = "minilm") -> TrialRow:
    study_id = queries.study_row(store, study).study_id
    return next(row for row in queries.trial_rows(store, study_id) if row.number == number)


def wanted(store: Store, study: str = "minilm") -> str:
    with store.connect() as connection:
        return str(connection.execute(sa.select(t.study.c.wanted).where(t.study.c.name == study)).scalar_one())


async def test_cursor_is_one_in_table_plot_and_curves(pilot: Pilot[str]) -> None:
    study = screen(pilot.app, StudyScreen)
    await pilot.press("down", "down")
    await settled(pilot)
    number = study.query_one(TrialsTable).cursor
    assert study.watched.cursor == number
    assert study.query_one(ParetoPlot).cursor == number
    while study.panes.aside != "curves":
        study.action_next_tab()
    await until(pilot, lambda: number in study.query_one(Curves).curves, "its curve is drawn")
    study.query_one(ParetoPlot).focus()
    await pilot.press("right")
    await settled(pilot)
    assert study.query_one(TrialsTable).cursor == study.query_one(ParetoPlot).cursor != number


async def test_filter_narrows_table_and_plot_and_keeps_the_last_good_one(pilot: Pilot[str]) -> None:
    study = screen(pilot.app, StudyScreen)
    every = study.query_one(TrialsTable).count
    points = study.query_one(ParetoPlot).count
    await pilot.press("slash", *"layers>=5")
    await settled(pilot)
    few = study.query_one(TrialsTable).count
    assert 0 < few < every
    await until(pilot, lambda: study.query_one(ParetoPlot).count < points, "the plot has fewer points")
    study.query_one("#filter").value = "layers>=5 latncy<3"
    await settled(pilot)
    assert study.query_one(TrialsTable).count == few
    assert "Did you mean" in text_of(pilot.app)
    await pilot.press("escape")
    await settled(pilot)
    assert study.query_one(TrialsTable).count == every
    assert study.watched.filter.empty


async def test_marks_tags_and_notes_are_kept_in_the_store(pilot: Pilot[str], store: Store) -> None:
    study = screen(pilot.app, StudyScreen)
    number = study.watched.cursor
    await pilot.press("space")
    await until(pilot, lambda: row_of(store, number).marked, "the mark is stored")
    await pilot.press("t", *"keep small", "enter")
    await until(pilot, lambda: row_of(store, number).tags == ("keep", "small"), "the tags are stored")
    await pilot.press("n", *"try [bold] again", "enter")
    await until(pilot, lambda: row_of(store, number).note == "try [bold] again", "the note is stored")
    await until(pilot, shows(pilot.app, "keep small"), "the table shows the tags")
    await pilot.press("space")
    await until(pilot, lambda: not row_of(store, number).marked, "the mark is gone")


async def test_pause_stop_and_resume_are_rows_that_workers_read(pilot: Pilot[str], store: Store) -> None:
    await pilot.press("p")
    await until(pilot, lambda: wanted(store) == "pause", "pause is wanted")
    await until(pilot, shows(pilot.app, "PAUSING"), "the screen says so")
    await pilot.press("p")
    await until(pilot, lambda: wanted(store) == "run", "it is to run again")
    await until(pilot, shows(pilot.app, "RUNNING"), "the screen says so")
    await pilot.press("s")
    screen(pilot.app, Ask)
    await pilot.press("down", "enter")
    await until(pilot, lambda: wanted(store) == "abandon", "it is to stop at once")
    await until(pilot, shows(pilot.app, "STOPPING"), "the screen says so")
    await pilot.press("r")
    await until(pilot, lambda: wanted(store) == "run", "it is to run again")


async def test_stop_where_nothing_runs_says_the_hint(store: Store) -> None:
    async with driven(app_on(store.url)) as pilot:
        await opened(pilot, "roberta-imdb")
        await pilot.press("s")
        await until(pilot, shows(pilot.app, "Press r to go on."), "the hint is told")


async def test_budget_is_checked_while_it_is_typed(pilot: Pilot[str], store: Store) -> None:
    await pilot.press("plus")
    field = screen(pilot.app, Write).query_one("Input")
    field.value = "3"
    await until(pilot, shows(pilot.app, "28 trials have ended already. Give at least 28."), "the hint is told")
    await pilot.press("enter")
    screen(pilot.app, Write)
    field.value = "50"
    await pilot.press("enter")
    await until(pilot, lambda: queries.study_row(store, "minilm").trials == 50, "the budget is raised")
    await until(pilot, shows(pilot.app, "28/50"), "the screen shows it")


async def test_constraints_are_set_while_the_study_is_watched(pilot: Pilot[str], store: Store) -> None:
    board = screen(pilot.app, StudyScreen).watched.trials
    assert board is not None
    best = board.best(1)[0]
    assert best.speedup is not None
    await pilot.press("B")
    field = screen(pilot.app, Write).query_one("Input")
    field.value = "max_latency=5"
    await until(pilot, shows(pilot.app, "max_latency_ms"), "the nearest name is told")
    await pilot.press("enter")
    screen(pilot.app, Write)  # it is still asked
    field.value = f"min_speedup={best.speedup + 0.5}"
    await pilot.press("enter")
    await until(pilot, lambda: bool(of_study(queries.study_row(store, "minilm"))), "the constraint is the study's")
    await until(pilot, lambda: board.scored(best.number).infeasible, "the best one misses it")
    assert board.best(1)[0].number != best.number and not board.best(1)[0].infeasible

    await pilot.press("B")
    field = screen(pilot.app, Write).query_one("Input")
    assert field.value == f"min_speedup={best.speedup + 0.5}"
    field.value = ""
    await pilot.press("enter")
    await until(pilot, lambda: not of_study(queries.study_row(store, "minilm")), "there is none now")
    await until(pilot, lambda: board.best(1)[0].number == best.number, "and it is the best again")


async def test_candidate_shows_its_figures_and_copies_them(pilot: Pilot[str], monkeypatch: pytest.MonkeyPatch) -> None:
    study = screen(pilot.app, StudyScreen)
    best, second = (scored.number for scored in study.watched.trials.best(2))
    await until(pilot, lambda: study.watched.cursor == best, "the cursor is on the best trial")
    await pilot.press("enter")
    await until(pilot, lambda: isinstance(pilot.app.screen, CandidateScreen), "the candidate is shown")
    await until(pilot, shows(pilot.app, f"candidate {best}   rank 1"), "its rank")
    for words in ("0.8280", "7.13 to 7.29 ms", "13,200,000", "num_attention_heads", "epoch 4"):
        await until(pilot, shows(pilot.app, words), words)
    await pilot.press("right_square_bracket")
    await until(pilot, shows(pilot.app, f"candidate {second}   rank 2"), "the next candidate")
    assert study.watched.cursor == second
    await until(pilot, shows(pilot.app, "epoch 4"), "its curve, asked for when it is shown")

    sent: list[str] = []
    write = pilot.app._driver.write  # type: ignore[union-attr]
    monkeypatch.setattr(pilot.app._driver, "write", lambda text: (sent.append(text), write(text)))
    await pilot.press("y")
    copy = state_folder() / "copies" / f"minilm-{second}.json"
    await until(pilot, copy.exists, "the copy is in a file")
    body = json.loads(copy.read_text())
    assert body["trial"] == second
    osc = "\x1b]52;c;" + base64.b64encode(copy.read_bytes()).decode() + "\a"
    assert osc in "".join(sent)
    await until(pilot, shows(pilot.app, "Sent to the"), "what became of it")


async def test_many_trials_are_shown_before_all_of_them_is_read(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "MANY", 10)
    read = Event()
    whole = read_columns.read_board
    monkeypatch.setattr(read_columns, "read_board", lambda *asked: read.wait(60) and whole(*asked))
    async with driven(app_on(store.url)) as pilot:
        pilot.app.open_study("minilm")  # type: ignore[attr-defined]
        await until(pilot, shows(pilot.app, "28/40"), "the study is shown")
        study = screen(pilot.app, StudyScreen)
        await until(pilot, lambda: study.query_one(TrialsTable).count == 30, "all trials are listed")
        shown = text_of(pilot.app)
        assert "0.828" in shown and "13.2M" in shown
        await pilot.press("x")
        await until(pilot, shows(pilot.app, "Still reading the trials"), "no half of a trial is written")
        read.set()
        await until(pilot, lambda: study.watched.trials is not None and study.watched.trials.whole, "the rest is there")
        await pilot.press("x")
        await until(pilot, lambda: isinstance(pilot.app.screen, ExportScreen), "now it can be written")


async def test_keys_faster_than_their_messages_leave_the_cursor_where_they_lead(pilot: Pilot[str]) -> None:
    study = screen(pilot.app, StudyScreen)
    table = study.query_one(TrialsTable)
    for _ in range(3):
        table.action_move(1)  # before the screen has heard of the first
    number = table.cursor
    study.hear(News(study=study.watched.study))  # and something new comes in between
    assert table.cursor == number == table.numbers[table.running + 3]
    await settled(pilot)
    assert (table.cursor, study.watched.cursor, study.query_one(ParetoPlot).cursor) == (number, number, number)


async def test_no_step_of_a_dial_is_lost_where_keys_come_faster_than_their_messages(pilot: Pilot[str]) -> None:
    await pilot.press("a")
    found = screen(pilot.app, RescoreScreen)
    for _ in range(10):
        found.action_step(-1)
    await until(pilot, shows(pilot.app, "α −0.16"), "ten steps are taken")
    for _ in range(3):
        found.action_step(1)
        await pilot.pause()
    assert found.query_one("#alpha").value == "−0.13"


async def test_another_reward_ranks_at_once_and_is_used_when_asked(pilot: Pilot[str], store: Store) -> None:
    await pilot.press("a", *["left"] * 30)
    found = screen(pilot.app, RescoreScreen)
    assert "α −0.36" in text_of(pilot.app)
    old = [line.key for line in found.query_one("#old").lines]
    new = [line.key for line in found.query_one("#new").lines]
    assert old != new
    await pilot.press(*["right"] * 80)
    assert "only the loss counts" in text_of(pilot.app)
    found.query_one("#alpha").value = "3"
    await until(pilot, shows(pilot.app, "α = 3 is out of range. Give −2 to 0."), "the hint is told")
    found.query_one("#alpha").value = "−0.3"
    await pilot.press("ctrl+s")
    await until(pilot, lambda: queries.study_row(store, "minilm").alpha == -0.3, "the study uses it")
    study_id = queries.study_row(store, "minilm").study_id
    assert queries.events(store, study_id)[-1].detail["to"] == {"alpha": -0.3, "beta": 0.6}
    study = screen(pilot.app, StudyScreen)
    await until(
        pilot,
        lambda: study.watched.trials.alpha == -0.3,
        "the table is ranked by it",
    )
    await pilot.press("v")
    await until(pilot, shows(pilot.app, "α −0.06 → −0.3"), "the history tells it")


async def test_compare_needs_two_marks_and_shows_differences_first(pilot: Pilot[str], store: Store) -> None:
    await pilot.press("c")
    await until(pilot, shows(pilot.app, "Mark two or more with space."), "the hint is told")
    study = screen(pilot.app, StudyScreen)
    await pilot.press("space", "down", "space", "down", "space")
    await until(pilot, lambda: len(study.watched.marked()) == 3, "three are marked")
    await pilot.press("c")
    screen(pilot.app, CompareScreen)
    shown = text_of(pilot.app)
    assert shown.index("reward") < shown.index("the same in all")
    assert "head_size" not in shown  # folded: all share it


@pytest.mark.parametrize(("downs", "count"), [(0, 10), (2, None), (3, 26)])
async def test_export_writes_what_was_chosen(pilot: Pilot[str], tmp_path: Path, downs: int, count: int | None) -> None:
    study = screen(pilot.app, StudyScreen)
    front = int(study.watched.trials.standing.front.sum())
    await pilot.press("x", *["down"] * downs)
    screen(pilot.app, ExportScreen)
    await pilot.press("ctrl+s")
    path = tmp_path / "minilm.json"
    await until(pilot, path.exists, "the file is written")
    body = json.loads(path.read_text())
    assert len(body["candidates"]) == (front if count is None else count)
    assert body["study"]["name"] == "minilm"
    await until(pilot, lambda: isinstance(pilot.app.screen, StudyScreen), "the study is shown again")


async def test_export_says_what_keeps_it_from_writing(pilot: Pilot[str], tmp_path: Path) -> None:
    await pilot.press("x", "down")
    await until(pilot, shows(pilot.app, "Mark some with space"), "that nothing is marked")
    await pilot.press("up")
    found = screen(pilot.app, ExportScreen)
    for value, hint in (
        (".", "Name a file in it."),
        ("nowhere/x.json", "Make it first, or name another."),
        ("x.docx", ".json"),
        ("", "Name a .json, .csv or .md file."),
    ):
        found.query_one("#file").value = value
        await until(pilot, shows(pilot.app, hint), hint)
    found.query_one("#file").value = "best.csv"
    await pilot.press("ctrl+s")
    await until(pilot, (tmp_path / "best.csv").exists, "a CSV is written")


async def test_log_follows_is_searched_and_left(pilot: Pilot[str], store: Store) -> None:
    study = screen(pilot.app, StudyScreen)
    await pilot.press("left_square_bracket")
    await until(pilot, lambda: isinstance(study.focused, LogTail), "the log is shown")
    await until(pilot, shows(pilot.app, "loaded the teacher"), "its lines are shown")
    study_id = queries.study_row(store, "minilm").study_id
    changes.add_log(store, study_id, "warning", "the disk [red]fills[/red]")
    await until(pilot, shows(pilot.app, "the disk [red]fills[/red]"), "a new line as it is")
    await pilot.press("slash", *"cache", "enter")
    assert study.query_one(LogTail).searched == "cache"
    assert study.watched.filter.empty
    await pilot.press("escape")
    assert study.query_one(LogTail).searched == ""


async def test_what_another_screen_or_worker_writes_is_seen(pilot: Pilot[str], store: Store) -> None:
    study_id = queries.study_row(store, "minilm").study_id
    changes.set_wanted(store, study_id, "pause")
    await until(pilot, shows(pilot.app, "PAUSING"), "the pause")
    changes.rename(store, study_id, "minilm-renamed")
    await until(pilot, shows(pilot.app, "minilm-renamed"), "the new name")


async def test_study_deleted_elsewhere_leads_back_to_the_list(pilot: Pilot[str], store: Store) -> None:
    with store.begin() as connection:
        connection.execute(sa.delete(t.study).where(t.study.c.name == "minilm"))
    await until(pilot, lambda: isinstance(pilot.app.screen, StudiesScreen), "the list is shown")
    await until(pilot, shows(pilot.app, "minilm was deleted."), "the reason is told")


async def test_escape_leads_back_to_the_studies(pilot: Pilot[str]) -> None:
    await pilot.press("escape")
    await until(pilot, shows(pilot.app, "roberta-imdb"), "the studies are listed")


@pytest.mark.parametrize("size", ["48x40", "80x24", "120x36"])
async def test_every_pane_is_reached_by_keys_at_every_size(store: Store, size: str) -> None:
    async with driven(app_on(store.url), SIZES[size]) as pilot:
        study = await opened(pilot, "kdnas-paper")
        seen = set()
        for _ in range(10):
            await pilot.press("right_square_bracket")
            await pilot.pause()
            seen.add(study.panes.aside if study.panes.layout == "wide" else study.panes.tab)
        assert {"history", "slice", "parallel", "timeline", "curves", "controller", "importance", "log"} <= seen


async def test_resizing_keeps_study_cursor_and_filter(pilot: Pilot[str]) -> None:
    study = screen(pilot.app, StudyScreen)
    await pilot.press("down", "down", "slash", *"is:ranked", "enter")
    number = study.watched.cursor
    sizes = ((80, 24, "tabs"), (50, 11, "card"), (200, 50, "wide"), (20, 5, "card"), (120, 36, "wide"))
    for width, height, layout in sizes:
        await pilot.resize_terminal(width, height)
        await until(pilot, lambda layout=layout: study.panes.layout == layout, layout)
        assert study.watched.cursor == number
        assert study.watched.filter.text == "is:ranked"


@pytest.mark.parametrize(("size", "pane"), [((120, 36), "trials"), ((120, 36), "log"), ((80, 24), "log")])
async def test_passing_through_the_card_size_keeps_the_focused_pane(
    store: Store, size: tuple[int, int], pane: str
) -> None:
    async with driven(app_on(store.url), size) as pilot:
        study = await opened(pilot, "minilm")
        while study.focused is None or study.focused.id != pane:
            await pilot.press("left_square_bracket")
        await pilot.resize_terminal(50, 11)
        await until(pilot, lambda: study.panes.layout == "card" and study.focused is None, "only a card is shown")
        await pilot.resize_terminal(*size)
        await until(pilot, lambda: study.panes.layout != "card", "the panes are shown again")
        await settled(pilot)
        assert study.focused is not None and study.focused.id == pane
        if pane == "trials":
            number = study.watched.cursor
            await pilot.press("down")
            await until(pilot, lambda: study.watched.cursor != number, "keys are heard")


@pytest.mark.parametrize("size", ["48x40", "80x24", "120x36"])
async def test_every_key_of_the_footer_can_be_clicked(store: Store, size: str) -> None:
    from kdnas_tui.widgets.key_bar import KeyBar

    async with driven(app_on(store.url), SIZES[size]) as pilot:
        await opened(pilot, "minilm")
        bar = pilot.app.screen.query_one(KeyBar)
        position = 1
        for key in bar.shown(SIZES[size][0]):
            if key.action == "help":
                await pilot.click(bar, offset=(position, 0))
                break
            position += bar._width(key)
        screen(pilot.app, HelpScreen)


async def test_importance_is_estimated_for_the_study_that_ships(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.tui.driving.PATIENCE_S", 120.0)  # a process of its own loads Optuna
    with recording.opened(recording.shipped()) as (url, name):
        async with driven(app_on(url)) as pilot:
            study = await opened(pilot, name)
            await pilot.press("colon", "m")
            bars = study.query_one(Importance)
            await until(pilot, lambda: bars.shares, "the shares are there")
            assert sum(share for _, share in bars.shares) == pytest.approx(1.0, abs=0.02)
            await until(pilot, shows(pilot.app, bars.shares[0][0]), "the most important one is shown")


@pytest.mark.parametrize("ascii_only", [False, True])
async def test_without_colours_everything_is_there(
    store: Store, monkeypatch: pytest.MonkeyPatch, ascii_only: bool
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    async with driven(app_on(store.url, ascii=ascii_only)) as pilot:
        study = await opened(pilot, "minilm")
        await until(pilot, lambda: study.query_one(ParetoPlot).count > 0, "the plot is drawn")
        for line in pilot.app.screen._compositor.render_strips(pilot.app.size):
            colours = {c.triplet for s in line if s.style for c in (s.style.color, s.style.bgcolor) if c and c.triplet}
            assert all(t.red == t.green == t.blue for t in colours)
        await pilot.press("i")
        await until(pilot, shows(pilot.app, "candidate 25"), "the candidate is shown")


async def test_quitting_says_that_the_search_goes_on(pilot: Pilot[str]) -> None:
    app = pilot.app
    assert isinstance(app, KdnasApp)
    await pilot.press("q")
    assert "The search goes on: minilm." in app.farewell
