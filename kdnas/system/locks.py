"""Locks on files of this host, the only place that calls `flock`. The kernel drops a lock with its process, so a death
leaves none behind.

`flock` rather than a library: readers share, which the portable ones do not offer, and the file is never removed
under somebody who waits for it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
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
