"""Keeps the process small and unhurried: what was read of many trials goes back to the system when it is not needed.

glibc keeps freed memory for itself, in as many heaps as there are threads; where there is no glibc, nothing is done.
"""

from __future__ import annotations

import ctypes
import gc
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # of mallopt(3)
_WORTH_A_LOOK = 4  # looks through the second generation, each after some 20,000 new objects
_LARGE = 128 * 1024  # bytes from which a block is the system's own; left alone, glibc raises this as blocks are freed


def give_back() -> None:
    """Call it before threads are started."""
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return
    for option, value in ((_TRIM_THRESHOLD, _LARGE), (_MMAP_THRESHOLD, _LARGE), (_ARENA_MAX, 2)):
        mallopt(option, value)


def unhurried() -> None:
    """From now on nearly all full looks for garbage are those of `tidy`."""
    gc.set_threshold(2_000, 10, 1_000)


def tidy() -> None:
    """A full look for garbage where much has come and gone since the last, in a moment when nobody waits: often, so
    that it takes some hundredths of a second, and not a fifth."""
    if gc.get_count()[2] >= _WORTH_A_LOOK:
        gc.collect()


def keep() -> None:
    """What is here by now stays: looking through all of it for garbage would hold up the event loop."""
    gc.freeze()
