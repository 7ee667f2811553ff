"""A command of kdnas in this process, as on a terminal, and what may be printed there."""

from __future__ import annotations

import contextlib
import gc
import io
from dataclasses import dataclass

from benchmarks.fuzz.reader import Wrong
from kdnas.cli import COMMANDS
from kdnas.cli.frame import Lazy, run
from kdnas.system.errors import KdnasError

MARK = "kdnas: "  # begins the one line of why


@dataclass(frozen=True)
class Said:
    """How a command ended and what it printed."""

    code: int
    out: str
    err: str


class Terminal(io.TextIOWrapper):
    """What a program takes for one: a pipe would be given text as it is."""

    def __init__(self, errors: str) -> None:
        self.sent = io.BytesIO()
        super().__init__(self.sent, encoding="utf-8", errors=errors, newline="")

    def isatty(self) -> bool:
        return True

    def text(self) -> str:
        self.flush()
        return self.sent.getvalue().decode()


def command(*words: str, lines: int = 1) -> Said:
    """What `kdnas WORDS` prints. Raises Wrong where that is not fit to be printed, and whatever the command lets out.

    `lines` is how many a refusal has on standard error, the last of them saying why.
    """
    gc.callbacks.clear()  # Hypothesis's has no room left where a document is nested too deeply, and Python says so
    out, err = Terminal("strict"), Terminal("backslashreplace")
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(Lazy("kdnas", COMMANDS), words)
    said = Said(code, out.text(), err.text())
    visible(said.out + said.err)
    told = said.err.splitlines()
    if code == 0:
        if any(line.startswith(MARK) for line in told):
            raise Wrong("a line that looks like a refusal is printed, and there was none", said.err)
    elif code not in (1, 2):
        raise Wrong(f"the exit code is {code}", said.err)
    elif len(told) != lines or not told[-1].startswith(MARK) or any(each.startswith(MARK) for each in told[:-1]):
        raise Wrong(f"a refusal has {len(told)} lines", said.err)
    return said


def visible(text: str) -> None:
    """Raises Wrong for a character that a terminal would act on or nobody would see."""
    for line in text.split("\n"):
        if not line.isprintable():
            found = next(letter for letter in line if not letter.isprintable())
            raise Wrong("a character that is not seen is printed", f"U+{ord(found):04X} in {line!r}")


def refusal(error: KdnasError) -> None:
    """Raises Wrong where an error is no line with something to do."""
    said = str(error)
    if len(said.splitlines()) != 1:
        raise Wrong("an error has more than one line", said)
    if not error.problem or not error.hint:
        raise Wrong("an error lacks its problem or its hint", said)
    try:
        said.encode()
    except UnicodeEncodeError:
        raise Wrong("an error holds half a letter", ascii(said)) from None
