"""Which columns of a table a width has room for. Shared by all tables; knows neither cells nor looks."""

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
