"""Errors for people: what was wrong, with the value, and what to do about it.

Anything a user can cause is raised as one of these; the command line prints it as one line and exits with
its code, the screens show it as a notice. Other exceptions are faults of kdnas.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class KdnasError(Exception):
    """Something failed while it ran: exit code 1."""

    exit_code = 1

    def __init__(self, problem: str, hint: str = "") -> None:
        """Both on one line, whatever text from outside they repeat."""
        super().__init__(problem, hint)
        self.problem = " ".join(problem.splitlines())
        self.hint = " ".join(hint.splitlines())

    def __str__(self) -> str:
        return f"{self.problem} {self.hint}".strip()


class UsageError(KdnasError):
    """What was asked for, or the environment it was asked in, cannot work: exit code 2."""

    exit_code = 2


class BadOptionError(UsageError):
    """One named value is wrong; `field` says which ("reward.alpha"), so that a form can point at it."""

    def __init__(self, field: str, problem: str, hint: str = "") -> None:
        super().__init__(problem, hint)
        self.field = field


def first_line(error: BaseException) -> str:
    """The first line that an error of another library says, without its full stop; its kind where it says nothing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".:") if lines else type(error).__name__


def nearest(word: str, known: Iterable[str]) -> str:
    """`Did you mean 'x'?`, or the list of what is known where nothing is near."""
    names = list(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    return f"Did you mean '{close[0]}'?" if close else f"Known: {', '.join(names)}."
