"""Moments along an axis: at which round clock times it has ticks, and how they are written. Pure; the zone is local."""

from __future__ import annotations

import time
from itertools import pairwise

STEPS_S = (
    1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 2 * 3600, 3 * 3600, 6 * 3600, 12 * 3600, 86400,
    2 * 86400, 7 * 86400, 14 * 86400, 28 * 86400, 91 * 86400, 365 * 86400,
)  # fmt: skip
_DAY_S = 86400


def ticks(start: float, end: float, cells: int) -> list[tuple[int, str]]:
    """Cells of an axis from `start` to `end`, UTC seconds, and what is written there; no two labels touch."""
    span = end - start
    if cells < 5 or not span > 0:
        return []
    for step in STEPS_S:
        if span / step > cells:
            continue
        found = _ticks(start, end, cells, step)
        if all(b[0] - a[0] > len(a[1]) for a, b in pairwise(found)):
            return found
    return []


def _ticks(start: float, end: float, cells: int, step: int) -> list[tuple[int, str]]:
    local = time.localtime(start)
    midnight = time.mktime((local.tm_year, local.tm_mon, local.tm_mday, 0, 0, 0, 0, 0, -1))
    moment = midnight + -(-(start - midnight) // step) * step
    found = []
    while moment <= end:
        cell, label = int((moment - start) / (end - start) * cells), said(moment, step)
        if cell + len(label) <= cells:
            found.append((cell, label))
        moment += step
    return found


def said(moment: float, step: float) -> str:
    """`23:14`, `23:14:05` where the steps are shorter than a minute, `27 Nov` at midnight and for steps of days."""
    local = time.localtime(moment)
    if step >= _DAY_S or (step >= 60 and local.tm_hour == 0 and local.tm_min == 0):
        return f"{local.tm_mday} {time.strftime('%b', local)}"
    return time.strftime("%H:%M:%S" if step < 60 else "%H:%M", local)
