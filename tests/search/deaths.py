"""Workers that die at a chosen moment: processes of their own with torch loaded already, killed by SIGKILL."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kdnas.search.worker import run_worker
from kdnas.store import queries, recovery, slots
from kdnas.store.database import open_reader
from tests import fakes

MOMENTS = ("asked", "training", "finished")  # before the candidate is written, while it trains, before Optuna is told


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def forked(work: Callable[[], int]) -> int:
    """The exit code of a process that does `work`; negative where a signal ended it."""
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            code = work()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def dies(place: str | Path, slot: int, moment: str) -> None:
    """A worker works on the study `fake` until it is at `moment` of `slot`."""

    def work() -> int:
        held: list[int] = []
        _before(slots, "claim", after=lambda claimed: held.append(getattr(claimed, "slot", -1)))
        at = {"asked": (slots, "propose"), "finished": (recovery, "tell")}.get(moment)
        if at is not None:
            _before(*at, before=lambda: held[-1:] == [slot] and die())

        def trouble(candidate: Any) -> None:
            if moment == "training" and held[-1:] == [slot]:
                die()

        return run_worker(
            str(place), "fake", prepare=lambda spec, *_: fakes.FakeBench(spec, trouble), measure=fakes.measure
        )

    code = forked(work)
    assert code == -signal.SIGKILL, (slot, moment, code)


def _before(
    room: Any, name: str, before: Callable[[], object] = lambda: None, after: Callable[[Any], object] = lambda _: None
) -> None:
    real = getattr(room, name)

    def call(*given: Any, **named: Any) -> Any:
        before()
        result = real(*given, **named)
        after(result)
        return result

    setattr(room, name, call)


def told(place: str | Path, study_id: int = 1) -> list[tuple[Any, ...]]:
    """What a search found, in the order of its slots."""
    with open_reader(place) as store:
        rows = [row for row in queries.trial_rows(store, study_id) if row.state in ("done", "pruned")]
    return sorted((r.slot, str(r.candidate), r.state, r.loss, r.reward, r.seed, r.epoch, r.origin) for r in rows)
