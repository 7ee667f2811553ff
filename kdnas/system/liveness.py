"""Whether a worker's process is alive: by a locked file on its own host, by its heartbeat on others.

The kernel drops a lock with its process, so a death shows at once and a recycled process number fools nobody.
Clocks of hosts differ, so a heartbeat's time is compared with no clock of this host: what counts is whether it has
changed since this process last looked. Knows no database.
"""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Callable, Hashable
from pathlib import Path

from kdnas.system import locks
from kdnas.system.errors import UsageError
from kdnas.system.paths import private_folder, state_folder

HEARTBEAT_S = 5.0  # how often a worker writes that it lives
STALE_S = 60.0  # a worker on another host that has been silent for so long counts as dead
LONG_S = 600.0  # no clock is so wrong: whoever was silent for so long is dead at the first look
GAP_S = STALE_S - 3 * HEARTBEAT_S  # counts at most between two looks: the store may have been away for both


def this_host() -> str:
    return socket.gethostname()


class Hold:
    """An exclusive lock on a file of this process's own, held until `release` or death."""

    def __init__(self) -> None:
        folder = state_folder() / "workers"
        self.path = folder / f"{os.getpid()}-{secrets.token_hex(6)}.lock"
        try:
            private_folder(folder)
            self._file = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        except OSError as error:
            raise UsageError(
                f"Nothing can be written in the folder {folder}: {error.strerror}.",
                "Set KDNAS_STATE to one that can be written.",
            ) from None
        locks.take(self._file, wait=False)

    def release(self, *, known: bool = True) -> None:
        """Lets go. Where no row could be made to say that this process has ended (not `known`), the file stays: that
        nobody locks it says so at once."""
        if known:
            self.path.unlink(missing_ok=True)
        os.close(self._file)


def is_held(path: str | Path) -> bool | None:
    """Whether some process holds the lock; None where there is no such file on this host to ask."""
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        return not locks.take(file, shared=True, wait=False)
    finally:
        os.close(file)


class Heard:
    """Heartbeats that this process has seen, and for how long each has stood still under its eyes."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._known: dict[Hashable, tuple[float, bool, float, float]] = {}  # heartbeat, changed, silent, looked

    def look(self, whose: Hashable, heartbeat: float) -> tuple[float, bool]:
        """Seconds for which it has not changed while it was looked at; whether it has ever been seen to change."""
        now = self._clock()
        known = self._known.get(whose)
        if known is None and len(self._known) >= 10_000:
            self._known.clear()
        if known is None or known[0] != heartbeat:
            silent, changed = 0.0, known is not None
        else:
            _, changed, silent, looked = known
            silent += min(now - looked, GAP_S)
        self._known[whose] = (heartbeat, changed, silent, now)
        return silent, changed


heard = Heard()


def alive(
    whose: Hashable, host: str, lock: str | None, heartbeat: float, now: float, *, surely_dead: bool = False
) -> bool:
    """Whether the process of a row that has not ended lives. `whose` names the worker; `heartbeat` and `now` are UTC
    seconds by the database's clock, which judges at the first look. With `surely_dead` a worker of another host lives
    until its heartbeat has been seen to stand still, or is very old: for those who take its work away.
    """
    here = host == this_host()
    if here and lock is not None:
        held = is_held(lock)
        if held is not None:
            return held
    silent, changed = heard.look((whose, host, lock), heartbeat)
    if silent >= STALE_S:
        return False
    return changed or now - heartbeat < (LONG_S if surely_dead and not here else STALE_S)
