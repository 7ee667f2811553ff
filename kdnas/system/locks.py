"""Locks on files of this host, the only place that calls `flock`. The kernel drops a lock with its process, so a death
leaves none behind.

`flock` rather than a library: readers share, which the portable ones do not offer, and the file is never removed
under somebody who waits for it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO


def opened(path: Path) -> int:
    """The descriptor of a lock's file, made where there is none. Raises OSError."""
    return os.open(path, os.O_CREAT | os.O_RDWR, 0o600)


def take(file: int | IO[bytes], *, shared: bool = False, wait: bool = True) -> bool:
    """Takes the lock of an open file, alone or shared with others; False where it is not to `wait` and another has it.
    Held until the file is closed."""
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


def holders(file: int | IO[bytes]) -> tuple[int, ...]:
    """The processes that have the lock of an open file, as far as this system says: Linux does, of one's own ones."""
    mine = os.fstat(file if isinstance(file, int) else file.fileno())
    try:
        told = Path("/proc/locks").read_text()
    except OSError:
        return ()
    # A line is `1: FLOCK ADVISORY WRITE 4242 fe:00:2146538 0 EOF`; one of a process that waits has an arrow. On layered
    # file systems its device is not the file's, so the process is asked whether it has this very file open.
    pids = re.findall(rf"^\d+: FLOCK +\w+ +\w+ +(\d+) [\da-f:]+:{mine.st_ino} ", told, re.MULTILINE)
    return tuple(sorted({int(pid) for pid in pids if _has_open(pid, mine)}))


def _has_open(pid: str, file: os.stat_result) -> bool:
    with contextlib.suppress(OSError):
        for one in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):  # closed meanwhile
                if os.path.samestat(one.stat(), file):
                    return True
    return False


def drop(file: int | IO[bytes]) -> None:
    """Gives the lock of an open file up; the file stays open."""
    fcntl.flock(file, fcntl.LOCK_UN)


@contextlib.contextmanager
def held(path: Path, *, shared: bool = False, wait: bool = True) -> Iterator[bool]:
    """The lock while inside; whether it was to be had."""
    file = opened(path)
    try:
        yield take(file, shared=shared, wait=wait)
    finally:
        os.close(file)
