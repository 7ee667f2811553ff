"""`kdnas worker`: a machine joins where it cannot be of use, or leaves a killed worker's place empty."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from kdnas.cli.spec_options import base_values, spec_from
from kdnas.search import joining, replacing
from kdnas.search.begin import begin
from kdnas.search.launch import Started
from kdnas.search.replacing import Kept
from kdnas.store import changes, queries
from kdnas.store.database import open_reader, open_store
from kdnas.study.rows import Status, WorkerRow
from tests import fakes
from tests.cli.conftest import Place, Quick


def test_a_study_that_is_not_there_has_ended_or_was_stopped_is_joined(place: Place, quick: Quick) -> None:
    begin(fakes.spec("other"), place.store)
    said = quick("worker", "othr")
    assert (said.code, said.line) == (2, said.line) and "Did you mean 'other'?" in said.line
    with open_store(place.store) as store:
        changes.set_wanted(store, 1, "stop")
    said = quick("worker", "other", "--until-done")
    assert said.code == 2 and "kdnas resume other" in said.line
    with open_store(place.store) as store, store.begin() as connection:
        connection.exec_driver_sql("UPDATE kdnas_study SET finished = 1.0, ending = 'The budget is spent.'")
    assert quick("worker", "other").code == 2
    said = quick("worker", "other", "--until-done")
    assert (said.code, said.err) == (0, "other has ended: The budget is spent.\n")


def test_workers_are_placed_as_nobody_asked(place: Place, quick: Quick) -> None:
    begin(fakes.spec("other"), place.store)
    for command in (("worker", "other"), ("resume", "other"), ("search", "other")):
        said = quick(*command, "--workers", "0")
        assert said.code == 2 and "'0' workers cannot be started: give 1 to 256, or gpus" in said.line
        said = quick(*command, "--workers-per-gpu", "2")
        assert said.code == 2 and "goes with --workers gpus" in said.line
        if command[0] != "resume":  # it looks at teacher and data first
            said = quick(*command, "--workers", "gpus", "--device", "cpu")
            assert said.code == 2 and "One worker for each GPU, and the device cpu" in said.line
    with open_reader(place.store) as store:
        assert not queries.workers(store, 1)


@pytest.mark.heavy
def test_a_worker_that_is_killed_leaves_its_place_empty(place: Place) -> None:
    begin(spec_from(base_values("tiny", place.spec, None), {"budget.trials": 2}), place.store)
    with open_store(place.store) as store:
        changes.set_wanted(store, 1, "pause")  # they wait, so that one can be met
        command = place.fork("worker", "tiny", "--workers", "2", "--until-done", "--unlike", "leave")

        def until(workers: int, state: str) -> list[WorkerRow]:
            end = time.monotonic() + 120
            while len(rows := queries.workers(store, 1)) < workers or rows[-1].state != state:
                assert time.monotonic() < end and command.poll() is None, command.err.read_text()
                time.sleep(0.05)
            return rows

        last = max(until(2, "paused"), key=lambda row: row.pid)  # the one that is not watched first
        os.kill(last.pid, signal.SIGKILL)
        until(3, "paused")
        changes.set_wanted(store, 1, "run")
        _, err = command.communicate()
        assert command.returncode == 0, err
        assert err.count("A worker was killed by signal 9; another one takes its place.") == 1
        row = queries.study_row(store, "tiny")
        assert (row.status, row.done, row.failed) == (Status.FINISHED, 2, 0)
        states = [w.state for w in queries.workers(store, 1)]
        assert sorted(states) == ["dead", "ended", "ended"]
        assert any(event.kind == joining.UNLIKE for event in queries.events(store, 1))


class Ended:
    """A process that has ended so."""

    pid = 0

    def __init__(self, code: int) -> None:
        self.code = code

    def poll(self) -> int:
        return self.code


def kept(*codes: int, goes_on: bool = True) -> tuple[Kept, list[str]]:
    left = list(codes)
    told: list[str] = []
    start = lambda: Started(Ended(left.pop(0)), Path("log"))  # type: ignore[arg-type]  # noqa: E731
    return Kept(start(), start, lambda: goes_on, told.append), told


def test_a_worker_that_ended_by_itself_is_started_again_or_one_that_always_dies_for_ever() -> None:
    for code in (0, 1, 2, 130):
        one, told = kept(code, 0)
        assert (one.poll(), told) == (code, [])
    one, told = kept(-9, -15, 0)
    assert [one.poll(), one.poll(), one.poll()] == [None, None, 0] and len(told) == 2
    one, told = kept(-9, 0, goes_on=False)
    assert (one.poll(), told) == (-9, [])
    one, told = kept(*[-11] * 20)
    assert [one.poll() for _ in range(12)] == [None] * replacing.MOST + [-11] * 2
