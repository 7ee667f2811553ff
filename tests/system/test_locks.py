"""Locks of this host: one alone or several together, and gone with whoever held them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kdnas.system import locks

HOLD = """
import sys
from pathlib import Path
from kdnas.system import locks
locks.take(locks.opened(Path(sys.argv[1])), shared=sys.argv[2] == "shared")
print("held", flush=True)
sys.stdin.read()
"""


def holder(path: Path, how: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path), how], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_a_lock_outlives_the_process_that_was_killed(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    process = holder(path, "alone")
    for shared in (False, True):
        with locks.held(path, shared=shared, wait=False) as mine:
            assert not mine
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    with locks.held(path, wait=False) as mine:
        assert mine
    assert path.stat().st_mode & 0o777 == 0o600


def test_readers_shut_each_other_out_or_let_a_writer_in(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    process = holder(path, "shared")
    with locks.held(path, shared=True, wait=False) as mine:
        assert mine
    with locks.held(path, wait=False) as mine:
        assert not mine
    process.communicate()
    with locks.held(path) as mine:
        assert mine


@pytest.mark.skipif(not Path("/proc/locks").exists(), reason="this system does not say who has a lock")
def test_who_has_a_lock_is_known_and_who_waits_for_it_is_not_among_them(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    several = [holder(path, "shared") for _ in range(2)]
    with path.open("ab") as file, tmp_path.joinpath("another").open("ab") as other:
        waits = subprocess.Popen([sys.executable, "-c", HOLD, str(path), "alone"], stdin=subprocess.DEVNULL)
        end = time.monotonic() + 60
        while f"-> FLOCK  ADVISORY  WRITE {waits.pid} " not in Path("/proc/locks").read_text():
            assert time.monotonic() < end
            time.sleep(0.02)
        assert locks.holders(file) == tuple(sorted(process.pid for process in several))
        assert locks.holders(other) == ()
        several[0].communicate()
        assert locks.holders(file) == (several[1].pid,)
        several[1].communicate()
        assert waits.wait(60) == 0
        assert locks.holders(file) == ()


def test_a_lock_that_is_dropped_is_free_while_its_file_stays_open(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with path.open("ab") as file:
        assert locks.take(file, wait=False)
        with locks.held(path, wait=False) as mine:
            assert not mine
        locks.drop(file)
        with locks.held(path, wait=False) as mine:
            assert mine


def test_one_file_of_kdnas_calls_flock() -> None:
    root = Path(locks.__file__).parents[1]
    calling = [file for file in root.rglob("*.py") if "fcntl" in file.read_text(encoding="utf-8")]
    assert calling == [Path(locks.__file__)]
