"""A campaign in the list and on its own screen: a line that opens, fronts of one ground, and every way out of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot

from kdnas.campaigns.contract import Hands
from kdnas.campaigns.coordinator import run
from kdnas.store import campaigns
from kdnas.store.database import open_store
from kdnas.system import liveness
from kdnas.system.errors import UsageError
from kdnas_tui import workers
from kdnas_tui.screens.campaign import CampaignScreen
from kdnas_tui.screens.new_campaign import NewCampaignScreen
from kdnas_tui.screens.studies import StudiesScreen
from kdnas_tui.screens.study import StudyScreen
from kdnas_tui.screens.study_lines import TITLES
from kdnas_tui.widgets.list_table import ListTable
from kdnas_tui.widgets.overlay_plot import OverlayPlot
from tests.campaigns import formulas
from tests.tui.driving import SIZES, app_on, driven, listed, matches, screen, settled, shows, text_of, until

HOSTILE = "\x1b]0;owned\x07[red]bold"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A campaign that has ended, and one that was stopped after its first round. Copy it before it is written to."""
    path = tmp_path_factory.mktemp("campaigns") / "kdnas.db"
    storage = str(path)
    with open_store(storage, create=True) as store:
        campaigns.begin_campaign(store, formulas.spec(20, ("poor", "good", "fair")), "/nowhere")
        campaigns.begin_campaign(store, formulas.spec(20, ("poor", "good"), name="stopped"), "/nowhere")
    own = formulas.hands(storage)
    run(storage, "c", own, lambda line: None)
    begun: list[str] = []

    def start(study: str) -> Any:
        begun.append(study)
        if len(begun) == 3:
            raise KeyboardInterrupt
        return own.start(study)

    with pytest.raises(KeyboardInterrupt):
        run(storage, "stopped", Hands(own.member, start, own.score, own.finish), lambda line: None)
    return path


@pytest.fixture
def path(made: Path, tmp_path: Path) -> Path:
    with open_store(made) as store:
        store.settle()
    (tmp_path / "kdnas.db").write_bytes(made.read_bytes())
    return tmp_path / "kdnas.db"


@pytest.fixture
async def pilot(path: Path) -> AsyncIterator[Pilot[str]]:
    async with driven(app_on(str(path)), SIZES["120x36"]) as pilot:
        await listed(pilot)
        yield pilot


def lines(pilot: Pilot[str]) -> list[str]:
    return [line.cells[0].strip() for line in pilot.app.screen.query_one(ListTable).lines]


def at(pilot: Pilot[str], name: str) -> None:
    table = pilot.app.screen.query_one(ListTable)
    table.go_to(next(line.key for line in table.lines if line.cells[0].strip("▸▾ ") == name))


async def opened(pilot: Pilot[str], name: str = "c") -> CampaignScreen:
    at(pilot, name)
    await pilot.press("enter")
    await until(pilot, lambda: isinstance(pilot.app.screen, CampaignScreen), "it is open")
    await settled(pilot)
    found = screen(pilot.app, CampaignScreen)
    assert isinstance(found, CampaignScreen)
    return found


async def test_members_stand_among_the_studies_or_a_fold_hides_others(pilot: Pilot[str]) -> None:
    assert sorted(lines(pilot)) == ["▸ c", "▸ stopped"]
    at(pilot, "c")
    await pilot.press("right")
    assert lines(pilot)[lines(pilot).index("▾ c") :][1:4] == ["poor", "good", "fair"]
    at(pilot, "good")
    await pilot.press("left")
    assert sorted(lines(pilot)) == ["▸ c", "▸ stopped"]
    assert pilot.app.screen.query_one(ListTable).current == "campaign 1"


async def test_a_filter_does_not_reach_members(pilot: Pilot[str]) -> None:
    await pilot.press("slash", *"c-good", "enter")
    await until(pilot, lambda: lines(pilot) == ["▸ c", "good"], "the member is found below its campaign")


async def test_an_order_parts_members_from_their_campaign(pilot: Pilot[str]) -> None:
    shown = screen(pilot.app, StudiesScreen)
    shown.unfolded = {1, 2}
    for column in (*TITLES, *TITLES[::-1]):  # falling and rising
        shown._sort_by(column)
        first = lines(pilot).index("▾ c")
        assert lines(pilot)[first + 1 : first + 4] == ["poor", "good", "fair"], column


async def test_a_key_of_studies_does_something_to_a_campaign(pilot: Pilot[str]) -> None:
    at(pilot, "c")
    for key in ("d", "e", "t", "N", "space", "y"):
        await pilot.press(key)
        await until(pilot, shows(pilot.app, "c is a campaign; this key is of studies."), f"{key} says so")
        pilot.app.clear_notifications()
    assert not screen(pilot.app, StudiesScreen).marked


async def test_the_screen_of_one_that_ended_lacks_its_table_verdict_or_fronts(pilot: Pilot[str]) -> None:
    shown = await opened(pilot)
    text = text_of(pilot.app)
    assert "good wins: 0.9" in text and "The runner-up fair scores 10.0 points less" in text
    assert "● good   ■ fair   ▲ poor" in text and "○ teachers" in text
    plot = shown.query_one(OverlayPlot)
    assert plot.y_name == "test score" and [len(line.x) for line in plot.lines] == [1, 1, 1, 0, 0, 1]
    await pilot.press("m")
    assert plot.y_name == "held-out score" and len(plot.lines[5:]) == 0 and "teachers" not in text_of(pilot.app)


async def test_a_member_does_not_open_or_the_way_back_is_another(pilot: Pilot[str]) -> None:
    shown = await opened(pilot)
    shown.query_one("#members", ListTable).go_to("good")
    await pilot.press("enter")
    await until(pilot, lambda: isinstance(pilot.app.screen, StudyScreen), "its study is open")
    assert pilot.app.screen.watched.name == "c-good"  # type: ignore[attr-defined]
    await pilot.press("escape")
    await until(pilot, lambda: pilot.app.screen is shown, "the campaign is shown again")


@pytest.mark.parametrize("size", SIZES)
async def test_a_part_has_no_room_at_a_size(path: Path, size: str) -> None:
    wanted = ("member", "score ↑", "rank", "after round 1")
    async with driven(app_on(str(path)), SIZES[size]) as pilot:
        await listed(pilot)
        shown = await opened(pilot)
        matches(pilot.app, "campaign", size)
        texts = [text_of(pilot.app)]
        for _ in range(0 if shown.whole else 3):
            await pilot.press("right_square_bracket")
            await settled(pilot)
            texts.append(text_of(pilot.app))
        assert all(any(part in text for text in texts) for part in wanted)


async def test_one_that_stopped_does_not_say_how_it_goes_on(pilot: Pilot[str]) -> None:
    shown = await opened(pilot, "stopped")
    text = " ".join(text_of(pilot.app).split())
    assert "goes on with: kdnas campaign stopped" in text and "best so far good, 0.9" in text
    assert "The table comes with the ending." in text and "after round 1" in text
    assert shown.query_one(OverlayPlot).y_name == "held-out score"


async def test_a_running_one_is_not_stopped_by_its_key(
    pilot: Pilot[str], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = await opened(pilot, "stopped")
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    monkeypatch.setattr(os, "getpid", lambda: child.pid)
    hold = liveness.Hold()
    try:
        with open_store(path) as store:
            campaigns.take(store, shown.campaign.campaign_id, str(hold.path))
        monkeypatch.undo()
        await until(pilot, lambda: shown.campaign.status == "running", "it runs")
        await pilot.press("s")
        await until(pilot, lambda: child.poll() is not None, "it was told")
        assert child.returncode in (-signal.SIGINT, 1, 130)
    finally:
        child.kill()
        hold.release()


async def test_one_of_another_machine_is_told_to_stop(made: Path) -> None:
    with open_store(made) as store:
        row = campaigns.campaign_row(store, "c")
    with pytest.raises(UsageError, match="runs on elsewhere, and this is"):
        workers.stop_campaign(replace(row, pid=1, host="elsewhere"))


async def test_a_deleted_one_stays_on_the_screen(pilot: Pilot[str], path: Path) -> None:
    await opened(pilot)
    with open_store(path) as store:
        campaigns.delete_campaign(store, "c")
    await until(pilot, lambda: isinstance(pilot.app.screen, StudiesScreen), "the list is shown")
    await until(pilot, shows(pilot.app, "The campaign c was deleted."), "it is said")
    assert "c-good" in lines(pilot)  # its studies stay


async def test_text_of_outside_reaches_the_terminal(path: Path) -> None:
    with open_store(path) as store:
        row = campaigns.campaign_row(store, "stopped")
        campaigns.set_member(store, row.campaign_id, "poor", row.member("poor").state, reason=HOSTILE)
        campaigns.beat(store, row.campaign_id, HOSTILE)
    async with driven(app_on(str(path)), SIZES["120x36"]) as pilot:
        await listed(pilot)
        await opened(pilot, "stopped")
        assert "\x1b" not in text_of(pilot.app) and "\x07" not in text_of(pilot.app)


async def test_a_campaigns_name_opens_nothing(path: Path) -> None:
    with open_store(path) as store:
        row = campaigns.campaign_row(store, "c")
    async with driven(app_on(str(path), campaign=row), SIZES["80x24"]) as pilot:
        await until(pilot, lambda: isinstance(pilot.app.screen, CampaignScreen), "it is open")
        await pilot.press("escape")
        await listed(pilot)


async def test_the_form_begins_what_the_command_line_refuses(pilot: Pilot[str], tmp_path: Path) -> None:
    await pilot.press("C")
    shown = screen(pilot.app, NewCampaignScreen)
    await until(pilot, shows(pilot.app, "30 trials for 3 members"), "what ships is read")
    wrong = tmp_path / "one.toml"
    wrong.write_text('name = "c"\n[task]\nsource = "rows.csv"\n[budget]\ntrials = 10\n[members.a]\n')
    shown.query_one("#file").value = str(wrong)
    await until(pilot, shows(pilot.app, "a campaign compares two members or more"), "what is wrong is said")
    await pilot.press("ctrl+s")
    await until(pilot, shows(pilot.app, "There is no campaign in this file."), "nothing begins")
    assert shown.spec is None
