"""Text from outside, made fit for where it goes: a terminal, JSON on a terminal, Markdown.

Names of models and data, tags, notes, errors and log lines come from other people. Shown as they are, their control
characters would move the cursor, set a title, write to the clipboard or turn the reading direction.
"""

from __future__ import annotations

import re

_MARKDOWN = re.compile(r"[\\`*\[\]|~#$]|(?<![^\W_])_|_(?![^\W_])")  # an underscore within a word marks nothing up
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
# Delete and C1; marks, embeddings, overrides and isolates of the reading direction; line ends that JSON leaves; halves
# of letters, which no terminal can take.
_UNSEEN = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def clean(text: str) -> str:
    """Text from outside as it may be shown on one line: no line breaks, tabs or control characters."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else " " if letter.isspace() else "�" for letter in text)


def with_hyphen(number: str) -> str:
    """A number as it is typed or copied from a page, its real minus sign as the hyphen that all readers take."""
    return re.sub(r"^(\s*)\u2212(?=[\d.])", r"\1-", number)


def escaped(json_text: str) -> str:
    """JSON that says the same with every unseen character written as an escape."""
    return _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", json_text)


class Markdown(str):
    """Text that is Markdown already."""

    __slots__ = ()


def markdown(text: object) -> Markdown:
    """Text from outside for a line or a cell of Markdown: it shows as it is, and marks nothing up."""
    if isinstance(text, Markdown):
        return text
    said = re.sub("[&<>]", lambda found: _ENTITIES[found[0]], clean(str(text)))
    return Markdown(_MARKDOWN.sub(lambda found: "\\" + found[0], said))


def code(text: object) -> Markdown:
    """The same as a code span."""
    said = clean(str(text)).strip() or " "
    longest = max(map(len, re.findall("`+", said)), default=0)
    fence, gap = "`" * (longest + 1), " " if longest else ""
    return Markdown(f"{fence}{gap}{said}{gap}{fence}")
