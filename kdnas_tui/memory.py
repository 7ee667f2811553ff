"""Keeps the process small and its event loop free: memory goes back to the system, garbage is collected when idle.

glibc holds on to freed memory, in one heap for each thread. Without glibc nothing is done.
"""

from __future__ import annotations

import ctypes
import gc
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # of mallopt(3)
_COLLECT_AFTER = 4  # collections of the second generation, each after some 20,000 new objects
_LARGE = 128 * 1024  # bytes from which a block is mapped by itself; left alone, glibc raises this as blocks are freed


def give_back() -> None:
    """Have glibc return freed memory to the system. Call it before threads are started."""
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return
    for option, value in ((_TRIM_THRESHOLD, _LARGE), (_MMAP_THRESHOLD, _LARGE), (_ARENA_MAX, 2)):
        mallopt(option, value)


def unhurried() -> None:
    """Leave nearly all full collections to `tidy`."""
    gc.set_threshold(2_000, 10, 1_000)


def tidy() -> None:
    """Collect all garbage if much has come and gone since the last time. Called often, it takes some hundredths of a
    second instead of a fifth."""
    if gc.get_count()[2] >= _COLLECT_AFTER:
        gc.collect()


def freeze() -> None:
    """Leave out of later collections what is here by now: looking through it would hold up the event loop."""
    gc.freeze()
