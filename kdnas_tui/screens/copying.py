"""One key, a small choice, and text to paste: the study's command, or a candidate in one of several formats.

`kdnas show STUDY --as …` prints the same. Draws nothing but the question.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from textual.screen import Screen

from kdnas.study.constraints import of_study
from kdnas.study.ranking import Scored
from kdnas.study.rows import StudyRow
from kdnas.system.errors import KdnasError
from kdnas_tui import words
from kdnas_tui.desk import Desk
from kdnas_tui.screens.ask import Answer, Ask

Form = Literal["json", "toml", "csv", "markdown", "latex"]  # of `kdnas.study.pasted`, which is loaded when it is asked

CHOICES: dict[str, tuple[Form, bool, str]] = {  # answer → form, whether with a heading, and what it is called
    "json": ("json", False, "JSON"),
    "toml": ("toml", False, "TOML"),
    "csv": ("csv", False, "a row of CSV"),
    "csv-heading": ("csv", True, "a row of CSV and its heading"),
    "markdown": ("markdown", False, "a row of a Markdown table"),
    "markdown-heading": ("markdown", True, "a Markdown table of this row"),
    "latex": ("latex", False, "a row of a LaTeX table"),
    "latex-heading": ("latex", True, "a row of a LaTeX table and its heading"),
}
COMMAND = "command"


def ask(screen: Screen[Any], desk: Desk, row: StudyRow, candidate: str, take: Callable[[Form, bool], None]) -> None:
    """Ask what to copy of the study or of its `candidate`, in words; `take` copies the candidate in a form."""
    answers = [Answer(COMMAND, f"the command of {row.name}")]
    answers += [Answer(name, label) for name, (_, _, label) in CHOICES.items()] if candidate else []

    def answered(answer: str | None) -> None:
        if answer == COMMAND:
            copy_command(desk, row)
        elif answer is not None:
            take(*CHOICES[answer][:2])

    detail = f"The study's command, or {candidate} as:" if candidate else "No trial has finished yet."
    screen.app.push_screen(Ask("Copy what?", answers, detail), answered)


def copy_command(desk: Desk, row: StudyRow) -> None:
    """The `kdnas search` line that begins this very study."""
    from kdnas.study.study_command import study_command
    from kdnas.system.paths import default_storage

    storage = None if desk.storage == default_storage() else words.shown_storage(desk.storage)
    try:
        line = study_command(row, storage)
    except KdnasError as error:  # a damaged spec
        desk.fault(error)
        return
    desk.copy(line + "\n", f"{row.name}.command.txt")


def copy_candidate(desk: Desk, row: StudyRow, scored: Scored, form: Form, heading: bool) -> None:
    """The candidate in a form, to the clipboard and to a file of its suffix."""
    from kdnas.study.pasted import SUFFIXES, pasted

    try:
        text = pasted([scored], form, teacher_ms=row.teacher_latency_ms, heading=heading)
    except KdnasError as error:  # a row of a trial without a result
        desk.fault(error)
        return
    desk.copy(text, f"{row.name}-{scored.number}.{SUFFIXES[form]}")


def copy_best(desk: Desk, row: StudyRow, form: Form, heading: bool) -> None:
    """The best candidate of a study that is not open: its trials are read in a thread first."""
    found: list[Scored] = []

    def read() -> None:
        from kdnas.store.database import open_reader
        from kdnas.store.read_columns import read_board

        with open_reader(desk.storage) as store:
            board = read_board(store, row.study_id, row.alpha, row.beta, row.spec["reward"]["loss"], of_study(row))
            place = board.standing.best
            found.extend([] if place is None else [board.at(place)])

    def then() -> None:
        for scored in found:
            copy_candidate(desk, row, scored, form, heading)

    desk.command(read, then=then)
