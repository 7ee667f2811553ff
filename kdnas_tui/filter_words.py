"""A filter while it is typed: what of it is finished, and how its last word may go on. Pure text; knows no widget."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from kdnas.study.filter import ALIASES, COLUMNS, FACTS, SHORT, STATES

Values = Callable[[str], Sequence[str]]
"""Key → the words that trials have under it, none for a key of numbers."""

_LAST = re.compile(r"(?P<key>[^\s()<>=!:≤≥≠\"']+)(?P<op><=|>=|!=|==|[<>=:≤≥≠])(?P<value>[^\s()\"']*)$")
_OPEN = re.compile(r"(?:(?:^|(?<=[\s(]))(?:and|or|not)\s*|[(!]\s*)+$", re.IGNORECASE)


def finished(text: str, values: Values) -> str:
    """The part of a filter that can filter already: without a last word that may yet become another one.

    A bare word counts once a blank follows it, a comparison with a number at once, one with a word when a trial has
    that word or none begins like it. Words that join conditions wait for the next condition.
    """
    comparison = _LAST.search(text)
    if comparison is not None:
        if _unfinished(comparison["key"], comparison["value"], values):
            text = text[: comparison.start()]
    elif text and not text[-1].isspace() and text[-1] not in ")\"'":
        text = text[: len(text) - len(re.split(r"[\s(!]", text)[-1])]
    return _OPEN.sub("", text.rstrip()) if _OPEN.search(text.rstrip()) else text


def _unfinished(key: str, value: str, values: Values) -> bool:
    last = value.rpartition(",")[2].lower()
    if not last:
        return True
    known = [word.lower() for word in _words(key, values)]
    return last not in known and any(word.startswith(last) for word in known)


def completed(text: str, keys: Iterable[str], values: Values) -> str | None:
    """The filter with its last word written out, where it can become one word only or the likeliest of several."""
    comparison = _LAST.search(text)
    if comparison is not None:
        last = comparison["value"].rpartition(",")[2]
        found = [word for word in _words(comparison["key"], values) if word.lower().startswith(last.lower())]
        return text + found[0][len(last) :] if last and found and found[0].lower() != last.lower() else None
    last = re.split(r"[\s(!]", text)[-1]
    if not last:
        return None
    names = ("is:", *COLUMNS, *ALIASES, *sorted(keys))
    found = [name for name in names if name.startswith(last.lower()) and name != last]
    return text + found[0][len(last) :] if found else None


def _words(key: str, values: Values) -> Sequence[str]:
    lower = SHORT.get(key.lower(), key.lower())
    if lower == "is":
        return tuple(FACTS)
    return tuple(STATES) if lower == "state" else values(lower)
