"""Who waits long for a device is told for whom, and that it would wait for ever for a process that is stopped."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from kdnas.cli import progress
from kdnas.measuring import device_waits
from kdnas.measuring.device_lock import device_lock
from kdnas.search import heartbeat
from kdnas.search.begin import begin
from kdnas.search.heartbeat import Steering
from kdnas.store import queries, studies
from kdnas.store.database import open_store
from tests import fakes

CPU = torch.device("cpu")
MEASURES = """
import sys
import torch
from kdnas.measuring.device_lock import device_lock
with device_lock(torch.device("cpu")):
    print("has it", flush=True)
    sys.stdin.read()
"""

pytestmark = pytest.mark.skipif(not Path("/proc/locks").exists(), reason="this system does not say who has a lock")


@pytest.fixture
def measures() -> Iterator[subprocess.Popen[str]]:
    """A process that measures on the CPU until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", MEASURES], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "has it\n"
    yield process
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, signal.SIGCONT)
    process.communicate()


@contextlib.contextmanager
def measuring_too() -> Iterator[threading.Event]:
    """A thread that measures as well, as soon as it may."""
    done = threading.Event()

    def run() -> None:
        with device_lock(CPU):
            done.set()

    thread = threading.Thread(target=run)
    thread.start()
    yield done
    thread.join(60)
    assert not thread.is_alive()


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_wait_is_told_once_it_is_long(measures: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert device_waits.long_wait() is None
    with measuring_too() as done:
        until(lambda: bool(device_waits._waiting))
        assert device_waits.long_wait() is None
        monkeypatch.setattr(device_waits, "LONG_S", 0.0)
        wait = device_waits.long_wait()
        assert wait is not None and not wait.stopped
        assert wait.words == f"waiting: process {measures.pid} has the cpu"
        assert wait.advice == f"Waiting for the cpu: process {measures.pid} has it."
        assert not done.is_set()
        measures.communicate()
    assert done.is_set() and device_waits.long_wait() is None


def test_a_worker_that_waits_for_a_stopped_process_says_so(
    measures: subprocess.Popen[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_waits, "LONG_S", 0.0)
    monkeypatch.setattr(heartbeat, "WAIT_S", 0.0)
    monkeypatch.setattr(heartbeat, "WRITE_S", 0.0)
    begin(fakes.spec(), tmp_path / "kdnas.db")
    os.kill(measures.pid, signal.SIGSTOP)
    words = f"stopped process {measures.pid} has the cpu"
    advice = f"Waiting for the cpu: process {measures.pid} has it and is stopped."
    with open_store(tmp_path / "kdnas.db") as store:
        steering = Steering(store, 1, studies.enter(store, 1, lock=None, device=None, task="search"))
        steering.doing = "timing trial 3"
        steering.start()

        def shown() -> str | None:
            return queries.workers(store, 1)[0].doing

        with measuring_too():
            until(lambda: shown() == words)
            until(lambda: bool(queries.logs(store, 1)))
            time.sleep(0.6)  # some more looks
            os.kill(measures.pid, signal.SIGCONT)
            measures.communicate()
        until(lambda: shown() == "timing trial 3")
        steering.end()
        lines = [(one.level, one.line) for one in queries.logs(store, 1)]
    assert lines == [("warning", f"{advice} Continue it (kill -CONT {measures.pid}) or end it.")]


def test_a_command_that_waits_says_for_whom_and_once(
    measures: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(device_waits, "LONG_S", 0.0)
    monkeypatch.setattr(progress, "WAIT_S", 0.02)
    os.kill(measures.pid, signal.SIGSTOP)
    with progress.Told("distilling") as told, measuring_too():
        told.on_progress("timing the student", None)
        time.sleep(0.6)
        os.kill(measures.pid, signal.SIGCONT)
        measures.communicate()
    words = f"Waiting for the cpu: process {measures.pid} has it and is stopped."
    advice = f"Continue it (kill -CONT {measures.pid}) or end it."
    assert capsys.readouterr().err.splitlines()[:2] == ["timing the student", f"{words} {advice}"]
