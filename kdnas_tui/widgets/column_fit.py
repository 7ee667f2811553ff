"""Which columns of a table a width has room for, and on which page the others stand. Knows neither cells nor looks."""

from __future__ import annotations

from collections.abc import Sequence


def fitting(widths: Sequence[int], leaves: Sequence[int], room: int, gap: int) -> list[int]:
    """Places of the columns that fit in `room` cells, `gap` cells between two of them.

    The column with the highest number in `leaves` leaves first, of equal ones the right one; 0 never leaves.
    """
    stays = list(range(len(widths)))
    while len(stays) > 1 and sum(widths[i] for i in stays) + gap * (len(stays) - 1) > room:
        first = max(stays, key=lambda i: (leaves[i], i))
        if leaves[first] == 0:
            break
        stays.remove(first)
    return stays


def pages(widths: Sequence[int], leaves: Sequence[int], room: int, gap: int, kept: int) -> list[list[int]]:
    """The columns page by page: first those that matter most, then those that had no room, in their order.

    The first `kept` columns stand on every page. Every column stands on some page, however narrow it is.
    """
    found = [fitting(widths, leaves, room, gap)]
    rest = [i for i in range(len(widths)) if i not in found[0]]
    while rest:
        page, left = list(range(kept)), room - sum(widths[:kept]) - gap * (kept - 1)
        taken = 0
        while taken < len(rest) and (not taken or widths[rest[taken]] + gap <= left):
            left -= widths[rest[taken]] + gap
            taken += 1
        found.append(page + rest[:taken])
        rest = rest[taken:]
    return found
