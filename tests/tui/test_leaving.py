"""What is left stays behind: faults, and the colours of another theme; nothing written goes without a question."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from rich.style import Style
from textual.pilot import Pilot
from textual.widgets import Input

from kdnas.store.changes import set_wanted
from kdnas.store.database import open_store
from kdnas.study.rows import EventRow
from kdnas_tui.screens import study as study_screen
from kdnas_tui.screens.about import event_line
from kdnas_tui.screens.ask import Ask
from kdnas_tui.screens.new_study import NewStudyScreen
from kdnas_tui.screens.studies import StudiesScreen
from kdnas_tui.theme import DARK, LIGHT
from tests.tui.driving import app_on, driven, listed, opened, shows, until


@pytest.fixture
async def pilot(three_studies: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Pilot[str]]:
    monkeypatch.setattr(study_screen, "AGES_S", 3600.0)  # so that nothing else draws the head again
    async with driven(app_on(str(three_studies))) as pilot:
        yield pilot


def colour_of(app: Any, words: str) -> str:
    """The colour in which words stand on the first line."""
    line = app.screen._compositor.render_strips(app.size)[0]
    styles = [segment.style or Style.null() for segment in line if words in segment.text]
    return "" if not styles or styles[0].color is None else str(styles[0].color.get_truecolor().hex)


async def test_the_head_has_the_colours_of_the_theme_at_once(pilot: Pilot[str]) -> None:
    await opened(pilot, "minilm")
    assert colour_of(pilot.app, "RUNNING") == DARK.success
    await pilot.press("ctrl+t")
    await until(pilot, lambda: colour_of(pilot.app, "RUNNING") == LIGHT.success, "the head has the new theme")


async def test_a_fault_does_not_follow_to_another_study(pilot: Pilot[str]) -> None:
    found = await opened(pilot, "minilm")
    await pilot.press("c")
    await until(pilot, shows(pilot.app, "Mark two or more with space."), "the fault is told")
    await pilot.press("escape")
    await until(pilot, lambda: isinstance(pilot.app.screen, StudiesScreen), "the studies are shown")
    assert "Mark two or more" not in "".join(notice.message for notice in pilot.app._notifications)
    await opened(pilot, "minilm")
    await pilot.press("c")
    await until(pilot, lambda: bool(pilot.app._notifications), "the fault is told again")
    await opened(pilot, "roberta-imdb")
    assert not pilot.app._notifications and found is not pilot.app.screen


async def test_nothing_written_in_the_form_is_lost_without_a_question(pilot: Pilot[str]) -> None:
    await listed(pilot)
    await pilot.press("n")
    await until(pilot, lambda: isinstance(pilot.app.screen, NewStudyScreen), "the form is open")
    form: Any = pilot.app.screen
    form.give_up_asking()
    trials = form.query_one("#f-budget-trials", Input)

    async def asked(question: str, *keys: str) -> None:
        await until(pilot, shows(pilot.app, question), "it is asked")
        assert isinstance(pilot.app.screen, Ask)
        await pilot.press(*keys)
        await until(pilot, lambda: not isinstance(pilot.app.screen, Ask), "it is answered")

    async def preset() -> None:
        await pilot.press("f4")
        await until(pilot, shows(pilot.app, "Fill the form from a spec"), "the presets are listed")
        await pilot.press("enter")

    await preset()  # nothing was written: no question
    await until(pilot, lambda: pilot.app.screen is form, "the form is filled")
    trials.value = "77"
    await preset()
    await asked("Replace what you have written?", "enter")
    assert trials.value == "77"
    await preset()
    await asked("Written: trials.", "down", "enter")
    await until(pilot, lambda: trials.value != "77", "the form is filled again")
    trials.value = "78"
    await pilot.press("escape")
    await asked("Leave the form?", "enter")
    assert pilot.app.screen is form and trials.value == "78"
    await pilot.press("escape")
    await asked("Leave the form?", "down", "enter")
    assert isinstance(pilot.app.screen, StudiesScreen)


def test_the_history_says_in_words_what_was_asked(tmp_path: Path, three_studies: Path) -> None:
    import shutil

    from kdnas.store import queries

    shutil.copy(three_studies, tmp_path / "kdnas.db")
    with open_store(tmp_path / "kdnas.db") as store:
        row = queries.study_row(store, "minilm")
        for wanted in ("pause", "run", "stop", "abandon"):
            set_wanted(store, row.study_id, wanted)
        events: list[EventRow] = queries.events(store, row.study_id)
    said = [event_line(event)[1] for event in events][-4:]
    assert said == ["told to pause", "told to run", "told to stop after the running trial", "told to stop at once"]


def test_the_library_that_serves_prints_no_address(capsys: pytest.CaptureFixture[str]) -> None:
    import asyncio

    pytest.importorskip("textual_serve")
    from kdnas_tui.serve import guarded

    server = guarded("true", 8123, "key")
    asyncio.run(server.on_startup(None))
    assert capsys.readouterr().out == ""
