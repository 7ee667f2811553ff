"""Columns of values: as trials arrive, as arrays of numbers, and coded, where a column has few different values.

Holds what states, configurations, tags and notes say of a hundred thousand trials. Knows no study and no filter.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


class Absent:
    """Stands for a key that a candidate, configuration or recipe's figures do not have."""

    def __repr__(self) -> str:
        return "ABSENT"


ABSENT = Absent()


@dataclass(frozen=True)
class Same:
    """A column in which every row has one value."""

    value: Any


@dataclass(frozen=True)
class Columns:
    """n trials by column: `fields` are those of TrialRow, the others go by key; ABSENT where a row lacks the key."""

    fields: Mapping[str, Sequence[Any] | Same]
    candidate: Mapping[str, Sequence[Any] | Same]
    config: Mapping[str, Sequence[Any] | Same]
    extra: Mapping[str, Sequence[Any] | Same]


def by_key(mappings: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Mappings as columns, in the order in which their keys first come."""
    keys: dict[str, None] = {}
    for found in dict.fromkeys(map(tuple, mappings)):
        keys.update(dict.fromkeys(found))
    return {key: [mapping.get(key, ABSENT) for mapping in mappings] for key in keys}


class CodedColumn:
    """A column of few different values: a small number for each row, and the value that each number stands for."""

    def __init__(self, capacity: int) -> None:
        self.values: list[Any] = [ABSENT]
        # By type, since True == 1 == 1.0; a list or a mapping is known by what it says.
        self._known: defaultdict[type, dict[Any, int]] = defaultdict(dict, {Absent: {ABSENT: 0}})
        self.codes = np.zeros(capacity, dtype=np.uint8)

    def put(self, places: np.ndarray, values: Sequence[Any] | Same) -> None:
        codes = [self._code(values.value)] if isinstance(values, Same) else self._codes(values)
        if len(self.values) > np.iinfo(self.codes.dtype).max:
            self.codes = self.codes.astype(np.min_scalar_type(len(self.values)))
        self.codes[places] = codes[0] if isinstance(values, Same) else np.array(codes, dtype=self.codes.dtype)

    def _codes(self, values: Sequence[Any]) -> list[int]:
        kinds = set(map(type, values))
        if len(kinds) > 1 or not kinds.isdisjoint((list, dict)):
            return list(map(self._code, values))
        (kind,) = kinds
        known = self._known[kind]
        for value in set(values).difference(known):
            self._code(value)
        return list(map(known.__getitem__, values))

    def _code(self, value: Any) -> int:
        kind = type(value)
        key = repr(value) if kind in (list, dict) else value
        code = self._known[kind].get(key)
        if code is None:
            code = self._known[kind][key] = len(self.values)
            self.values.append(value)
        return code

    def get(self, place: int) -> Any:
        return self.values[self.codes[place]]

    def present(self, n: int) -> np.ndarray:
        """Which of the first n rows have a value at all, bool [n]."""
        return self.codes[:n] != 0

    def where(self, n: int, test: Callable[[Any], bool]) -> np.ndarray:
        """Which of the first n rows' values pass; the test is made once for each different value."""
        return self.among(n, [value is not ABSENT and test(value) for value in self.values])

    def among(self, n: int, passing: Sequence[bool] | np.ndarray) -> np.ndarray:
        """The same, from a verdict on each of `values`; bool [n]."""
        return np.array(passing, dtype=bool)[self.codes[:n]]

    def sortable(self, n: int) -> np.ndarray:
        """Floats [n] in the order of the values: numbers as they are, words alphabetically, nothing as NaN."""
        if all(is_number(value) for value in self.values[1:]):
            table = [np.nan, *map(as_float, self.values[1:])]
        else:
            ordered = sorted({_text(value) for value in self.values[1:]} - {""})
            ranks = {text: float(place) for place, text in enumerate(ordered)}
            table = [np.nan, *(ranks.get(_text(value), np.nan) for value in self.values[1:])]
        return np.array(table)[self.codes[:n]]


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def as_float(value: float) -> float:
    """The number as a float; a whole number beyond all floats is infinite."""
    try:
        return float(value)
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")


def _text(value: Any) -> str:
    return " ".join(value) if isinstance(value, tuple) else "" if value is None else str(value)


def nothing(capacity: int) -> np.ndarray:
    """A column of NaN that takes no room, until somebody has a figure to write."""
    return np.broadcast_to(np.array(np.nan), capacity)


def grown(array: np.ndarray, capacity: int, fill: float | None = None) -> np.ndarray:
    if not array.flags.writeable:
        return nothing(capacity)
    longer = np.empty(capacity, dtype=array.dtype)
    longer[: len(array)] = array
    if fill is not None:
        longer[len(array) :] = fill
    return longer


NONE = np.iinfo(np.int64).min


def least(column: np.ndarray) -> int:
    """What stands for None in a column of whole numbers."""
    return int(np.iinfo(column.dtype).min)


def whole_column(values: Sequence[Any] | Same, n: int, of: Callable[[Sequence[Any]], np.ndarray]) -> np.ndarray:
    return np.repeat(of([values.value]), n) if isinstance(values, Same) else of(values)


def floats(values: Sequence[float | None]) -> np.ndarray:
    """float64 [n]; None becomes NaN."""
    return np.array(values, dtype=np.float64)


def as_floats(values: Sequence[Any]) -> np.ndarray:
    if values[0] is None and values.count(None) == len(values):
        return np.full(len(values), np.nan)
    try:
        return floats(values)
    except TypeError:
        return floats([None if value is ABSENT else value for value in values])


def as_ints(values: Sequence[Any]) -> np.ndarray:
    if values[0] is None and values.count(None) == len(values):
        return np.full(len(values), NONE)
    try:
        return np.array(values, dtype=np.int64)
    except TypeError:
        return np.array([NONE if value is None else value for value in values], dtype=np.int64)
