"""Drives the app in tests: waits for conditions, reads the screen as text, and compares it with a stored one.

`KDNAS_GOLDENS=write pytest tests/tui` stores the screens anew; look at the difference before it is kept.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from textual.pilot import Pilot

from kdnas_tui.app import KdnasApp
from kdnas_tui.screens.studies import StudiesScreen
from kdnas_tui.screens.study import StudyScreen
from tests.tui.filled import NOW

GOLDENS = Path(__file__).parent / "goldens"
SIZES = {"48x40": (48, 40), "80x24": (80, 24), "100x30": (100, 30), "120x36": (120, 36), "200x60": (200, 60)}
PATIENCE_S = 120.0  # of a machine that does much else; what is there ends the wait at once


def app_on(url: str, now: float = NOW, **given: Any) -> KdnasApp:
    return KdnasApp(url, clock=lambda: now, period=0.05, **given)


@asynccontextmanager
async def driven(app: KdnasApp, size: tuple[int, int] = (120, 36)) -> AsyncIterator[Pilot[str]]:
    async with app.run_test(size=size, notifications=True) as pilot:
        yield pilot
        app.feed.stop()


async def until(pilot: Pilot[str], condition: Callable[[], Any], what: str) -> None:
    """Wait for a condition; a test fails that waits in vain."""
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, f"waited in vain until {what}\n{text_of(pilot.app)}"
        await asyncio.sleep(0.01)  # the pilot's own pause asks every widget whether it is idle
    await pilot.pause()


def text_of(app: Any) -> str:
    """What the terminal shows, without colours."""
    strips = app.screen._compositor.render_strips(app.size)
    return "\n".join("".join(segment.text for segment in line).rstrip() for line in strips) + "\n"


def shows(app: Any, words: str) -> Callable[[], bool]:
    return lambda: words in text_of(app)


def screen(app: KdnasApp, kind: type[Any]) -> Any:
    found = app.screen
    assert isinstance(found, kind), f"{type(found).__name__} is shown\n{text_of(app)}"
    return found


async def opened(pilot: Pilot[str], study: str) -> StudyScreen:
    """The study's screen with all that the store has of it, drawn."""
    app = pilot.app
    assert isinstance(app, KdnasApp)
    app.open_study(study)
    await until(
        pilot, lambda: isinstance(app.screen, StudyScreen) and app.screen.watched.trials is not None, f"{study} is open"
    )
    await settled(pilot)
    found = app.screen
    assert isinstance(found, StudyScreen)
    return found


async def listed(pilot: Pilot[str]) -> StudiesScreen:
    app = pilot.app
    await until(pilot, lambda: isinstance(app.screen, StudiesScreen) and app.screen.read, "the studies are listed")
    found = app.screen
    assert isinstance(found, StudiesScreen)
    return found


async def settled(pilot: Pilot[str]) -> None:
    """Until what is shown no longer changes: the feed has looked again and no plot waits to be drawn."""
    app = pilot.app
    assert isinstance(app, KdnasApp)
    ticks = app.feed.ticks
    await until(pilot, lambda: app.feed.ticks > ticks + 1 or not app.feed.is_alive(), "the feed has looked again")
    before, end = "", time.monotonic() + PATIENCE_S
    while before != (before := text_of(app)) or any(
        getattr(w, "_waiting", False) or getattr(w, "_coming", False) for w in app.screen.query("*")
    ):
        assert time.monotonic() < end, f"waited in vain until nothing changes\n{before}"
        await pilot.pause(0.05)


def matches(app: Any, name: str, size: str) -> None:
    """The screen is the stored one."""
    path = GOLDENS / f"{name}.{size}.txt"
    shown = text_of(app)
    if os.environ.get("KDNAS_GOLDENS") == "write":
        path.parent.mkdir(exist_ok=True)
        path.write_text(shown, encoding="utf-8")
        return
    assert path.exists(), f"{path.name} is not stored yet; see tests/tui/driving.py\n{shown}"
    stored = path.read_text(encoding="utf-8")
    assert shown == stored, f"{path.name} differs\n--- stored\n{stored}\n--- shown\n{shown}"
