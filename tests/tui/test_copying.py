"""One key and a small choice copy what people paste: the study's command, and a candidate in each format."""

from __future__ import annotations

import csv
import json
import shutil
import tomllib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from textual.pilot import Pilot

from kdnas.system.paths import state_folder
from kdnas_tui.screens import copying
from kdnas_tui.screens.ask import Ask
from tests.study.test_spec_flags import read_back
from tests.tui.driving import app_on, driven, listed, opened, screen, shows, until
from tests.tui.test_studies import at


@pytest.fixture
async def pilot(three_studies: Path, tmp_path: Path) -> AsyncIterator[Pilot[str]]:
    shutil.copy(three_studies, tmp_path / "kdnas.db")
    async with driven(app_on(str(tmp_path / "kdnas.db")), (80, 24)) as pilot:
        await listed(pilot)
        yield pilot


async def choose(pilot: Pilot[str], key: str, answer: str) -> None:
    await pilot.press(key)
    names = [copying.COMMAND, *copying.CHOICES]
    screen(pilot.app, Ask)
    await pilot.press(*["down"] * names.index(answer), "enter")


async def copied(pilot: Pilot[str], name: str) -> str:
    path = state_folder() / "copies" / name
    await until(pilot, path.exists, f"{name} is written")
    assert pilot.app.clipboard == path.read_text()
    path.unlink()
    return pilot.app.clipboard


async def test_a_study_of_the_list_gives_its_command_and_its_best(pilot: Pilot[str]) -> None:
    at(pilot, "kdnas-paper")
    await choose(pilot, "y", "command")
    spec = read_back(await copied(pilot, "kdnas-paper.command.txt"))
    assert (spec.name, spec.strategy.name, spec.budget.trials) == ("kdnas-paper", "lstm", 40)
    row = next(row for row in pilot.app.screen.rows if row.name == "kdnas-paper")  # type: ignore[attr-defined]
    await choose(pilot, "y", "json")
    assert json.loads(await copied(pilot, f"kdnas-paper-{row.best_number}.json"))["reward"] == row.best_reward
    await choose(pilot, "y", "latex")
    assert (await copied(pilot, f"kdnas-paper-{row.best_number}.tex")).endswith(" \\\\\n")


async def test_the_candidate_under_the_cursor_in_every_form(pilot: Pilot[str]) -> None:
    study = await opened(pilot, "kdnas-paper")
    number = study.watched.cursor
    await choose(pilot, "Y", "toml")
    assert tomllib.loads(await copied(pilot, f"kdnas-paper-{number}.toml"))["trial"] == number
    await choose(pilot, "Y", "csv-heading")
    (row,) = csv.DictReader((await copied(pilot, f"kdnas-paper-{number}.csv")).splitlines())
    assert row["trial"] == str(number)
    await pilot.press("i")
    await choose(pilot, "Y", "markdown")
    assert (await copied(pilot, f"kdnas-paper-{number}.md")).startswith("| ")


async def test_a_trial_without_a_result_says_what_it_can_be_copied_as(pilot: Pilot[str]) -> None:
    study = await opened(pilot, "minilm")
    assert study.watched.trials is not None
    study.watched.cursor = study.watched.trials.running()[0]
    await choose(pilot, "Y", "csv")
    await until(pilot, shows(pilot.app, "has no result"), "the hint is told")
