"""A store that is only looked at: every key that would change it says why, and no byte of it changes."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from kdnas.store import campaigns
from kdnas.store.database import open_store
from kdnas.study.rows import Status
from kdnas_tui import keys, main, workers
from kdnas_tui.screens.campaign import CampaignScreen
from kdnas_tui.screens.compare import CompareScreen
from kdnas_tui.screens.finalize import FinalizeScreen
from kdnas_tui.screens.new_campaign import NewCampaignScreen
from kdnas_tui.screens.new_study import NewStudyScreen
from kdnas_tui.screens.rescore import RescoreScreen
from kdnas_tui.screens.steering import idle_keys
from kdnas_tui.widgets.key_bar import KeyBar
from kdnas_tui.widgets.list_table import ListTable
from tests.campaigns import formulas
from tests.tui.driving import app_on, driven, listed, opened, screen, settled, text_of, until

WHY = "It is only looked at here."
OPENED = {
    "new": ("n", NewStudyScreen), "new-campaign": ("C", NewCampaignScreen), "campaign": ("enter", CampaignScreen),
    "reward": ("a", RescoreScreen), "finalize": ("f", FinalizeScreen),
}  # fmt: skip


def refusing() -> list[tuple[str, keys.Key]]:
    return [(name, key) for name, table in keys.KEYS.items() for key in table if key.writes]


@pytest.mark.parametrize("name", sorted({name for name, _ in refusing()}))
async def test_every_key_that_changes_something_says_why_it_does_not(
    name: str, recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "kdnas.db"
    path.write_bytes(recorded.read_bytes())
    if name == "campaign":
        with open_store(path) as store:
            campaigns.begin_campaign(store, formulas.spec(10), "/nowhere")
    monkeypatch.setattr(workers, "KDNAS", ("false",))
    monkeypatch.setattr(workers.subprocess, "Popen", None)  # nothing may be started
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    async with driven(app_on(str(path), readonly=WHY), (100, 30)) as pilot:
        await listed(pilot)
        if name == "campaign":
            pilot.app.screen.query_one(ListTable).go_to("campaign 1")
        if name not in ("studies", "new", "campaign", "new-campaign"):
            await opened(pilot, "quickstart")
        if name in OPENED:
            await pilot.press(OPENED[name][0])
            await until(pilot, lambda: isinstance(pilot.app.screen, OPENED[name][1]), f"{name} is shown")
            if isinstance(pilot.app.screen, NewStudyScreen):
                pilot.app.screen.give_up_asking()
        shown = pilot.app.screen
        for key in [key for of, key in refusing() if of == name]:
            pilot.app.clear_notifications()
            await pilot.press(key.keys.split(",")[0])
            await pilot.pause()
            assert [notice.message for notice in pilot.app._notifications] == [WHY], key
            assert pilot.app.screen is shown, key
    assert hashlib.sha256(path.read_bytes()).hexdigest() == before


async def test_marks_of_a_store_that_is_only_looked_at_last_as_long_as_one_looks(
    recorded: Path, tmp_path: Path
) -> None:
    path = tmp_path / "kdnas.db"
    path.write_bytes(recorded.read_bytes())
    async with driven(app_on(str(path), readonly=WHY), (100, 30)) as pilot:
        study = await opened(pilot, "quickstart")
        await pilot.press("space", "down", "space")
        await settled(pilot)
        assert len(study.watched.marked()) == 2 and "● marked" in text_of(pilot.app)
        assert "read only" in text_of(pilot.app) and "p pause" not in text_of(pilot.app)
        await pilot.press("c")
        screen(pilot.app, CompareScreen)
    assert path.read_bytes() == recorded.read_bytes()


def test_the_demo_and_the_flag_only_look(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shown = []
    monkeypatch.setattr(main, "show", lambda app: shown.append(app.readonly) or 0)
    monkeypatch.setenv("TEXTUAL_DRIVER", "none")  # as behind a browser: no terminal is needed
    assert main.run(["--demo"]) == 0
    assert main.run(["--readonly", "--storage", str(tmp_path / "kdnas.db")]) == 0
    assert main.run(["--storage", str(tmp_path / "kdnas.db")]) == 0
    assert shown[0] and shown[1] and shown[2] == ""


@pytest.mark.parametrize("width", [80, 100, 120])
async def test_the_footer_offers_what_can_be_done_now(width: int, recorded: Path) -> None:
    async with driven(app_on(str(recorded)), (width, 24)) as pilot:
        study = await opened(pilot, "quickstart")  # finished
        actions = [key.action for key in study.query_one(KeyBar).shown(width)]
        assert {"pause", "stop", "resume", "compare"}.isdisjoint(actions)
        assert {"reward", "filter", "mark", "finalize", "export", "help", "app.leave"} <= set(actions)
        board = study.watched.trials
        assert board is not None
        board.update([replace(scored.row, marked=True) for scored in board.best(2)])
        study.draw()
        assert "compare" in [key.action for key in study.query_one(KeyBar).shown(width)]
        row = study.watched.study
        assert row is not None
        assert "resume" in idle_keys(replace(row, status=Status.RUNNING, workers=1, done=3), 0)
        assert {"pause", "stop"}.isdisjoint(idle_keys(replace(row, status=Status.RUNNING, workers=1, done=3), 0))
        assert "resume" not in idle_keys(replace(row, status=Status.DEAD, workers=0, done=3), 0)
