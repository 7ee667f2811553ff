"""Enter goes on and never commits: what acts is ^s, and the screen says so. Dialogs, whose answer Enter is, aside."""

from __future__ import annotations

import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import Input

from kdnas.store import queries
from kdnas.store.database import open_reader
from kdnas_tui import workers
from kdnas_tui.screens.export import ExportScreen
from kdnas_tui.screens.finalize import FinalizeScreen
from kdnas_tui.screens.new_study import NewStudyScreen
from kdnas_tui.screens.rescore import RescoreScreen
from kdnas_tui.widgets.act_button import ActButton
from tests.tui.driving import app_on, driven, listed, opened, screen, shows, until


@pytest.fixture
async def pilot(three_studies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Pilot[str]]:
    shutil.copy(three_studies, tmp_path / "kdnas.db")
    monkeypatch.chdir(tmp_path)
    begun = f"open({str(tmp_path / 'begun')!r}, 'w').close()"
    monkeypatch.setattr(workers, "KDNAS", (sys.executable, "-c", begun))
    async with driven(app_on(f"sqlite:///{tmp_path / 'kdnas.db'}")) as pilot:
        await listed(pilot)
        yield pilot


async def enter_everywhere(pilot: Pilot[str]) -> None:
    """Press Enter in each field of the screen and on its button."""
    for part in (*pilot.app.screen.query(Input), *pilot.app.screen.query(ActButton)):
        part.focus()
        await pilot.pause()
        await pilot.press("enter")
        await pilot.pause()


async def test_enter_in_alpha_and_beta_goes_on_and_changes_nothing(pilot: Pilot[str], tmp_path: Path) -> None:
    await opened(pilot, "minilm")
    await pilot.press("a", "left", "left", "enter")
    found = screen(pilot.app, RescoreScreen)
    await until(pilot, lambda: found.focused.id == "beta", "the other value has the focus")
    await pilot.press("enter", "escape")
    with open_reader(tmp_path / "kdnas.db") as store:
        row = queries.study_row(store, "minilm")
        assert (row.alpha, row.beta) == (-0.06, 0.6)
        assert [event.kind for event in queries.events(store, row.study_id)].count("reward") == 0


async def test_enter_in_export_writes_nothing(pilot: Pilot[str], tmp_path: Path) -> None:
    await opened(pilot, "minilm")
    await pilot.press("x")
    await enter_everywhere(pilot)
    screen(pilot.app, ExportScreen)
    await until(pilot, shows(pilot.app, "Press ^s to write."), "what writes is said")
    assert not (tmp_path / "minilm.json").exists()
    await pilot.press("ctrl+s")
    await until(pilot, (tmp_path / "minilm.json").exists, "^s writes")


async def test_enter_in_finalize_starts_nothing(pilot: Pilot[str], tmp_path: Path) -> None:
    await opened(pilot, "minilm")
    await pilot.press("f", "enter")
    found = screen(pilot.app, FinalizeScreen)
    await enter_everywhere(pilot)
    await until(pilot, shows(pilot.app, "Press ^s to distil."), "what distils is said")
    assert not found._started and not (tmp_path / "begun").exists()
    await pilot.press("ctrl+s")
    await until(pilot, (tmp_path / "begun").exists, "^s distils")


async def test_enter_in_the_form_starts_nothing(pilot: Pilot[str], tmp_path: Path) -> None:
    await pilot.press("d")
    found = screen(pilot.app, NewStudyScreen)
    found.give_up_asking()
    await enter_everywhere(pilot)
    assert not found._starting
    await until(pilot, shows(pilot.app, "Press ^s to start."), "what starts is said")
    assert pilot.app.screen is found


async def test_a_click_on_the_button_acts(pilot: Pilot[str], tmp_path: Path) -> None:
    await opened(pilot, "minilm")
    await pilot.press("x")
    await pilot.pause()
    await pilot.click("#write")
    await until(pilot, (tmp_path / "minilm.json").exists, "the file is written")
