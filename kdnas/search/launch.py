"""Starts the worker processes that run a study and outlive who started them. Reads and writes no store."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from kdnas.system import paths
from kdnas.system.errors import UsageError

_children: list[subprocess.Popen[bytes]] = []  # looked at now and then, so that none stays behind as a zombie


@dataclass(frozen=True)
class Started:
    """A worker process that outlives this one, and the file that takes its output."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def pid(self) -> int:
        return self.process.pid


def start_workers(
    storage: str | Path, study: str, count: int = 1, *, device: str | None = None, command: list[str] | None = None
) -> list[Started]:
    """Starts worker processes that outlive this one.

    Each has a session of its own, no standard input, and its output in a file under the state folder. Where the
    user has not set OMP_NUM_THREADS, they share the machine's cores. `command` is run instead of `kdnas.search.worker`,
    with the study's name appended.
    """
    _children[:] = [child for child in _children if child.poll() is None]
    folder = paths.state_folder() / "logs"
    try:
        paths.private_folder(folder)
    except OSError as error:
        raise UsageError(
            f"The folder {folder} cannot be made: {error.strerror}.", "Set KDNAS_STATE to one that can be written."
        ) from None
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # The address may hold a password, which a command line would show to everybody on the machine.
    environment = {"OMP_NUM_THREADS": str(max(1, cores // count)), **os.environ, "KDNAS_STORAGE": str(storage)}
    words = [*(command or [sys.executable, "-m", "kdnas.search.worker"]), study]
    if device is not None:
        words += ["--device", device]
    started = []
    for nth in range(count):
        log = folder / f"{study}.{time.time_ns() // 1_000_000}.{nth}.log"
        with log.open("ab") as output:
            child = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=environment,
            )
        _children.append(child)
        started.append(Started(child, log))
    return started
