"""Starts the worker processes that run a study and outlive who started them. Reads and writes no store."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kdnas.search import placing
from kdnas.search.placing import Seat
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
    where each runs; without them, `count` workers share the machine's cores. `command` is run instead of
    `kdnas.search.worker`, with the study's name appended.
    """
    _children[:] = [child for child in _children if child.poll() is None]
    folder = paths.state_folder() / "logs"
    try:
        paths.private_folder(folder)
    except OSError as error:
        raise UsageError(
            f"The folder {folder} cannot be made: {error.strerror}.", "Set KDNAS_STATE to one that can be written."
        ) from None
    started = []
    for nth, seat in enumerate(placing.here(count, device=device) if seats is None else seats):
        # The address may hold a password, which a command line would show to everybody on the machine.
        environment = {**os.environ, "KDNAS_STORAGE": str(storage)}
        seat.into(environment)
        words = [*(command or [sys.executable, "-m", "kdnas.search.worker"]), study]
        if seat.device is not None:
            words += ["--device", seat.device]
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
