"""Whether a worker's process is alive: by a locked file on its own host, by its heartbeat on others.

The kernel drops a lock with its process, so a death shows at once and a recycled process number fools nobody.
Knows no database.
"""

from __future__ import annotations

import os
import secrets
import socket
import time
from pathlib import Path

from kdnas.system import locks
from kdnas.system.paths import state_folder

HEARTBEAT_S = 5.0  # how often a worker writes that it lives
STALE_S = 60.0  # a worker on another host that has been silent for so long counts as dead


def this_host() -> str:
    return socket.gethostname()


class Hold:
    """An exclusive lock on a file of this process's own, held until `release` or death."""

    def __init__(self) -> None:
        folder = state_folder() / "workers"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.path = folder / f"{os.getpid()}-{secrets.token_hex(6)}.lock"
        self._file = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
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


def alive(host: str, lock: str | None, heartbeat: float, now: float | None = None) -> bool:
    """Whether the process of a row that has not ended lives. `heartbeat` and `now` are UTC seconds."""
    if lock is not None and host == this_host():
        held = is_held(lock)
        if held is not None:
            return held
    return (time.time() if now is None else now) - heartbeat < STALE_S
