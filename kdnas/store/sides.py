"""The log and the index that SQLite keeps beside a store's file, and whose they are.

They stay when the file alone is deleted or replaced, and a process that still uses them would mix two stores. Looks
at names, sizes and the kernel's list of locks; opens nothing, since that would take away this process's own locks.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from kdnas.system.errors import UsageError

LOOKS, BETWEEN_S = 3, 0.02


def require_own(path: Path) -> None:
    """Raises UsageError where what lies beside a store's file belongs to a store that was there before."""
    log, index = Path(f"{path}-wal"), Path(f"{path}-shm")
    there = _size(path) > 0
    strangers = _strangers(path, index)
    for _ in range(LOOKS - 1):  # who is just opening or closing the store holds only half of it for a moment
        if strangers:
            time.sleep(BETWEEN_S)
            strangers &= _strangers(path, index)
    if strangers:
        listed = ", ".join(map(str, sorted(strangers)))
        raise UsageError(
            f"The store {path} was deleted or replaced while it was in use: process {listed} still writes to the old "
            "one.",
            "End that process first, or give another --storage.",
        )
    if not there and _size(log) > 0:
        raise UsageError(
            f"{log} is the log of a store that is no longer beside it.",
            "Put that store back, or remove its log too, or give another --storage.",
        )


def log_bytes(path: Path) -> int:
    """How large the log beside a store's file is; 0 where there is none."""
    return _size(Path(f"{path}-wal"))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _strangers(path: Path, index: Path) -> set[int]:
    """Numbers of the processes that hold the index but not the file, where the kernel lists locks."""
    try:
        words = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    except OSError:
        return set()
    held = [(int(line[4]), line[5]) for line in words if len(line) == 8 and line[4].isdigit()]
    store, beside = _inode(path), _inode(index)
    return {pid for pid, name in held if name == beside} - {pid for pid, name in held if name == store}


def _inode(path: Path) -> str | None:
    """A file as the kernel's list names it."""
    try:
        found = path.stat()
    except OSError:
        return None
    return f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
