"""Which trials a filter lets through: the one evaluator of the language, on columns.

A list of rows goes through it as columns too (`ranked_rows.passing`). Parses nothing and ranks nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import numpy as np

from kdnas.study import filter as language
from kdnas.study.columns import ABSENT, CodedColumn, as_float, is_number
from kdnas.study.filter import Compare, Filter, Node, Number
from kdnas.study.ranking import Standing


class Trials(Protocol):
    """n trials by column, as far as a filter asks for them."""

    def __len__(self) -> int: ...

    @property
    def standing(self) -> Standing: ...

    def column(self, key: str) -> np.ndarray:
        """Floats [n] of a key of `language.COLUMNS`, NaN where missing."""
        ...

    def coded(self, field: str) -> CodedColumn | None:
        """The values of a field of few different ones; None for a field of numbers."""
        ...

    def keyed(self, key: str) -> Iterable[CodedColumn | np.ndarray]:
        """What candidates, configurations and figures hold under a key or its short name, the first counts."""
        ...

    def words(self) -> Iterable[CodedColumn]:
        """Everything that candidates and configurations hold."""
        ...


def mask(chosen: Filter, trials: Trials) -> np.ndarray:
    """Which trials pass, bool [n].

    A missing value or NaN passes no comparison, `!=` included; `not reward>0` finds those without.
    """
    return _mask(chosen.root, trials)


def _mask(node: Node, trials: Trials) -> np.ndarray:
    match node:
        case language.Everything():
            return np.ones(len(trials), dtype=bool)
        case language.Not(part):
            return ~_mask(part, trials)
        case language.And(parts):
            return np.logical_and.reduce([_mask(part, trials) for part in parts])
        case language.Or(parts):
            return np.logical_or.reduce([_mask(part, trials) for part in parts])
        case language.Fact(name):
            return _fact(name, trials)
        case language.Word(text):
            return _word(text, trials)
        case language.Compare():
            return _compare(node, trials)


def _fact(name: str, trials: Trials) -> np.ndarray:
    match name:
        case "front":
            return trials.standing.front
        case "tie":
            return trials.standing.tie
        case "ranked":
            return trials.standing.rank > 0
        case "feasible":
            return trials.standing.miss <= 0
        case "infeasible":
            return trials.standing.miss > 0
        case "repeated":
            return trials.column("repeats") > 0
        case "flagged":
            return _where(trials, "latency_flag", bool)
        case "marked":
            return _where(trials, "marked", bool)
    raise AssertionError(name)


def _where(trials: Trials, field: str, test: Callable[[Any], bool]) -> np.ndarray:
    column = trials.coded(field)
    assert column is not None, field
    return column.where(len(trials), test)


def _word(text: str, trials: Trials) -> np.ndarray:
    """Trials whose note, tags, candidate or configuration hold the word, or the number that it says."""
    number = language.read_number(text, {})

    def test(value: Any) -> bool:
        if isinstance(value, str):
            return text in value.lower()
        return number is not None and is_number(value) and value == number.value

    found = _where(trials, "note", lambda note: note != "" and test(note))
    found |= _where(trials, "tags", lambda tags: any(test(tag) for tag in tags))
    for column in trials.words():
        found |= column.where(len(trials), test)
    return found


def _compare(node: Compare, trials: Trials) -> np.ndarray:
    known = language.COLUMNS.get(node.key)
    if known is not None:
        column = None if known.field is None else trials.coded(known.field)
        if column is None:
            return _numbers_pass(trials.column(node.key), node)
        return _coded_pass(column, node, known.unit, len(trials))
    passing = np.zeros(len(trials), dtype=bool)
    for values in reversed(list(trials.keyed(node.key))):
        if isinstance(values, CodedColumn):
            passing = np.where(values.present(len(trials)), _coded_pass(values, node, None, len(trials)), passing)
        else:
            passing = np.where(np.isnan(values), passing, _numbers_pass(values, node))
    return passing


def _coded_pass(column: CodedColumn, node: Compare, unit: str | None, n: int) -> np.ndarray:
    """The comparison made once for each different value; `unit` is None for a key of configurations."""
    passing = np.array([value is not ABSENT and _text_passes(value, node, unit) for value in column.values])
    numbers = [place for place, value in enumerate(column.values) if is_number(value)]
    if numbers:
        passing[numbers] = _numbers_pass(np.array([as_float(column.values[place]) for place in numbers]), node)
    return column.among(n, passing)


def _text_passes(value: Any, node: Compare, unit: str | None) -> bool:
    """Whether a value that is no number passes."""
    texts = frozenset(text for text in node.wanted if isinstance(text, str))
    unlike = node.op == "!="
    if unit == "tag":
        return any(tag.lower() in texts for tag in value) is not unlike
    if value is None or unit in language.UNITS:
        return False
    if unit is None:
        return node.op in ("=", "!=", ":") and (str(value).lower() in texts) is not unlike
    if unit == "words" and node.op == ":":
        return any(text in value.lower() for text in texts if value)
    return bool(value) and (value.lower() in texts) is not unlike


def _numbers_pass(values: np.ndarray, node: Compare) -> np.ndarray:
    """Which numbers [n] pass; NaN passes nothing."""
    numbers = [number for number in node.wanted if isinstance(number, Number)]
    if not numbers:  # only words are wanted, which no number is
        return ~np.isnan(values) if node.op == "!=" else np.zeros(len(values), dtype=bool)
    match node.op:
        case "<":
            return values < numbers[0].value
        case "<=":
            return values <= numbers[0].value
        case ">":
            return values > numbers[0].value
        case ">=":
            return values >= numbers[0].value
    equal = _equal(values, numbers)
    return ~equal & ~np.isnan(values) if node.op == "!=" else equal


def _equal(values: np.ndarray, numbers: Sequence[Number]) -> np.ndarray:
    """Which values are one of the numbers, to as many digits as were written."""
    equal = np.zeros(len(values), dtype=bool)
    for number in numbers:
        low, high = number.value - number.half, number.value + number.half
        equal |= ((low <= values) & (values < high)) | (values == number.value)
    return equal
