"""Wall time on the screens: how long is left and how many trials that gives, and the lines in which it is asked for."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from textual.pilot import Pilot
from textual.widgets import Input

from kdnas.store import ends, queries
from kdnas.store import tables as t
from kdnas.store.database import Store, open_store
from kdnas.study.spec import from_values
from kdnas.study.time_budget import MOST_TRIALS
from kdnas.system import moments
from kdnas_tui.screens.ask import Write
from kdnas_tui.screens.new_study import NewStudyScreen
from kdnas_tui.screens.spec_fields import entry_of, form_values, time_of
from kdnas_tui.screens.study_lines import about_study
from tests.tui.driving import app_on, driven, listed, opened, screen, shows, text_of, until
from tests.tui.filled import NOW, new_store, study


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A study whose time alone limits it, with an hour left, and one of 40 trials with ten minutes left."""
    _, store = new_store(tmp_path)
    with store:
        for name, left, alone in (("tonight", 3600, True), ("both", 600, False)):
            number = study(store, name, worker="running")
            ends.set_end(store, number, NOW + left)
            with store.begin() as connection:
                here = t.study.c.study_id == number
                spec = json.loads(connection.execute(sa.select(t.study.c.spec).where(here)).scalar_one())
                if alone:
                    spec["budget"]["trials"] = MOST_TRIALS
                connection.execute(sa.update(t.study).where(here).values(spec=json.dumps(spec), updated=NOW - 5))
        yield store


@asynccontextmanager
async def on(store: Store, size: tuple[int, int] = (120, 36)) -> AsyncIterator[Pilot[str]]:
    async with driven(app_on(str(store.path)), size) as pilot:
        yield pilot


async def test_the_study_shows_the_time_left_and_the_trials_that_it_gives(store: Store) -> None:
    row = queries.study_row(store, "tonight")
    assert row.open and row.expected is not None and row.trial_s is not None
    # The heartbeat is two seconds old, a trial takes a minute, and two are overdue.
    assert row.expected == row.done + 2 + 60 and row.eta == (3602, 3602)
    async with on(store) as pilot:
        await opened(pilot, "tonight")
        await until(pilot, shows(pilot.app, f"{row.done}/≈{row.expected} trials"), "the expected number is shown")
        end = time.strftime("%H:%M", time.localtime(NOW + 3600))
        assert f"until {end}" in text_of(pilot.app) and "ETA 1h00" in text_of(pilot.app)


async def test_both_budgets_show_whichever_ends_the_study_first(store: Store) -> None:
    row = queries.study_row(store, "both")
    assert not row.open and row.expected == row.done + 2 + 10 == 40
    async with on(store) as pilot:
        await opened(pilot, "both")
        await until(pilot, shows(pilot.app, f"{row.done}/40 trials"), "the trials that were asked for are shown")
        assert f"until {time.strftime('%H:%M', time.localtime(NOW + 600))}" in text_of(pilot.app)


async def test_the_list_of_studies_says_until_when_they_run(store: Store) -> None:
    row = queries.study_row(store, "tonight")
    async with on(store) as pilot:
        found = await listed(pilot)
        assert f"{row.done}/≈{row.expected}" in text_of(pilot.app)
        said = about_study(row, [], found.desk.clock())
        assert "runs until" in said and "(1h00)" in said
        assert "(10m, or until 40 trials are done)" in about_study(
            queries.study_row(store, "both"), [], found.desk.clock()
        )


async def test_the_card_of_a_small_terminal_has_them_too(store: Store) -> None:
    row = queries.study_row(store, "tonight")
    async with on(store, (38, 11)) as pilot:
        await opened(pilot, "tonight")
        await until(pilot, shows(pilot.app, f"{row.done}/≈{row.expected}"), "the card shows them")


async def test_the_budget_takes_an_end_and_says_what_is_wrong_with_it(store: Store) -> None:
    async with on(store) as pilot:
        await opened(pilot, "both")
        await pilot.press("plus")
        dialog = screen(pilot.app, Write)
        field = dialog.query_one(Input)
        for typed, said in (
            ("25:00", "it has no time of day"),
            ("2020-01-01 07:30", "has passed"),
            ("0h", "out of range"),
            ("nonsense", "no whole number"),
        ):
            field.value = typed
            await until(pilot, shows(pilot.app, said), said)
        field.value = "2h"
        await pilot.press("enter")
        await until(pilot, lambda: queries.study_row(store, "both").until == NOW + 7200, "it has two hours more")


HINTS = (
    ("0", "time = 0 is out of range. Give a number of more than 0 and at most 8760"),
    ("-1", "time = -1 is out of range"),
    ("nan", "time = nan is out of range"),
    ("1e9", "time = 1000000000.0 is out of range"),
    ("25:00", "it has no time of day; times go from 00:00 to 23:59"),
    ("yesterday", "it is no moment"),
    ("2020-01-01 07:30", "2020-01-01 07:30 has passed"),
)


async def test_the_line_of_the_form_is_checked_and_begins_what_it_shows(store: Store) -> None:
    async with on(store) as pilot:
        await listed(pilot)
        await pilot.press("n")
        form = screen(pilot.app, NewStudyScreen)
        form.give_up_asking()
        entry, said = form.query_one("#f-time", Input), form.query_one("#f-time-hint")
        for typed, hint in HINTS:
            entry.value = typed
            await until(pilot, lambda hint=hint: said.display and hint in str(said.content), hint)  # type: ignore[misc, attr-defined]
        entry.value = "07:30"
        await until(pilot, lambda: form.spec is not None and form.spec.budget.until == "07:30", "an end is taken")
        assert form.spec is not None and form.spec.budget.trials == 100 and "--until 07:30" in form._command()
        form.query_one("#f-budget-trials", Input).value = ""
        entry.value = "8 h"
        await until(pilot, lambda: form.spec is not None and form.spec.budget.open, "the time decides alone")
        assert form.spec is not None and form.spec.budget.hours == 8
        assert "--hours 8.0" in form._command() and "--trials" not in form._command()
        entry.value = ""
        await until(
            pilot, lambda: form._faults.get("budget.trials", "").startswith("Nothing is written"), "one is needed"
        )


async def test_a_study_with_an_end_is_duplicated_with_its_hours(store: Store) -> None:
    async with on(store) as pilot:
        found = await listed(pilot)
        found.query_one("#studies").focus()
        row = found._row()
        assert row is not None
        found.action_duplicate()
        await until(pilot, lambda: isinstance(pilot.app.screen, NewStudyScreen), "the form is open")
        form = screen(pilot.app, NewStudyScreen)
        form.give_up_asking()
        shown = form.query_one("#f-time", Input).value
        assert float(shown) == pytest.approx((row.until - row.created) / 3600, abs=1e-3)  # type: ignore[operator]


def test_what_is_typed_for_a_time_is_hours_or_an_end() -> None:
    assert time_of("8") == [("budget.hours", 8)] == time_of("8h") == time_of("8 hours") and time_of("") == []
    assert time_of("0.5 h") == [("budget.hours", 0.5)] and time_of("07:30") == [("budget.until", "07:30")]
    assert [entry_of(field) for field in ("budget.until", "budget.hours", "budget.trials", "data.length")] == [
        "time", "time", "budget.trials", "more",
    ]  # fmt: skip


def test_the_form_shows_a_time_as_it_was_asked_for() -> None:
    def shown(**budget: Any) -> tuple[str, str, str]:
        found = form_values({"budget": budget})
        return found["budget.trials"], found["time"], found["more"]

    assert shown() == ("100", "", "")
    assert shown(hours=8) == ("", "8", "")
    assert shown(until="07:30", trials=40) == ("40", "07:30", "")


def test_the_dialog_reads_the_end_that_it_shows() -> None:
    assert moments.moment(moments.minute_text(NOW + 60), NOW) == pytest.approx(NOW + 60, abs=60)
    assert not from_values({}).budget.timed


def test_more_time_for_a_space_without_candidates_is_refused(store: Store) -> None:
    from dataclasses import replace

    from kdnas.system.errors import UsageError
    from kdnas_tui.screens.steering import new_end

    row = queries.study_row(store, "both")
    assert new_end("2h", row, NOW) == NOW + 7200 and new_end("50", row, NOW) is None
    with pytest.raises(UsageError, match="more time brings nothing"):
        new_end("2h", replace(row, space_size=row.done), NOW)


def test_old_stores_have_no_end(tmp_path: Path) -> None:
    _, store = new_store(tmp_path)
    with store:
        number = study(store, worker="running")
        with store.begin() as connection:
            here = t.study.c.study_id == number
            spec = json.loads(connection.execute(sa.select(t.study.c.spec).where(here)).scalar_one())
            del spec["budget"]["hours"], spec["budget"]["until"]
            connection.execute(sa.update(t.study).where(here).values(spec=json.dumps(spec)))
    with open_store(tmp_path / "kdnas.db") as again:
        row = queries.study_row(again, "minilm")
    assert (row.until, row.open, row.expected, row.end) == (None, False, None, None) and row.counted.endswith("/40")
