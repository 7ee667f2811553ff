"""Marked studies over each other: lines where they may be compared, and the reason in their place where not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from textual.pilot import Pilot

from kdnas.reports import study_comparison
from kdnas.store import changes, queries
from kdnas.store.database import open_store
from kdnas_tui.screens.compare_studies import CompareStudiesScreen
from kdnas_tui.screens.studies import StudiesScreen
from kdnas_tui.widgets import overlay_plot
from kdnas_tui.widgets.compare_table import CompareTable
from kdnas_tui.widgets.overlay_plot import OverlayPlot
from tests.reports.test_study_comparison import found
from tests.rows import made_rows
from tests.tui.driving import SIZES, app_on, driven, listed, screen, shows, text_of, until
from tests.tui.filled import new_store, study
from tests.tui.test_studies import at


@pytest.fixture
def path(tmp_path: Path) -> Path:
    _, store = new_store(tmp_path)
    with store:
        found(store, study(store, "tpe", rows=made_rows(30, 0)))
        found(store, study(store, "random", rows=made_rows(30, 1), strategy="random"))
        found(store, study(store, "elsewhere", rows=made_rows(20, 2)), device="cuda: NVIDIA H100")
        found(store, study(store, "roberta", rows=made_rows(20, 3)), teacher_fingerprint="r")
    return tmp_path / "kdnas.db"


@pytest.fixture
async def pilot(path: Path) -> AsyncIterator[Pilot[str]]:
    async with driven(app_on(str(path)), SIZES["120x36"]) as pilot:
        await listed(pilot)
        yield pilot


async def compared(pilot: Pilot[str], *names: str) -> CompareStudiesScreen:
    for name in names:
        at(pilot, name)
        await pilot.press("space")
    await pilot.press("c")
    shown = screen(pilot.app, CompareStudiesScreen)
    await until(pilot, lambda: shown.compared is not None, "they are read")
    await until(pilot, lambda: shown.query_one(CompareTable).titles, "they are drawn")
    assert isinstance(shown, CompareStudiesScreen)
    return shown


def plots(shown: CompareStudiesScreen) -> tuple[OverlayPlot, OverlayPlot]:
    return shown.query_one("#front", OverlayPlot), shown.query_one("#past", OverlayPlot)


async def test_fronts_histories_and_settings_of_comparable_studies(pilot: Pilot[str]) -> None:
    shown = await compared(pilot, "tpe", "random")
    front, past = plots(shown)
    assert [len(line.x) > 0 for line in (*front.lines, *past.lines)] == [True] * 4
    assert (front.x_name, past.y_name) == ("latency ms", "best reward so far")
    text = text_of(pilot.app)
    assert "● tpe" in text and "■ random" in text
    assert "on the common front" in text
    assert "not compared" not in text


async def test_losses_of_different_teachers_are_not_drawn_and_the_reason_is(pilot: Pilot[str]) -> None:
    shown = await compared(pilot, "tpe", "roberta")
    assert [plot.lines for plot in plots(shown)] == [(), ()]
    text = " ".join(text_of(pilot.app).split())
    assert "Losses are not compared: tpe and roberta have different versions of the teacher" in text
    assert text.count("a loss is a distance") >= 1


async def test_where_only_latencies_differ_parameters_stand_in_their_place(pilot: Pilot[str]) -> None:
    shown = await compared(pilot, "tpe", "elsewhere")
    front, past = plots(shown)
    assert (front.x_name, past.y_name) == ("parameters, millions", "best loss so far")
    assert all(len(line.x) for line in front.lines)
    await until(
        pilot, shows(pilot.app, "Latencies are not compared: tpe and elsewhere were timed"), "the reason is said"
    )


async def test_one_mark_is_no_comparison(pilot: Pilot[str]) -> None:
    at(pilot, "tpe")
    await pilot.press("space", "c")
    await until(pilot, shows(pilot.app, "1 studies are marked; space marks two to 6."), "the hint is told")
    screen(pilot.app, StudiesScreen)
    await until(pilot, shows(pilot.app, "◆ tpe"), "the mark is shown")
    await pilot.press("space")
    await until(pilot, lambda: "◆" not in text_of(pilot.app), "the mark is gone")


async def test_what_changes_meanwhile_is_read_again(pilot: Pilot[str], path: Path) -> None:
    await compared(pilot, "tpe", "random")
    with open_store(path) as store:
        changes.set_study_tags(store, queries.study_row(store, "random").study_id, add=["late"])
    await until(pilot, shows(pilot.app, "late"), "the tag is shown")


async def test_a_deleted_study_is_said_and_nothing_breaks(pilot: Pilot[str], path: Path) -> None:
    from kdnas.store.studies import delete_study

    shown = await compared(pilot, "tpe", "random")
    with open_store(path) as store:
        delete_study(store, "random")
        changes.set_study_tags(store, queries.study_row(store, "tpe").study_id, add=["x"])
    await until(pilot, shows(pilot.app, "The study was deleted."), "it is told")
    assert pilot.app.screen is shown


@pytest.mark.parametrize("size", SIZES)
async def test_each_part_has_room_at_every_size(path: Path, size: str) -> None:
    async with driven(app_on(str(path)), SIZES[size]) as pilot:
        await listed(pilot)
        shown = await compared(pilot, "tpe", "random")
        for name, _ in CompareStudiesScreen.TABS:
            part = shown.query_one(f"#{name}")
            await until(pilot, lambda part=part: part.size.height >= 7 and part.size.width >= 40, f"{name} is seen")
            if not shown.whole:
                await pilot.press("right_square_bracket")


def test_as_many_signs_as_studies() -> None:
    assert len(overlay_plot.SIGNS) == len(overlay_plot.LOOKS) == len(overlay_plot.COLOURS) == study_comparison.MOST
