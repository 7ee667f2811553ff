"""A callback after a while comes, also where the event loop was busy for longer than that."""

from __future__ import annotations

import itertools
import time

import pytest
from textual import timer
from textual.app import App

from kdnas_tui.later import later


@pytest.mark.parametrize("delay", [-1.0, 0.0, 0.01])
async def test_it_comes_once_however_late_the_loop_is(delay: float, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[float] = []
    real, looks = timer._time.get_time, itertools.count()

    def late() -> float:  # each look at the clock is a second after the one before, but not for ever:
        return real() + min(next(looks), 1000)  # a timer that skips what is past would never be done skipping

    async with App[None]().run_test() as pilot:
        monkeypatch.setattr(timer._time, "get_time", late)
        later(pilot.app, delay, lambda: told.append(time.monotonic()))
        for _ in range(200):
            await pilot.pause(0.01)
            if told:
                break
        monkeypatch.undo()
        await pilot.pause(0.05)
    assert len(told) == 1
