"""The list of studies: what it shows, what it says of a store that cannot be read, and every action."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from textual.pilot import Pilot

from kdnas.store import queries
from kdnas.store.database import open_reader, open_store
from kdnas_tui.app import KdnasApp
from kdnas_tui.screens.ask import Ask, Write
from kdnas_tui.screens.new_study import NewStudyScreen
from kdnas_tui.screens.study import StudyScreen
from kdnas_tui.widgets.list_table import ListTable
from tests.tui.driving import app_on, driven, listed, screen, shows, text_of, until
from tests.tui.filled import NOW, study


@pytest.fixture
def path(three_studies: Path, tmp_path: Path) -> Path:
    shutil.copy(three_studies, tmp_path / "kdnas.db")
    return tmp_path / "kdnas.db"


@pytest.fixture
async def pilot(path: Path) -> AsyncIterator[Pilot[str]]:
    async with driven(app_on(str(path))) as pilot:
        await listed(pilot)
        yield pilot


def names(path: Path) -> set[str]:
    with open_reader(path) as store:
        return {row.name for row in queries.study_rows(store)}


def at(pilot: Pilot[str], name: str) -> None:
    found = pilot.app.screen
    row = next(row for row in found.rows if row.name == name)  # type: ignore[attr-defined]
    found.query_one(ListTable).go_to(str(row.study_id))


async def test_true_status_is_told_from_locks_and_heartbeats(pilot: Pilot[str]) -> None:
    shown = text_of(pilot.app)
    assert "● running" in shown
    assert "○ stopped" in shown
    assert "✕ failed" in shown
    at(pilot, "minilm")
    await until(pilot, shows(pilot.app, "pid 4711 on gpubox, heard 2s ago"), "who runs it is told")


async def test_a_silent_worker_is_dead(path: Path) -> None:
    with open_store(path) as store:
        study(store, "silent", worker="running", heard=1.0)
    async with driven(app_on(str(path))) as pilot:
        await listed(pilot)
        at(pilot, "silent")
        await until(pilot, shows(pilot.app, "✕ dead"), "it is dead")
        await until(pilot, shows(pilot.app, "press r to go on"), "the hint is told")


async def test_filter_keeps_the_studies_with_all_words(pilot: Pilot[str]) -> None:
    await pilot.press("slash", *"lstm stop", "enter")
    await until(pilot, lambda: "roberta-imdb" not in text_of(pilot.app), "the others are left out")
    assert "kdnas-paper" in text_of(pilot.app)
    await pilot.press("escape")
    await until(pilot, shows(pilot.app, "roberta-imdb"), "all are shown again")


async def test_rename_checks_the_name_and_keeps_it(pilot: Pilot[str], path: Path) -> None:
    at(pilot, "kdnas-paper")
    await pilot.press("e")
    field = screen(pilot.app, Write).query_one("Input")
    field.value = "minilm"
    await until(pilot, shows(pilot.app, "There is a study minilm already. Choose another name."), "the hint is told")
    field.value = "with space"
    await until(pilot, shows(pilot.app, "Use 1 to 80 letters, digits"), "the hint is told")
    field.value = "paper"
    await pilot.press("enter")
    await until(pilot, lambda: "paper" in names(path), "the store has the name")
    await until(pilot, shows(pilot.app, "kdnas-paper is now paper."), "it is told")


async def test_delete_asks_first_and_never_a_running_study(pilot: Pilot[str], path: Path) -> None:
    at(pilot, "minilm")
    await pilot.press("delete")
    await until(pilot, shows(pilot.app, "stop it first."), "the hint is told")
    at(pilot, "roberta-imdb")
    await pilot.press("delete")
    screen(pilot.app, Ask)
    await pilot.press("enter")
    assert "roberta-imdb" in names(path)
    await pilot.press("delete", "down", "enter")
    await until(pilot, lambda: "roberta-imdb" not in names(path), "it is deleted")
    await until(pilot, shows(pilot.app, "roberta-imdb is deleted."), "it is told")


async def test_duplicate_fills_the_form_with_another_name(pilot: Pilot[str]) -> None:
    at(pilot, "kdnas-paper")
    await pilot.press("d")
    found = screen(pilot.app, NewStudyScreen)
    assert found.query_one("#f-name").value == "kdnas-paper-2"
    assert found.query_one("#f-strategy-name").value == "lstm"


async def test_enter_and_a_double_click_open_the_study(pilot: Pilot[str]) -> None:
    at(pilot, "kdnas-paper")
    await pilot.press("enter")
    assert screen(pilot.app, StudyScreen).watched.name == "kdnas-paper"
    await pilot.press("escape")
    await listed(pilot)
    await pilot.click("#studies", offset=(4, 1), times=2)
    await until(pilot, lambda: isinstance(pilot.app.screen, StudyScreen), "it is open")


@pytest.mark.parametrize(
    ("content", "hint"),
    [(b"not a database at all, but long enough to be one" * 40, "is not a database"), (b"", "is empty")],
)
async def test_a_store_that_cannot_be_read_is_told_with_the_hint(tmp_path: Path, content: bytes, hint: str) -> None:
    path = tmp_path / "odd.db"
    path.write_bytes(content)
    async with driven(app_on(str(path))) as pilot:
        await until(pilot, shows(pilot.app, hint), hint)
        assert path.read_bytes() == content
        path.unlink()
        await until(pilot, shows(pilot.app, "No study yet. Press n to begin one."), "it is over")


async def test_a_study_begun_elsewhere_appears(pilot: Pilot[str], path: Path) -> None:
    with open_store(path) as store:
        study(store, "elsewhere", rows=0)
    await until(pilot, shows(pilot.app, "elsewhere"), "it is listed")


async def test_theme_is_kept(pilot: Pilot[str], path: Path) -> None:
    before = pilot.app.theme
    await pilot.press("ctrl+t")
    assert pilot.app.theme != before
    assert KdnasApp(str(path), clock=lambda: NOW).theme == pilot.app.theme


async def test_palette_has_every_action_of_the_screen(pilot: Pilot[str]) -> None:
    await pilot.press("ctrl+p", *"duplicate")
    await until(pilot, shows(pilot.app, "duplicate: Begin a new study"), "it is found")
    await pilot.press("enter")
    await until(pilot, lambda: isinstance(pilot.app.screen, NewStudyScreen), "it is done")


def shown_names(pilot: Pilot[str]) -> list[str]:
    return [line.cells[0] for line in pilot.app.screen.query_one(ListTable).lines]


async def test_studies_are_sorted_by_any_column_as_the_trials_are(pilot: Pilot[str]) -> None:
    titles = [column.title for column in pilot.app.screen.query_one(ListTable).columns]
    assert "▾updated" in text_of(pilot.app)
    await pilot.press("greater_than_sign")  # from the last column to the first
    assert shown_names(pilot) == ["kdnas-paper", "minilm", "roberta-imdb"]
    assert "name▴" in text_of(pilot.app)
    at(pilot, "roberta-imdb")
    await pilot.press("equals_sign")
    assert shown_names(pilot) == ["roberta-imdb", "minilm", "kdnas-paper"] and "name▾" in text_of(pilot.app)
    table = pilot.app.screen.query_one(ListTable)
    assert table.lines[table.cursor].cells[0] == "roberta-imdb"  # the cursor stays on its study
    x = text_of(pilot.app).splitlines()[2].index(" trials") + 2
    await pilot.click("#studies", offset=(x, 0))
    done = [int(line.cells[titles.index("trials")].partition("/")[0]) for line in table.lines]
    assert done == sorted(done, reverse=True) and "▾trials" in text_of(pilot.app)
    for _ in titles:
        await pilot.press("less_than_sign")
    assert "▾trials" in text_of(pilot.app)  # once round


async def test_a_paused_study_is_not_counted_as_running_and_a_long_name_evicts_nothing(path: Path) -> None:
    with open_store(path) as store:
        study(store, "p" * 80, rows=3, wanted="pause", worker="paused")
    async with driven(app_on(str(path)), (80, 24)) as pilot:
        await listed(pilot)
        await until(pilot, shows(pilot.app, "1 running, 1 paused"), "both are counted, each once")
        titles = text_of(pilot.app).splitlines()[2].split()
        assert {"name", "status", "trials", "best", "▾updated", "strategy"} <= set(titles)
        assert "ppp…" in text_of(pilot.app)
        await pilot.resize_terminal(48, 40)
        await until(pilot, lambda: pilot.app.size.width == 48, "it is narrow")
        assert {"name", "status", "trials", "best"} <= set(text_of(pilot.app).splitlines()[2].replace("▾", "").split())
