"""The form's line of a warm start: who lends, what it makes of the command, and what a study that was lent to shows."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from kdnas.search.begin import begin
from kdnas.search.worker import run_worker
from kdnas_tui.screens.about import AboutScreen
from kdnas_tui.screens.ask import Ask
from kdnas_tui.screens.new_study import NewStudyScreen
from tests import fakes
from tests.tui.driving import app_on, driven, listed, opened, screen, text_of, until


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study, and one that it lent to."""
    path = tmp_path_factory.mktemp("store") / "kdnas.db"
    for name, strategy, trials in (("films", "random", 8), ("speeches", "auto", 3)):
        begin(fakes.spec(name, data={"source": name}, strategy={"name": strategy}, budget={"trials": trials}), path)
        run_worker(str(path), name, prepare=fakes.prepare, measure=fakes.measure)
    return path


async def test_the_line_takes_a_study_of_the_store_and_no_other(store: Path) -> None:
    async with driven(app_on(str(store))) as pilot:
        await listed(pilot)
        await pilot.press("n")
        form = pilot.app.screen
        assert isinstance(form, NewStudyScreen)
        form.give_up_asking()
        field = form._field("like")
        assert field.value == "auto"
        field.focus()
        await until(pilot, lambda: form._taken == {"films", "speeches"}, "the studies are known")
        await pilot.press("f2")
        screen(pilot.app, Ask)
        assert "begin from nothing" in text_of(pilot.app)
        await pilot.press("down", "down", "enter")
        await until(pilot, lambda: form.spec is not None and form.spec.like == "films", "the study is taken")
        words = shlex.split(form._command())
        assert words[words.index("--like") + 1] == "films"
        field.value = "filns"
        said = form.query_one("#f-like-hint")
        await until(pilot, lambda: "There is no study 'filns'" in str(said.content), "the fault is said")  # type: ignore[attr-defined]
        form._field("strategy.name").value = "random"
        field.value = "films"
        await until(pilot, lambda: "learns from no other study" in str(form._faults), "random borrows nothing")
        field.value = "none"
        await until(pilot, lambda: form.spec is not None and form.spec.like == "none", "off is off")


async def test_a_study_that_was_lent_to_says_by_whom(store: Path) -> None:
    async with driven(app_on(str(store)), (160, 40)) as pilot:
        found = await opened(pilot, "speeches")
        await until(pilot, lambda: "lent 8 trials of films" in text_of(pilot.app), "the line above says it")
        assert found.watched.lent == "8 trials of films"
        pilot.app.push_screen(AboutScreen(found.watched, found.desk))
        await until(pilot, lambda: "begun with 8 trials of films, lent" in text_of(pilot.app), "so does the history")
