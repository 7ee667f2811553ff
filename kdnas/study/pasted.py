"""Candidates as text to paste: JSON, TOML, and rows of CSV, Markdown or LaTeX, each escaped as its format wants it.

Fields and columns are those of an export; docs/export.md describes them. Copies nothing and reads no store.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Literal

import tomli_w

from kdnas.study.export import Entries, candidate, csv_lines, markdown_lines, table_cells
from kdnas.study.ranking import Scored
from kdnas.system.errors import UsageError
from kdnas.system.text import clean, escaped

Form = Literal["json", "toml", "csv", "markdown", "latex"]
FORMS: tuple[Form, ...] = ("json", "toml", "csv", "markdown", "latex")
ROWS: frozenset[str] = frozenset({"csv", "markdown", "latex"})  # which may have a heading
SUFFIXES: dict[str, str] = {"json": "json", "toml": "toml", "csv": "csv", "markdown": "md", "latex": "tex"}

_LATEX = {
    **{sign: f"\\{sign}" for sign in "{}$&#_%"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "×": r"$\times$",
    "–": "--",
}


def pasted(
    scored: Sequence[Scored],
    form: Form,
    *,
    teacher_ms: float | None = None,
    heading: bool = False,
    several: bool = False,
) -> str:
    """The candidates in one form, with a newline at the end; `heading` puts the columns' names above rows.

    Rows tell milliseconds for one time of the teacher, the study's `teacher_ms`; JSON and TOML as they were measured.

    One candidate is a JSON object and a TOML document; `several` makes a list of it, `[[candidate]]` in TOML. TOML has
    no null, so that what is not known is left out of it. Raises UsageError for a row of a trial without a result.
    """
    entries = [candidate(one) for one in scored]
    if form == "json":
        return escaped(json.dumps(entries if several else entries[0], indent=2, ensure_ascii=False)) + "\n"
    if form == "toml":
        known = [_known(entry) for entry in entries]
        return escaped(tomli_w.dumps({"candidate": known} if several else known[0]))
    for one in scored:
        if one.rank is None:
            raise UsageError(f"Trial {one.number} has no result: it makes no row of a table.", "Take it as JSON.")
    if form == "csv":
        lines, head = [line.rstrip("\n") for line in csv_lines(entries, teacher_ms)], 1
    elif form == "markdown":
        lines, head = markdown_lines(entries, teacher_ms), 2
    else:
        lines, head = _latex_lines(entries, teacher_ms), 2
    return "\n".join(lines if heading else lines[head:]) + "\n"


def _known(value: Any) -> Any:
    """The values without those that are None."""
    if isinstance(value, dict):
        return {key: _known(inner) for key, inner in value.items() if inner is not None}
    return [_known(inner) for inner in value if inner is not None] if isinstance(value, list | tuple) else value


def _latex_lines(entries: Entries, teacher_ms: float | None) -> list[str]:
    first, *rows = [" & ".join(map(latex, row)) + r" \\" for row in table_cells(entries, teacher_ms)]
    return [first, r"\hline", *rows]


def latex(text: object) -> str:
    """Text from outside for a line of LaTeX: it prints as it is and commands nothing."""
    return re.sub(r'[\\{}$&#_%~^<>|"×–]', lambda found: _LATEX[found[0]], clean(str(text)))
