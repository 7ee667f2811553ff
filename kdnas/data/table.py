"""A table as a file holds it: named columns of raw values, and the line or row that each value came from.

Reads no file and judges no value; what a cell means is said in cells.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kdnas.system.errors import UsageError

MOST_NAMES = 30  # column names that a message lists


@dataclass(frozen=True)
class Table:
    """Rows of one file. `columns` holds the columns that were asked for, as far as the file has them."""

    name: str  # of the file, for messages
    header: tuple[str, ...]  # all column names
    columns: Mapping[str, Sequence[Any]]
    rows: int
    lines: Sequence[int] | None = None  # where each row begins, in formats that have lines
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # names that the file declares for a column

    def place(self, row: int) -> str:
        """Where row `row`, counted from 0, stands: `row 3 (line 4)`."""
        return f"row {row + 1:,}" + ("" if self.lines is None else f" (line {self.lines[row]:,})")


def by_columns(rows: Iterable[Mapping[str, Any]], wanted: Iterable[str]) -> dict[str, list[Any]]:
    """The wanted columns of rows that are mappings; None where a row lacks one."""
    listed = list(rows)
    return {name: [row.get(name) for row in listed] for name in wanted}


def require_unique(name: str, header: Sequence[str]) -> None:
    """Raise UsageError where two columns have one name; columns without a name cannot be asked for and may repeat."""
    twice = next((column for column, count in Counter(header).items() if count > 1 and column), None)
    if twice is not None:
        raise UsageError(f"{name} has two columns of the name {twice!r}.", "Rename or remove one of them.")


def listed(names: Sequence[str]) -> str:
    """Column names for a message, on one line."""
    words = [name if name.isprintable() and len(name) <= 60 else repr(name[:60]) for name in names[:MOST_NAMES]]
    return ", ".join(words) + (f" and {len(names) - MOST_NAMES:,} more" if len(names) > MOST_NAMES else "")
