"""What `kdnas search` says while its workers run: each fault once, and of one worker alone what ended it not at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kdnas.cli.watch import watch
from kdnas.search.begin import begin
from kdnas.search.heartbeat import at_work
from kdnas.store.database import Store, open_store
from kdnas.system.errors import KdnasError
from tests import fakes


class Scripted:
    """A process that does one thing after another, each when it is looked at, and then has ended."""

    def __init__(self, *steps: Callable[[], None]) -> None:
        self.steps = list(steps)

    def poll(self) -> int | None:
        if not self.steps:
            return 1
        self.steps.pop(0)()
        return None

    def wait(self, timeout: float | None = None) -> int:
        return 0


def fails(store: Store, *lines: str) -> None:
    """A worker that logs these errors, and is ended by the last."""
    with pytest.raises(KdnasError), at_work(store, 1, "search") as steering:
        for line in lines[:-1]:
            steering.log("error", line)
        raise KdnasError(lines[-1])


def test_what_ended_the_only_worker_is_left_to_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    begin(fakes.spec("one"), tmp_path / "studies.db")
    with open_store(tmp_path / "studies.db") as store:
        process = Scripted(lambda: fails(store, "trial 3: failed: no room", "The disk is full."), lambda: None)
        watch(store, "one", [process])
    said = capsys.readouterr().err
    assert said.count("error: trial 3: failed: no room") == 1
    assert "The disk is full." not in said


@pytest.mark.parametrize("waits", [0, 1, 2])
def test_of_two_workers_each_fault_is_told_once(tmp_path: Path, capsys: pytest.CaptureFixture[str], waits: int) -> None:
    begin(fakes.spec("two"), tmp_path / "studies.db")
    with open_store(tmp_path / "studies.db") as store:
        processes = [Scripted(lambda: fails(store, "The disk is full."), *[lambda: None] * n) for n in (waits, 2)]
        watch(store, "two", processes)
    assert capsys.readouterr().err.count("error: The disk is full.") == 1
