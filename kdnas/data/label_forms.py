"""One class written in several ways: found among the labels of a data set, and refused or reported.

Two labels that look the same, or are the same number, are never meant as two classes. Two that differ in case may be,
so that people hear of them. Reads no file and changes no label.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Hashable, Mapping, Sequence
from decimal import Decimal, InvalidOperation

from kdnas.system.errors import UsageError

MOST_LABELS = 10_000  # different ones, above which they are no classes and nobody compares them
UNSEEN = ("Cc", "Cf")  # control and format characters, such as zero-width spaces
NO_VALUE = ("nan", "na", "n/a", "null", "none", "nat", "<na>", "#n/a")  # what programs write for nothing
NO_TEXT = ("nan", "n/a", "null", "none", "nat", "<na>", "#n/a")


def look(text: str) -> str:
    """Equal for texts that nobody can tell apart on a screen: composed alike, blanks alike, unseen characters left
    out."""
    if text.isascii() and text.isprintable():
        return " ".join(text.split())
    spaced = " ".join(unicodedata.normalize("NFC", text).split())
    return "".join(letter for letter in spaced if unicodedata.category(letter) not in UNSEEN)


def require_one_form(labels: Sequence[str], name: str, place: Callable[[int], str]) -> tuple[str, ...]:
    """Raise UsageError, naming two rows, where one class is written in two ways; a line for each doubt about others."""
    first: dict[str, int] = {}
    for row, label in enumerate(labels):
        first.setdefault(label, row)
    if len(first) > MOST_LABELS:
        return ()

    def both(one: str, other: str) -> str:
        return f"{_shown(one)} in {place(first[one])} and {_shown(other)} in {place(first[other])}"

    numbers = {label: _number(label) for label in first}
    for key, how in ((look, "look the same"), (numbers.get, "are one number")):
        pair = _alike(first, key)
        if pair is not None:
            raise UsageError(
                f"The data set {name!r} has two labels that {how}: {both(*pair)}.", "Write each class in one way."
            )
    said = []
    pair = _alike(first, lambda label: look(label).casefold())
    if pair is not None:
        said.append(f"Labels that differ in case are two classes: {both(*pair)}.")
    lacking = [label for label in first if label.casefold() in NO_VALUE]
    named = next((label for label, number in numbers.items() if number is None and label not in lacking), None)
    counted = next((label for label, number in numbers.items() if number is not None), None)
    if named is not None and counted is not None:
        said.append(f"Some labels are numbers and others words: {both(counted, named)}.")
    if lacking:
        count = sum(label in lacking for label in labels)
        said.append(f"{count:,} row(s) are of the class {lacking[0]!r}; leave them out if it means no label.")
    return tuple(said)


def words_for_no_text(texts: Sequence[str | None]) -> tuple[str, ...]:
    """A line where texts are nothing but a word that programs write for a missing one."""
    found = [text for text in texts if text is not None and len(text) <= 8 and text.strip().casefold() in NO_TEXT]
    if not found:
        return ()
    return (f"{len(found):,} row(s) have {found[0].strip()!r} as their whole text; leave them out if it means none.",)


def require_one_kind(kinds: Mapping[str, tuple[str, str]], name: str) -> None:
    """Raise UsageError for labels of several kinds; `kinds` has of each kind a value and where it stands."""
    if len(kinds) < 2:
        return
    (one, (value, where)), (other, (another, there)) = list(kinds.items())[:2]
    raise UsageError(
        f"The data set {name!r} has labels of two kinds: the {one} {value} in {where} and the {other} {another} in "
        f"{there}.",
        "Write all of them as texts, or all as numbers.",
    )


def kind(value: object) -> str:
    """What a raw label is, for people."""
    if isinstance(value, bool):
        return "truth value"
    return "text" if isinstance(value, str | bytes) else "number"


def _alike(labels: Mapping[str, int], key: Callable[[str], Hashable | None]) -> tuple[str, str] | None:
    """The first two labels of one key that is not None."""
    seen: dict[Hashable, str] = {}
    for label in labels:
        mark = key(label)
        if mark is None:
            continue
        if mark in seen:
            return seen[mark], label
        seen[mark] = label
    return None


def _number(label: str) -> Decimal | None:
    try:
        found = Decimal(label)
    except InvalidOperation:
        return None
    return found if found.is_finite() else None


def _shown(label: str) -> str:
    """A label of which every character is seen, cut where it is long."""
    short = label if len(label) <= 30 else label[:29] + "…"
    return ascii(short) if look(short) != short or not unicodedata.is_normalized("NFC", short) else repr(short)
