"""What of nested plain values, as JSON and TOML give them, could not be written again. Checks no meaning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

DEEPEST = 100


def unwritable(value: Any) -> str | None:
    """What is wrong with the values, to follow their name in a sentence; None where they can be written as UTF-8.

    Values may lie at most DEEPEST levels within each other: a few more would exhaust whatever walks through them.
    """
    level = [value]
    for _ in range(DEEPEST):
        inner: list[Any] = []
        for each in level:
            if isinstance(each, str):
                if _broken(each):
                    return f"holds half of a letter (a lone surrogate) in {each[:60]!r}"
            elif isinstance(each, Mapping):
                inner += [*each.keys(), *each.values()]
            elif isinstance(each, list | tuple):
                inner += each
        if not inner:
            return None
        level = inner
    return f"is nested more than {DEEPEST} levels deep"


def _broken(text: str) -> bool:
    return not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text)
