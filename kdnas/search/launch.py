"""Starts the worker processes that run a study and outlive who started them. Reads and writes no store."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kdnas.search import placing
from kdnas.search.forked_process import ForkedProcess
from kdnas.search.placing import Seat
from kdnas.system import paths
from kdnas.system.errors import UsageError

WORKER = "kdnas.search.worker"  # the module that a worker runs
PARENT = "kdnas.search.worker_parent"

Process = subprocess.Popen[bytes] | ForkedProcess

_children: list[subprocess.Popen[bytes]] = []  # looked at now and then, so that none stays behind as a zombie


@dataclass(frozen=True)
class Started:
    """A worker process that outlives this one, and the file that takes its output."""

    process: Process
    log: Path

    @property
    def pid(self) -> int:
        return self.process.pid


def start_workers(
    storage: str | Path,
    study: str,
    count: int = 1,
    *,
    device: str | None = None,
    command: list[str] | None = None,
    seats: Sequence[Seat] | None = None,
) -> list[Started]:
    """Starts worker processes that outlive this one.

    Each has a session of its own, no standard input, and its output in a file under the state folder. `seats` says
    where each runs; without them, `count` workers share the machine's cores. Several are forked from one process that
    has imported their libraries, where the system allows it. `command` is run instead of `kdnas.search.worker`, with
    the study's name appended, once for each.
    """
    _children[:] = [child for child in _children if child.poll() is None]
    folder = paths.state_folder() / "logs"
    try:
        paths.private_folder(folder)
    except OSError as error:
        raise UsageError(
            f"The folder {folder} cannot be made: {error.strerror}.", "Set KDNAS_STATE to one that can be written."
        ) from None
    placed = list(placing.here(count, device=device) if seats is None else seats)
    logs = [folder / f"{study}.{time.time_ns() // 1_000_000}.{nth}.log" for nth in range(len(placed))]
    # The address may hold a password, which a command line would show to everybody on the machine.
    environment = {**os.environ, "KDNAS_STORAGE": str(storage)}
    if command is None and len(placed) > 1 and _forks():
        return _forked(study, placed, logs, environment)
    started = []
    for seat, log in zip(placed, logs, strict=True):
        words = [*(command or [sys.executable, "-m", WORKER]), study]
        if seat.device is not None:
            words += ["--device", seat.device]
        own = dict(environment)
        seat.into(own)
        started.append(Started(_process(words, own, log), log))
    return started


def _forks() -> bool:
    """Whether a process that has imported the libraries can be forked: those of macOS do not bear it."""
    return sys.platform == "linux"


def _forked(study: str, seats: Sequence[Seat], logs: Sequence[Path], environment: dict[str, str]) -> list[Started]:
    seats[0].into(environment)  # before torch is imported, whose threads are the same on every seat
    told, started, pipes = [], [], []
    for seat, log in zip(seats, logs, strict=True):
        log.touch()
        pipes.append(os.pipe())
        told.append(
            {"device": seat.device, "threads": seat.threads, "cores": seat.cores, "log": str(log), "pipe": pipes[-1][1]}
        )
    words = [sys.executable, "-m", PARENT, WORKER, study, json.dumps(told)]
    try:
        parent = _process(words, environment, logs[0], [written for _, written in pipes])
    finally:
        for _, written in pipes:
            os.close(written)
    for (read, _), log in zip(pipes, logs, strict=True):
        started.append(Started(ForkedProcess(parent, read), log))
    return started


def _process(
    words: Sequence[str], environment: dict[str, str], log: Path, pipes: Sequence[int] = ()
) -> subprocess.Popen[bytes]:
    with log.open("ab") as output:
        child = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=environment,
            pass_fds=pipes,
        )
    _children.append(child)
    return child
