"""Which of this process's threads wait for a device, for how long, and for whom. Knows no torch."""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import dataclass
from typing import IO

import psutil

from kdnas.system import locks

LONG_S = 10.0  # who waits longer than a measurement takes wants to know for whom

_waiting: dict[int, tuple[float, str, IO[bytes]]] = {}  # by thread: since when, for which device, at which lock


@dataclass(frozen=True)
class Wait:
    """For how many seconds a thread of this process has waited for a device, for which process, as far as that can be
    known, and whether somebody stopped that one, so that it would wait for ever."""

    device: str
    seconds: float
    process: int | None
    stopped: bool

    @property
    def words(self) -> str:
        """Few, the most important first: screens have little room for what a worker is at."""
        return f"{'stopped ' if self.stopped else 'waiting: '}{self._whom} has the {self.device}"

    @property
    def advice(self) -> str:
        """In sentences, with what to do where nothing else helps."""
        told = f"Waiting for the {self.device}: {self._whom} has it"
        return (
            f"{told} and is stopped. Continue it (kill -CONT {self.process}) or end it." if self.stopped else f"{told}."
        )

    @property
    def _whom(self) -> str:
        return "another process" if self.process is None else f"process {self.process}"


def take(device: str, file: IO[bytes], *, shared: bool = False) -> None:
    """Waits for a device's lock, and lets `long_wait` know."""
    if locks.take(file, shared=shared, wait=False):
        return
    me = threading.get_ident()
    _waiting[me] = time.monotonic(), device, file
    try:
        locks.take(file, shared=shared)
    finally:
        del _waiting[me]


def long_wait() -> Wait | None:
    """The longest wait of this process's threads, from LONG_S on."""
    waits = sorted(_waiting.values(), key=lambda one: one[0])
    if not waits or (seconds := time.monotonic() - waits[0][0]) < LONG_S:
        return None
    _, device, file = waits[0]
    try:
        found = sorted(locks.holders(file), key=_is_stopped)
    except (OSError, ValueError):  # the wait is over, and the file closed
        return None
    return Wait(device, seconds, found[-1] if found else None, bool(found) and _is_stopped(found[-1]))


def _is_stopped(pid: int) -> bool:
    with contextlib.suppress(psutil.Error):
        return str(psutil.Process(pid).status()) == psutil.STATUS_STOPPED
    return False
