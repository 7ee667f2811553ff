"""Where values stand on an axis: in steps of one for few choices, else linear, or logarithmic where they span decades.

Pure arithmetic on columns of figures; draws nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log10

import numpy as np

from kdnas.study.columns import CodedColumn, as_float, is_number

DECADES = 1.5  # from which on a linear axis presses the small values together


def spans_decades(values: np.ndarray) -> bool:
    """Whether positive figures [n] span so much that their axis is better logarithmic; NaN do not count."""
    known = values[np.isfinite(values)]
    return len(known) > 1 and float(known.min()) > 0 and float(known.max()) / float(known.min()) >= 10**DECADES


def logarithm(values: np.ndarray) -> np.ndarray:
    """log10 of figures [n], NaN where they are not positive; float [n]."""
    found: np.ndarray = np.log10(values, where=values > 0, out=np.full(len(values), np.nan))
    return found


@dataclass(frozen=True)
class Scale:
    """From `low` at 0 to `high` at 1."""

    low: float
    high: float
    log: bool = False

    @staticmethod
    def of(values: np.ndarray, *, log: bool | None = None) -> Scale:
        """From the least to the greatest figure of [n]; logarithmic where they span decades, or as asked."""
        known = values[np.isfinite(values)]
        if not len(known):
            return Scale(0.0, 1.0)
        chosen = spans_decades(known) if log is None else log and float(known.min()) > 0
        return Scale(float(known.min()), float(known.max()), chosen)

    def at(self, values: np.ndarray) -> np.ndarray:
        """Places from 0 to 1; what lies beyond the scale is at its ends, all that are equal in the middle, NaN for NaN;
        float [n]."""
        low, high = (log10(self.low), log10(self.high)) if self.log else (self.low, self.high)
        with np.errstate(all="ignore"):
            figures = np.log10(values) if self.log else values
            places = np.clip((figures - low) / (high - low), 0.0, 1.0) if high > low else 0.5
        return np.where(np.isfinite(values), places, np.nan)


@dataclass(frozen=True)
class Choices:
    """The values of a dimension that trials have had, in order, and which of them each trial has."""

    labels: tuple[str, ...]
    index: np.ndarray  # int [n], -1 where a trial has none

    @staticmethod
    def of(column: CodedColumn, n: int) -> Choices:
        """Numbers by size and before words, words alphabetically; of the first n trials."""
        codes = column.codes[:n]
        there = [code for code in np.unique(codes).tolist() if code]
        ordered = sorted(there, key=lambda code: _sorted_as(column.values[code]))
        places = np.full(len(column.values), -1, dtype=np.int64)
        places[ordered] = np.arange(len(ordered))
        return Choices(tuple(_label(column.values[code]) for code in ordered), places[codes])

    def at(self) -> np.ndarray:
        """Places from 0 to 1, evenly; NaN where a trial has no value; float [n]."""
        steps = max(1, len(self.labels) - 1)
        middle = 0.5 if len(self.labels) == 1 else 0.0
        return np.where(self.index >= 0, self.index / steps + middle, np.nan)


def _sorted_as(value: object) -> tuple[int, float, str]:
    if isinstance(value, bool) or not is_number(value):
        return 1, 0.0, str(value)
    return 0, as_float(value), ""  # type: ignore[arg-type]  # is_number said so


def _label(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
