"""A table as a file holds it: named columns of raw values, and the line or row that each value came from.

Reads no file and judges no value; what a cell means is said in cells.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kdnas.data.label_forms import look
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
    notes: tuple[str, ...] = ()  # what people must know of how the file was read, a line each

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
    plain = [name.isprintable() and len(name) <= 60 and name == name.strip() for name in names[:MOST_NAMES]]
    words = [name if ok else repr(name[:60]) for ok, name in zip(plain, names, strict=False)]
    return ", ".join(words) + (f" and {len(names) - MOST_NAMES:,} more" if len(names) > MOST_NAMES else "")


def near_column(wanted: str, header: Sequence[str]) -> str:
    """`Did you mean 'Text'?` for a name that differs in blanks, case or unseen characters alone; else nothing."""
    alike = next((name for name in header if look(name).casefold() == look(wanted).casefold()), None)
    return "" if alike is None else f"Did you mean {alike!r}?"


def other_dialect(name: str, header: Sequence[str]) -> str | None:
    """The hint for a first line that is of another dialect, or is no header; None where it looks like one."""
    if header and header[0].lower().startswith("sep="):
        return "Remove its first line, 'sep=…', which is for spreadsheets alone."
    if len(header) != 1:
        return None
    only = header[0]
    if only.startswith("#"):
        return f"Remove its first line, {only[:60]!r}: the first line must name the columns."
    if only.lstrip().lower().startswith(("<!doctype html", "<html")):
        return "It is a web page; fetch the file itself."
    marks = {";": "semicolons", "|": "vertical bars", "\t": "tabs", ",": "commas"}
    found = next((mark for mark in marks if mark in only), None)
    if found is None:
        return None
    wanted, kind = ("tabs", ".tsv") if name.lower().endswith((".tsv", ".tsv.gz", ".tsv.bz2")) else ("commas", ".csv")
    named = {"\t": " Or name it .tsv.", ",": " Or name it .csv."}.get(found, "")
    return f"Separate the fields by {wanted}, as {kind} has them; here they are separated by {marks[found]}.{named}"
