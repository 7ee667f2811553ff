"""What a long job reports while it runs."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, float | None], None]
"""Called with what is going on, in a few words, and how far it is (0 … 1, None where unknown)."""


class Note(str):
    """Words of a job that must not pass by: rows left out, say. What shows progress lets them stand."""

    __slots__ = ()


class Once:
    """`new(words)` is True when the message differs from the previous one, ignoring its numbers."""

    def __init__(self) -> None:
        self._last = ""

    def new(self, words: str) -> bool:
        plain = "".join(letter for letter in words if not letter.isdigit() and letter not in ",.")
        before, self._last = self._last, plain
        return plain != before
