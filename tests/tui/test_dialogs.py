"""The keys that work everywhere work over every dialog too, and every way out says that the search goes on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from textual.command import CommandPalette
from textual.pilot import Pilot
from textual.screen import Screen

from kdnas_tui.app import KdnasApp
from kdnas_tui.screens.ask import Ask, Write
from kdnas_tui.screens.help import HelpScreen
from tests.tui.driving import app_on, driven, opened, shows, until

DIALOGS = {"s": Ask, "t": Write, "question_mark": HelpScreen, "ctrl+p": CommandPalette}


@pytest.fixture(params=DIALOGS)
async def dialog(three_studies: Path, request: pytest.FixtureRequest) -> AsyncIterator[Pilot[str]]:
    async with driven(app_on(str(three_studies))) as pilot:
        await opened(pilot, "minilm")
        await pilot.press(request.param)
        await shown(pilot, DIALOGS[request.param])
        yield pilot


async def shown(pilot: Pilot[str], kind: type[Screen[Any]]) -> None:
    await until(pilot, lambda: isinstance(pilot.app.screen, kind), f"{kind.__name__} is shown")


async def test_the_theme_changes_over_a_dialog(dialog: Pilot[str]) -> None:
    before, over = dialog.app.theme, dialog.app.screen
    await dialog.press("ctrl+t")
    await until(dialog, lambda: dialog.app.theme != before, "the other theme is on")
    assert dialog.app.screen is over


async def test_leaving_from_a_dialog_says_that_the_search_goes_on(dialog: Pilot[str]) -> None:
    app = dialog.app
    assert isinstance(app, KdnasApp)
    await dialog.press("ctrl+q")
    await until(dialog, lambda: app._exit, "the app ends")
    assert "The search goes on: minilm." in app.farewell


async def test_the_palette_opens_over_a_dialog(dialog: Pilot[str]) -> None:
    await dialog.press("ctrl+p")
    await shown(dialog, CommandPalette)


@pytest.mark.parametrize("dialog", ["s", "t"], indirect=True)
async def test_f1_explains_a_question_and_closes_its_own_page(dialog: Pilot[str]) -> None:
    over = dialog.app.screen
    await dialog.press("f1")
    await shown(dialog, HelpScreen)
    await until(dialog, shows(dialog.app, "Go back; nothing is changed"), "the question's keys are listed")
    await dialog.press("f1")
    await until(dialog, lambda: dialog.app.screen is over, "the question is there again")


@pytest.mark.parametrize("dialog", ["s"], indirect=True)
async def test_a_letter_that_ends_the_app_elsewhere_does_not_in_a_question(dialog: Pilot[str]) -> None:
    await dialog.press("q")
    await dialog.pause()
    assert isinstance(dialog.app.screen, Ask) and not dialog.app._exit
