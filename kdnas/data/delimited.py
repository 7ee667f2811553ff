"""CSV and TSV as tables: every row has as many fields as the header, every quote is closed, every name is unique.

CSV is read as RFC 4180 writes it. TSV is read as GLUE ships it: a tab ends a field, a line end ends a row, and a
quotation mark is text.
"""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Iterator, Sequence

from kdnas.data.table import Table, other_dialect, require_unique
from kdnas.system.errors import UsageError

QUOTES = "Write a quotation mark inside quotes twice, and close every quote."
LINE_ENDS = "Save it with one kind of line end."


def read_csv(name: str, text: str, wanted: Sequence[str]) -> Table:
    """Raises UsageError with the line for a row that cannot be meant."""
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    return _table(name, _csv_rows(name, text), wanted, "Put quotes around a field that holds a comma.")


def read_tsv(name: str, text: str, wanted: Sequence[str]) -> Table:
    """Raises UsageError with the line for a row of another width than the header's."""
    rows = ((line, row.split("\t")) for line, row in enumerate(lines_of(text), 1) if row)
    return _table(name, rows, wanted, "Remove tabs and line breaks inside fields; TSV is read without quoting.")


def lines_of(text: str) -> list[str]:
    """Lines that end with LF or CR LF, or with CR in a text without LF. No other character ends a line."""
    ends = "\r?\n" if "\n" in text else "\r"
    return re.split(ends, text)


def _csv_rows(name: str, text: str) -> Iterator[tuple[int, list[str]]]:
    """(first line, fields) of each row; blank lines are no rows."""
    # Split by hand, since a text file ends lines at a lone CR too, and str.splitlines at many more characters.
    mark = "\n" if "\n" in text else "\r"
    lines = iter([line + mark for line in text.split(mark)])
    reader = csv.reader(lines, strict=True)
    while True:
        begins = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            hint = LINE_ENDS if "new-line character" in str(error) else QUOTES
            raise UsageError(_unquoted(name, begins, reader.line_num, str(error)), hint) from None
        if row:
            yield begins, row


def _unquoted(name: str, begins: int, ends: int, said: str) -> str:
    if "unexpected end of data" in said:
        return f"{name} has a quote in the row that begins in line {begins:,} that is never closed."
    if "new-line character" in said:
        said = "a carriage return alone stands outside quotes, where other lines end with line feeds"
    reach = f"line {begins:,}" if ends == begins else f"line {begins:,} (read up to line {ends:,})"
    return f"{name} is no CSV in the row that begins in {reach}: {said}."


def _table(name: str, rows: Iterator[tuple[int, list[str]]], wanted: Sequence[str], hint: str) -> Table:
    first = next(rows, (0, []))[1]
    header = [column.lstrip("\ufeff") for column in first]
    require_unique(name, header)
    places = {column: header.index(column) for column in wanted if column in header}
    found: dict[str, list[str]] = {column: [] for column in places}
    lines: list[int] = []
    for line, row in rows:
        if len(row) != len(header):
            raise UsageError(
                f"{name} has {_fields(len(row))} in line {line:,} (row {len(lines) + 1:,}); its header has "
                f"{len(header):,}.",
                other_dialect(name, header) or hint,
            )
        if places and len(header) > 1 and row in (header, first):
            raise UsageError(
                f"{name} names its columns again in line {line:,} (row {len(lines) + 1:,}).", "Remove that line."
            )
        lines.append(line)
        for column, place in places.items():
            found[column].append(row[place])
    return Table(name, tuple(header), found, len(lines), lines)


def _fields(count: int) -> str:
    return f"{count:,} field" if count == 1 else f"{count:,} fields"
