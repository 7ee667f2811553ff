"""What people paste, read back by the readers of each format: it says what was copied, whatever the values hold."""

from __future__ import annotations

import csv
import io
import json
import re
import tomllib
from dataclasses import replace
from typing import Any

import pytest

from kdnas.study.export import candidate, table_cells
from kdnas.study.pasted import FORMS, latex, pasted
from kdnas.study.ranked_rows import rank
from kdnas.study.ranking import Scored
from kdnas.system.errors import UsageError
from tests.rows import made_row

NASTY = r"""50%_off & #1 {a}\b~^<|> "q" 'p' $x$ `c` [l](u) *s* é–×"""


def scored(**changes: Any) -> list[Scored]:
    first = made_row(0, loss=0.1, note=NASTY + "\x1b[31m\u202e\n", tags=("a|b", "c,d"), **changes)
    first = replace(first, candidate={**first.candidate, "odd key.": NASTY}, config={"model_type": NASTY, "none": None})
    return rank([first, made_row(1, loss=0.3)], -0.06, 0.6)


def without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_none(inner) for key, inner in value.items() if inner is not None}
    return [without_none(inner) for inner in value] if isinstance(value, list) else value


def test_json_and_toml_read_back_as_what_an_export_holds() -> None:
    best, other = scored()
    assert json.loads(pasted([best], "json")) == candidate(best)
    assert json.loads(pasted([best, other], "json", several=True)) == [candidate(best), candidate(other)]
    assert tomllib.loads(pasted([best], "toml")) == without_none(candidate(best))
    several = tomllib.loads(pasted([best, other], "toml", several=True))["candidate"]
    assert several == [without_none(candidate(one)) for one in (best, other)]


@pytest.mark.parametrize("form", FORMS)
def test_nothing_that_a_terminal_obeys_is_in_it(form: Any) -> None:
    text = pasted(scored(), form, heading=form not in ("json", "toml"), several=True)
    assert text.endswith("\n")
    assert all(letter.isprintable() or letter == "\n" for letter in text)


def test_a_row_of_csv_reads_back_with_the_names_of_its_heading() -> None:
    best = scored()[0]
    text = pasted([best], "csv", heading=True)
    assert text.splitlines()[1] + "\n" == pasted([best], "csv")
    (row,) = csv.DictReader(io.StringIO(text))
    assert (int(row["trial"]), float(row["reward"]), row["odd key."]) == (0, best.reward, NASTY)
    assert json.loads(row["config"]) == {"model_type": NASTY, "none": None}


def cells_of_markdown(line: str) -> list[str]:
    inner = re.split(r"(?<!\\)\|", line.strip())[1:-1]
    plain = (re.sub(r"\\(.)", r"\1", cell.strip()) for cell in inner)
    return [cell.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&") for cell in plain]


def test_a_row_of_markdown_has_the_cells_of_its_heading() -> None:
    best = scored()[0]
    heading, rule, row = pasted([best], "markdown", heading=True).splitlines()
    assert row + "\n" == pasted([best], "markdown")
    assert cells_of_markdown(heading) == table_cells([candidate(best)], None)[0]
    assert [cell.replace("\\", "") for cell in cells_of_markdown(row)] == [
        cell.replace("\\", "") for cell in table_cells([candidate(best)], None)[1]
    ]
    assert rule.count("|") - 1 == len(cells_of_markdown(row))


def words_of_latex(text: str) -> str:
    """What LaTeX prints of it."""
    commands = {
        "textbackslash": "\\", "textasciitilde": "~", "textasciicircum": "^", "textless": "<", "textgreater": ">",
        "textbar": "|", "textquotedbl": '"',
    }  # fmt: skip
    found, at = "", 0
    while at < len(text):
        if text.startswith(r"$\times$", at):
            found, at = found + "×", at + 8
        elif text.startswith("--", at):
            found, at = found + "–", at + 2
        elif text[at] == "\\" and text[at + 1].isalpha():
            name, _, rest = text[at + 1 :].partition("{}")
            found, at = found + commands[name], len(text) - len(rest)
        elif text[at] == "\\":
            found, at = found + text[at + 1], at + 2
        else:
            assert text[at] not in "{}$&#_%~^\\", f"{text[at]!r} would command something in {text!r}"
            found, at = found + text[at], at + 1
    return found


def test_latex_prints_the_cells_and_obeys_nothing_of_them() -> None:
    assert words_of_latex(latex(NASTY)) == NASTY
    best = scored()[0]
    heading, rule, row = pasted([best], "latex", heading=True).splitlines()
    assert rule == r"\hline"
    for line, cells in zip((heading, row), table_cells([candidate(best)], None), strict=True):
        assert line.endswith(r" \\")
        assert [words_of_latex(cell) for cell in re.split(r" (?<!\\)& ", line.removesuffix(r" \\"))] == cells


def test_a_trial_without_a_result_is_no_row_but_has_a_configuration() -> None:
    (running,) = rank([made_row(7, state="running", loss=None, ended=None)], -0.06, 0.6)
    assert json.loads(pasted([running], "json"))["trial"] == 7
    with pytest.raises(UsageError, match=r"Trial 7 has no result: .* Take it as JSON."):
        pasted([running], "latex")
