"""What one cell means: a text, a label, a group or a summary, the same for every format.

Missing is missing, strings pass as they are, bytes are UTF-8, numbers are labels or groups and never texts. All else
is refused with its row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from kdnas.data.label_forms import kind
from kdnas.system.errors import UsageError

Role = Literal["text", "label", "group", "summary"]
EXACT = 2**53  # from where on floats do not tell neighbouring whole numbers apart
REPLACED = "\ufffd"  # stands for half a surrogate pair


@dataclass(frozen=True)
class Column:
    """Cells of one column as text, None for a missing one."""

    values: list[str | None]
    repaired: int = 0  # rows with half a surrogate pair, which REPLACED stands for
    trimmed: int = 0  # labels with blanks around them
    kinds: Mapping[str, tuple[str, str]] = field(default_factory=dict)  # of labels: one of each kind, and its place


def column(
    values: Sequence[Any], role: Role, name: str, place: Callable[[int], str], classes: Sequence[str] | None = None
) -> Column:
    """All cells of a column. `place` says where a row stands; `classes` are names that the source declares for
    numbers, under which −1 is no label. Raises UsageError with the row of a cell that is neither text nor missing."""
    found: list[str | None] = []
    repaired = trimmed = 0
    kinds: dict[str, tuple[str, str]] = {}
    for row, value in enumerate(values):
        try:
            text = cell(value, role, classes)
        except _RefusedError as refused:
            raise UsageError(
                f"The data set {name!r} has {refused.what} as its {role} in {place(row)}.", refused.hint
            ) from None
        if text is not None and not text.isascii():
            text = text.lstrip("\ufeff")  # the mark of a file that was joined to another
            whole = without_halves(text)
            repaired += whole != text
            text = whole
        if text is not None and role == "label":
            bare = text.strip()
            trimmed += bare != text and bool(bare)
            text = bare
            if text and (sort := kind(value)) not in kinds:
                kinds[sort] = repr(text) if sort == "text" else text, place(row)
        # A blank text is a row without text; a blank label, group or summary is none.
        found.append(None if text is None or (role != "text" and not text.strip()) else text)
    return Column(found, repaired, trimmed, kinds)


def cell(value: Any, role: Role, classes: Sequence[str] | None = None) -> str | None:
    """One cell as text; None where it is missing."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None:
        return None
    if isinstance(value, str):
        if role == "label" and "\0" in value:
            raise _RefusedError("a text with a NUL character", "Write it without that.")
        return value
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError as error:
            raise _RefusedError(f"bytes that are not UTF-8 (0x{value[error.start]:02x})", "Save it as UTF-8.") from None
    if isinstance(value, bool | int | float):
        return _number(value, role, classes)
    several = isinstance(value, list | tuple | dict | set)
    hint = "Give one value a row." if several else "Write it as a text, or as a whole number."
    raise _RefusedError(_indefinite(value), "Give one text a row." if role in _TEXTS else hint)


_TEXTS = ("text", "summary")


class _RefusedError(Exception):
    """A cell that means nothing in its role."""

    def __init__(self, what: str, hint: str) -> None:
        super().__init__(what)
        self.what, self.hint = what, hint


def _number(value: bool | int | float, role: Role, classes: Sequence[str] | None) -> str | None:
    if isinstance(value, float) and math.isnan(value):
        return None
    if role in _TEXTS:
        raise _RefusedError(f"the number {value}", f"Name the column that holds the {role}.")
    if isinstance(value, float):
        if math.isinf(value):
            raise _RefusedError(f"the number {value}", "Give a text or a finite number.")
        if abs(value) >= EXACT:
            hint = "Write such numbers as texts or whole numbers."
            raise _RefusedError(f"the number {value}, of which a float holds no single digits,", hint)
        # What a table of numbers with gaps makes of 0 and 1.
        value = int(value) if value.is_integer() else value
    if classes is None or isinstance(value, bool):
        return str(value)
    if value == -1:
        return None
    if not isinstance(value, int) or not 0 <= value < len(classes):
        raise _RefusedError(
            f"the number {value}", f"Its classes are numbered 0 to {len(classes) - 1}: {', '.join(classes[:5])}."
        )
    return classes[value]


def without_halves(text: str) -> str:
    """The text with REPLACED for every half of a surrogate pair, which no tokenizer and no terminal takes."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        # A pair that was written as two escapes becomes its character; a half becomes the mark.
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def _indefinite(value: Any) -> str:
    kind = {"list": "list", "dict": "object"}.get(type(value).__name__, type(value).__name__)
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"


# ---------------------------------------------------------------- −1


def require_no_minus_one(labels: Sequence[str], name: str, place: Callable[[int], str]) -> int:
    """How many labels are −1 beside 0 and 1, where they may be a class or none.

    Raises UsageError where −1 must mean that a row has no label: beside names, and before a full count of classes
    (0, 1, 2 …), as data sets number them.
    """
    marked = next((row for row, label in enumerate(labels) if label == "-1"), None)
    if marked is None:
        return 0
    others = set(labels) - {"-1"}
    named = [label for label in others if not _numeric(label)]
    counted = len(others) >= 3 and others == {str(n) for n in range(len(others))}
    if others and (len(named) == len(others) or counted):
        raise UsageError(
            f"The data set {name!r} has no label in {place(marked)}: it has −1 beside "
            f"{'names' if named else f'the classes 0 to {len(others) - 1}'}.",
            "Leave such rows out; if −1 is a class, give it a name.",
        )
    return sum(label == "-1" for label in labels) if others == {"0", "1"} else 0


def _numeric(label: str) -> bool:
    try:
        return math.isfinite(float(label))
    except ValueError:
        return False
