"""A drawing of letters and braille dots on a grid of cells, with numpy: thousands of points cost a millisecond.

Pure: knows no widget and no study. A cell is two dots wide and four high; dots and cells count from the upper left.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from rich.cells import cell_len

from kdnas.system.text import clean

DOTS = (2, 4)  # of a cell, across and down
_BITS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]], dtype=np.uint8)  # of U+2800 by row, column


class Sketch:
    """What is drawn later lies above, and gives its look to the whole cell. What lies outside is left out."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self._bits = np.zeros((height, width), dtype=np.uint8)
        self._letters = np.full((height, width), "", dtype="<U1")
        self._look = np.zeros((height, width), dtype=np.int16)
        self._names = [""]

    def copy(self) -> Sketch:
        """Another one of the same drawing."""
        other = Sketch(self.width, self.height)
        other._bits, other._letters, other._look = self._bits.copy(), self._letters.copy(), self._look.copy()
        other._names = [*self._names]
        return other

    def dots(self, x: np.ndarray, y: np.ndarray, look: str = "") -> None:
        """Set dots [n], given in dots."""
        x, y = np.asarray(x, dtype=np.int64), np.asarray(y, dtype=np.int64)
        inside = (x >= 0) & (x < self.width * DOTS[0]) & (y >= 0) & (y < self.height * DOTS[1])
        x, y = x[inside], y[inside]
        columns, rows = x // DOTS[0], y // DOTS[1]
        np.bitwise_or.at(self._bits, (rows, columns), _BITS[y % DOTS[1], x % DOTS[0]])
        self._look[rows, columns] = self._number(look)

    def signs(self, x: np.ndarray, y: np.ndarray, sign: str, look: str = "") -> None:
        """Set one sign into cells [n], given in cells."""
        x, y = np.asarray(x, dtype=np.int64), np.asarray(y, dtype=np.int64)
        inside = (x >= 0) & (x < self.width) & (y >= 0) & (y < self.height)
        self._letters[y[inside], x[inside]] = sign
        self._look[y[inside], x[inside]] = self._number(look)

    def write(self, x: int, y: int, text: str, look: str = "") -> None:
        """Write a line of text."""
        if not 0 <= y < self.height:
            return
        text = _one_cell_each(text)
        start = max(0, x)
        shown = text[start - x : max(0, self.width - x)]
        if shown:
            self._letters[y, start : start + len(shown)] = list(shown)
            self._look[y, start : start + len(shown)] = self._number(look)

    def rows(self) -> Iterator[list[tuple[str, str]]]:
        """Each line as pieces of text with their look; the pieces of a line are `width` cells long."""
        letters = np.where(self._letters != "", self._letters, _braille(self._bits))
        for line, looks in zip(letters, self._look, strict=True):
            cuts = np.flatnonzero(np.diff(looks)) + 1
            ends = [*cuts.tolist(), self.width]
            starts = [0, *cuts.tolist()]
            yield [("".join(line[a:b]), self._names[looks[a]]) for a, b in zip(starts, ends, strict=True) if b > a]

    def _number(self, look: str) -> int:
        if look not in self._names:
            self._names.append(look)
        return self._names.index(look)


_BRAILLE = np.array([" ", *map(chr, range(0x2801, 0x2900))])


def _braille(bits: np.ndarray) -> np.ndarray:
    found: np.ndarray = _BRAILLE[bits]
    return found


def _one_cell_each(text: str) -> str:
    """As wide as the text, of letters of one cell; those of no or two cells become as many �."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(letter if cell_len(letter) == 1 else "�" * cell_len(letter) for letter in clean(text))
