"""JSON and JSON lines as tables: one object a row, a list of objects, or one object of columns.

A file is judged by what it holds, not by its suffix: pretty-printed objects in a .jsonl and lines in a .json are
read. What is sound JSON of another shape is refused with its keys.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from kdnas.data.delimited import lines_of
from kdnas.data.table import Table, by_columns, listed, require_unique
from kdnas.system.errors import UsageError, first_line

SHAPES = 'Give one object a row, {"text": "…"}, each on a line of its own or all in one list.'


class _TwiceError(ValueError):
    """An object names a key twice."""


def read_json(name: str, text: str, wanted: Sequence[str], *, by_lines: bool) -> Table:
    """`by_lines` says what the suffix promises, and so what an error speaks of. Raises UsageError."""
    if by_lines:
        try:
            return _lines(name, text, wanted)
        except _LineError as broken:
            found = _values(text)
            if found is None:
                raise broken.said from None
            return _of_values(name, found, wanted)
    try:
        whole = _loads(text)
    except json.JSONDecodeError as error:
        found = _values(text)
        if found is not None:
            return _of_values(name, found, wanted)
        if error.msg != "Extra data":
            raise _broken(name, error, error.lineno) from None
        try:  # whole values first, so that these are lines of which one is broken
            return _lines(name, text, wanted)
        except _LineError as broken:
            raise broken.said from None
    except (ValueError, RecursionError) as error:
        raise _broken(name, error, None) from None
    return _of_whole(name, whole, wanted)


class _LineError(Exception):
    """A line is no JSON; `said` is what a person hears of it."""

    def __init__(self, said: UsageError) -> None:
        super().__init__()
        self.said = said


def _lines(name: str, text: str, wanted: Sequence[str]) -> Table:
    rows: list[dict[str, Any]] = []
    lines: list[int] = []
    written = [(place, line.strip("\ufeff \t\r")) for place, line in enumerate(lines_of(text), 1)]
    for line, part in written:
        if not part:
            continue
        try:
            value = _loads(part)
        except (ValueError, RecursionError) as error:
            raise _LineError(_broken(name, error, line)) from None
        if not isinstance(value, dict):
            if not rows and not any(later for at, later in written if at > line):
                return _of_whole(name, value, wanted)  # the only line
            raise UsageError(f"{name} holds values that are no objects: {_kind(value)} in line {line:,}.", SHAPES)
        rows.append(value)
        lines.append(line)
    return _rows(name, rows, wanted, lines)


def _values(text: str) -> list[Any] | None:
    """The values of a file that holds several one after another; None where anything of it is no JSON."""
    decoder = json.JSONDecoder(object_pairs_hook=_once)
    found: list[Any] = []
    place = 0
    try:
        while True:
            while place < len(text) and text[place] in "\ufeff \t\r\n":
                place += 1
            if place == len(text):
                return found
            value, place = decoder.raw_decode(text, place)
            found.append(value)
    except (ValueError, RecursionError):
        return None


def _of_values(name: str, values: list[Any], wanted: Sequence[str]) -> Table:
    if len(values) == 1:
        return _of_whole(name, values[0], wanted)
    other = next(((place, value) for place, value in enumerate(values, 1) if not isinstance(value, dict)), None)
    if other is not None:
        raise UsageError(f"{name} holds values that are no objects: {_kind(other[1])} in row {other[0]:,}.", SHAPES)
    return _rows(name, values, wanted, None)


def _of_whole(name: str, value: Any, wanted: Sequence[str]) -> Table:
    """The table that one JSON value means."""
    if isinstance(value, list):
        other = next(((row, part) for row, part in enumerate(value, 1) if not isinstance(part, dict)), None)
        if other is not None:
            raise UsageError(f"{name} holds values that are no objects: {_kind(other[1])} in row {other[0]:,}.", SHAPES)
        return _rows(name, value, wanted, None)
    if not isinstance(value, dict):
        raise UsageError(f"{name} holds {_kind(value)} and no objects.", SHAPES)
    below = _rows_below(name, value, wanted)
    if below is not None:
        key, rows = below
        said = f"The rows of {Path(name).name} are the list under the key {_clean(key)!r}."
        return replace(_rows(name, rows, wanted, None), notes=(said,))
    columns = _columns(value)
    if columns is not None:
        header = tuple(map(_clean, value))
        require_unique(name, header)
        length = len(next(iter(columns.values())))
        return Table(name, header, {c: columns[c] for c in wanted if c in columns}, length)
    if value and not any(isinstance(part, list | dict) for part in value.values()):
        return _rows(name, [value], wanted, None)
    raise UsageError(f"{name} holds one object with the keys {listed([_clean(key) for key in value])}.", SHAPES)


def _rows_below(name: str, value: Mapping[str, Any], wanted: Sequence[str]) -> tuple[str, list[dict[str, Any]]] | None:
    """The one list of rows that an object wraps, and its key; None where the object is itself a row or columns.

    Raises UsageError for an object that holds rows in a way that leaves open which are meant.
    """
    if any(column in value for column in wanted):
        return None
    lists = {key: part for key, part in value.items() if isinstance(part, list) and part}
    ofrows = [key for key, part in lists.items() if all(isinstance(row, dict) for row in part)]
    if len(ofrows) == 1 and len(lists) == 1:
        return ofrows[0], lists[ofrows[0]]
    if len(ofrows) > 1:
        raise UsageError(
            f"{name} holds several lists of rows, under the keys {listed([_clean(key) for key in ofrows])}.",
            "Write one of them to a file of its own.",
        )
    if {"columns", "data"} <= lists.keys() and all(isinstance(row, list) for row in lists["data"]):
        raise UsageError(
            f"{name} holds names of columns apart from lists of values (orient='split' of pandas).",
            "Write it with orient='records'.",
        )
    rows = list(value.values())
    if rows and all(isinstance(row, dict) and any(column in row for column in wanted) for row in rows):
        raise UsageError(
            f"{name} holds one object whose keys stand for rows: {listed([_clean(key) for key in value])}.", SHAPES
        )
    return None


def _columns(value: Mapping[str, Any]) -> dict[str, list[Any]] | None:
    """Columns of a table that was written by columns: lists of one length, or objects with the same keys."""
    parts = list(value.values())
    if not parts:
        return None
    if all(isinstance(part, list) for part in parts) and len({len(part) for part in parts}) == 1:
        return {_clean(key): list(part) for key, part in value.items()}
    if all(isinstance(part, dict) for part in parts) and all(part.keys() == parts[0].keys() for part in parts):
        return {_clean(key): [part[row] for row in parts[0]] for key, part in value.items()}
    return None


def _rows(name: str, rows: list[dict[str, Any]], wanted: Sequence[str], lines: Sequence[int] | None) -> Table:
    header = tuple(dict.fromkeys(_clean(key) for row in rows for key in row))
    there = [column for column in wanted if column in header]
    return Table(name, header, by_columns(rows, there), len(rows), lines)


def _loads(text: str) -> Any:
    return json.loads(text, object_pairs_hook=_once)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise _TwiceError(f"the key {_clean(twice)!r} stands twice in one object")
    return found


def _broken(name: str, error: Exception, line: int | None) -> UsageError:
    place = "" if line is None else f" at line {line:,}"
    if isinstance(error, _TwiceError):
        return UsageError(f"{name} cannot be read{place}: {error}.", "Rename or remove one of the two.")
    said = error.msg if isinstance(error, json.JSONDecodeError) else first_line(error)
    if "integer string conversion" in said:
        said = "it has a whole number of too many digits"
    if isinstance(error, RecursionError):
        said = "it is nested too deeply"
    return UsageError(f"{name} is no JSON{place}: {said.rstrip('.')}.", "Fix that line.")


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool | int | float):
        return "a number" if not isinstance(value, bool) else "true or false"
    return {"str": "a text", "list": "a list", "dict": "an object"}[type(value).__name__]


def _clean(key: str) -> str:
    """A key without half surrogate pairs, which no terminal and no database takes."""
    return key.encode("utf-8", "replace").decode("utf-8").lstrip("\ufeff")
