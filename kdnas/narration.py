"""What a long job tells while it goes on, for those who keep each thing once: a log, a pipe."""

from __future__ import annotations


class Once:
    """`new(words)` says whether they tell of another thing than the words before; counters, which change at every
    step, make none."""

    def __init__(self) -> None:
        self._last = ""

    def new(self, words: str) -> bool:
        plain = "".join(letter for letter in words if not letter.isdigit() and letter not in ",.")
        before, self._last = self._last, plain
        return plain != before
