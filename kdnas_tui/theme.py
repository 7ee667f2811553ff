"""What the screens look like: two quiet themes, signs of states, and ASCII where a terminal has nothing else.

Colours carry no meaning alone. NO_COLOR is Textual's own business; `Ascii` turns whatever any widget draws into
ASCII of the same width, on its way out.
"""

from __future__ import annotations

import re
from functools import lru_cache

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from textual.color import Color
from textual.filter import LineFilter
from textual.theme import Theme

from kdnas.study.rows import Status

DARK = Theme(
    name="kdnas-dark",
    primary="#7fa7d9",
    secondary="#8d9bb5",
    accent="#e0b072",
    success="#8fbf8a",
    warning="#dfb86b",
    error="#e08379",
    foreground="#d3d7de",
    background="#14171c",
    surface="#181c22",
    panel="#222830",
    dark=True,
    variables={
        "border": "#3a424e",
        "border-blurred": "#2a3039",
        "block-cursor-background": "#2f4058",
        "block-cursor-foreground": "#f2f4f8",
        "block-cursor-text-style": "none",
        "block-cursor-blurred-background": "#242b35",
        "input-cursor-background": "#d3d7de",
        "input-cursor-foreground": "#14171c",
        "input-selection-background": "#3c5474",
        "scrollbar": "#2a3039",
        "scrollbar-hover": "#3a424e",
        "scrollbar-active": "#56627a",
        "scrollbar-background": "#14171c",
        "scrollbar-background-hover": "#14171c",
        "scrollbar-background-active": "#14171c",
    },
)

LIGHT = Theme(
    name="kdnas-light",
    primary="#2f5f99",
    secondary="#5a677c",
    accent="#95590f",
    success="#33722f",
    warning="#86600c",
    error="#ab3a30",
    foreground="#262b33",
    background="#faf9f6",
    surface="#f3f2ee",
    panel="#e8e6e0",
    dark=False,
    variables={
        "border": "#b9b6ad",
        "border-blurred": "#d6d3cb",
        "block-cursor-background": "#cfdcee",
        "block-cursor-foreground": "#14181f",
        "block-cursor-text-style": "none",
        "block-cursor-blurred-background": "#e2e6ec",
        "input-cursor-background": "#262b33",
        "input-cursor-foreground": "#faf9f6",
        "input-selection-background": "#b8cde8",
        "scrollbar": "#d6d3cb",
        "scrollbar-hover": "#b9b6ad",
        "scrollbar-active": "#98958c",
        "scrollbar-background": "#faf9f6",
        "scrollbar-background-hover": "#faf9f6",
        "scrollbar-background-active": "#faf9f6",
    },
)

THEMES = (DARK, LIGHT)

MARKS: dict[Status, tuple[str, str]] = {  # status → (sign, look): the word stands beside it always
    Status.NEW: ("○", "quiet"),
    Status.RUNNING: ("●", "good"),
    Status.PAUSING: ("◐", "warn"),
    Status.PAUSED: ("◐", "warn"),
    Status.STOPPING: ("◐", "warn"),
    Status.STOPPED: ("○", "quiet"),
    Status.FINISHED: ("✓", "good"),
    Status.FAILED: ("✕", "bad"),
    Status.DEAD: ("✕", "bad"),
}
LOOKS = {"good": "success", "warn": "warning", "bad": "error", "quiet": "foreground"}  # look → colour of the theme

_PLAIN = str.maketrans(
    {
        **dict.fromkeys("─━╌╍┄┅┈┉═╴╶╸╺▔▁‾", "-"),
        **dict.fromkeys("│┃╎╏┆┇┊┋║▏▎▍▌▐▕╵╷╹╻", "|"),
        **dict.fromkeys("┌┐└┘├┤┬┴┼╭╮╰╯┏┓┗┛┣┫┳┻╋╔╗╚╝╠╣╦╩╬╒╓╕╖╘╙╛╜╞╟╡╢╤╥╧╨╪╫┠┨┯┷┿╂╼╾╽╿", "+"),
        **dict.fromkeys("█▓▒▰■◼▇▆▅▄▀▮●⬤•", "#"),
        **dict.fromkeys("░▱□◻▂▃▯", "."),
        **dict.fromkeys("○◌◦", "o"),
        **dict.fromkeys("·∙⋅…", "."),
        **dict.fromkeys("–—−‐‑", "-"),
        **dict.fromkeys("▸▶►→›", ">"),
        **dict.fromkeys("◂◀◄←‹", "<"),
        **dict.fromkeys("▴▲↑⇧", "^"),
        **dict.fromkeys("▾▼↓", "v"),
        **dict.fromkeys("✛✚✕✖⨯", "+"),
        **dict.fromkeys("✓✔", "v"),
        **dict.fromkeys("‘’", "'"),
        **dict.fromkeys("“”", '"'),
        **dict.fromkeys("★✦◆◇⬥", "*"),
        **dict.fromkeys("⚠", "!"),
        **dict.fromkeys("╱", "/"),
        **dict.fromkeys("╲", "\\"),
        **dict.fromkeys("╳×", "x"),
        "±": "+",  # ~ is the mark of a tie
        "≈": "~",
        "≤": "<",
        "≥": ">",
        "²": "2",
        "α": "a",
        "β": "b",
        "ε": "e",
        "Δ": "d",
        "µ": "u",
        "\u00a0": " ",
        "\u2800": " ",
    }
)


SIGNS = "✓─▰⣿α…"  # one of each kind that the screens draw with

# Control characters, and those that turn the direction of what follows.
_HARMFUL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def harmless(text: str) -> str:
    """The text without characters that a terminal obeys instead of drawing, as wide as it was."""
    return _HARMFUL.sub(lambda found: " " * cell_len(found[0]), text)


@lru_cache(4096)
def plain(text: str) -> str:
    """The text in ASCII, as wide as it was; what has no likeness becomes `?`."""
    text = text.translate(_PLAIN)
    if text.isascii():
        return text
    letters, width = [], 0
    for end, letter in enumerate(text, start=1):
        before, width = width, cell_len(text[:end])  # letters may form one sign together
        if letter.isascii():
            letters.append(letter)
        elif 0x2800 <= ord(letter) <= 0x28FF:  # braille of the plots: few or many dots
            letters.append("." if (ord(letter) - 0x2800).bit_count() <= 3 else ":")
        else:
            letters.append("?" * (width - before))
    return "".join(letters)


def can_say(encoding: str | None) -> bool:
    """Whether a terminal with this encoding can be sent the signs that the screens draw with."""
    try:
        SIGNS.encode(encoding or "ascii")
    except (UnicodeError, LookupError):
        return False
    return True


class Harmless(LineFilter):
    """No control character leaves the app, whatever a note, an error or a model's name holds; the widths stay."""

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        return [
            segment if segment.control or segment.text.isprintable() else Segment(harmless(segment.text), segment.style)
            for segment in segments
        ]


class Styled(LineFilter):
    """Gives every piece of text a style: the filter behind NO_COLOR fails where a canvas has left one out."""

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        return [Segment(text, style or Style.null(), control) for text, style, control in segments]


class Ascii(LineFilter):
    """Nothing but ASCII leaves the app."""

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        return [Segment(plain(text), style, control) for text, style, control in segments]
