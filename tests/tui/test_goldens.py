"""Every screen at five sizes, as text, exactly as it was judged to be right.

On the recorded study that ships, and on an evening's store with a search of 471 real configurations.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from textual.pilot import Pilot

from kdnas.store import changes
from kdnas_tui.screens.new_study import NewStudyScreen
from kdnas_tui.widgets.key_bar import KeyBar
from tests.tui.driving import SIZES, app_on, driven, listed, matches, opened, settled, until
from tests.tui.filled import NOW, RECORDED_NOW

LARGE = "minilm-sotu"
Steps = Callable[[Pilot[str]], Awaitable[None]]


async def _studies(pilot: Pilot[str]) -> None:
    await listed(pilot)


async def _new(pilot: Pilot[str]) -> None:
    await listed(pilot)
    await pilot.press("n")
    found = pilot.app.screen
    assert isinstance(found, NewStudyScreen)
    found.give_up_asking()
    found.plan = {
        "space_size": 12960,
        "dimensions": {"num_hidden_layers": [1, 2, 3, 4, 5, 6], "hidden_act": ["gelu", "relu", "silu"]},
        "proxy_tokens": 790_000, "cache_bytes": 1_214_000_000, "seconds_per_trial": 41, "seconds": 4100,
        "device": "cpu", "notes": [],
    }  # fmt: skip
    found.show_plan()


async def _study(pilot: Pilot[str]) -> None:
    await opened(pilot, "quickstart")


async def _compare(pilot: Pilot[str]) -> None:
    found = await opened(pilot, LARGE)
    assert found.watched.study is not None
    for number in (357, 122, 134, 54):
        found.change(lambda store, study, number=number: changes.set_remark(store, study, number, marked=True))
    await until(pilot, lambda: len(found.watched.marked()) == 4, "four are marked")
    await pilot.press("c")


def _keys(*keys: str, study: str = "quickstart") -> Steps:
    async def steps(pilot: Pilot[str]) -> None:
        await opened(pilot, study)
        for key in keys[:1]:  # what opens something
            await pilot.press(key)
            await settled(pilot)
        await pilot.press(*keys[1:])

    return steps


SCREENS: dict[str, Steps] = {
    "studies": _studies,
    "new_study": _new,
    "study": _study,
    "study_running": _keys(study=LARGE),
    "study_stopped": _keys(study="minilm-sotu-latency-first-alpha-0.3"),
    "study_filtered": _keys("slash", *"layers>=4", "enter"),
    "rescore": _keys("a", "left", "left", "left", "left"),
    "candidate": _keys("i"),
    "compare": _compare,
    "export": _keys("x"),
    "about": _keys("v"),
    "help": _keys("question_mark"),
    "columns": _keys("C"),
    "stop": _keys("s", study=LARGE),
}
# What one finished study of twelve trials does not show.
AT_EVENING = frozenset({"studies", "new_study", "study_running", "study_stopped", "compare", "stop"})


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", SCREENS)
async def test_screen_looks_as_it_was_judged(
    name: str, size: str, evening: Path, recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(evening if name in AT_EVENING else recorded, tmp_path / "kdnas.db")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    now = NOW if name in AT_EVENING else RECORDED_NOW
    async with driven(app_on("kdnas.db", now), SIZES[size]) as pilot:
        await SCREENS[name](pilot)
        await settled(pilot)
        matches(pilot.app, name, size)


@pytest.mark.parametrize("size", SIZES)
async def test_footer_fits_and_ends_with_the_way_out(size: str, three_studies: Path) -> None:
    async with driven(app_on(str(three_studies)), SIZES[size]) as pilot:
        await listed(pilot)
        shown = pilot.app.screen.query_one(KeyBar).shown(SIZES[size][0])
        assert shown[-1].action == "app.leave"
