"""With rungs, only what was taken farthest is ranked: by every list, front, best and file alike."""

from __future__ import annotations

import csv
import io
import re
from typing import Any

import numpy as np
import pytest

from kdnas.cli.tables import trial_table, trial_values
from kdnas.study import export
from kdnas.study.filter import keys_of, parse
from kdnas.study.ranked_rows import rank
from kdnas.study.ranking import Scored, on_highest_rung
from kdnas.study.rows import TrialRow
from kdnas.study.trial_columns import Board
from kdnas.system.errors import UsageError
from tests.rows import made_row

EPOCHS = (0, 2, 4)


def on(number: int, rung: int, loss: float, latency: float = 5.0, **more: Any) -> TrialRow:
    figures = {"rung": float(rung), "loss_as_built": loss}
    return made_row(number, extra=figures, epoch=EPOCHS[rung], loss=loss, latency_ms=latency, **more)


# The shallow ones as built have lower losses than the deep ones have after training.
ROWS = [
    on(0, 0, 0.30, 3.0, layers=2),
    on(1, 2, 0.40, 6.0, layers=4),
    on(2, 1, 0.35, 5.0, layers=4),
    on(3, 2, 0.45, 4.0, layers=2),
    on(4, 0, 0.20, 2.0, layers=2),
    on(5, 2, 0.46, 4.5, layers=2),
    made_row(6, state="failed", loss=None, raw_loss=None),
]


def ranked(rows: list[TrialRow] = ROWS) -> list[Scored]:
    return rank(rows, -0.06, 0.6)


def test_only_the_highest_rung_that_any_trial_reached_is_ranked() -> None:
    found = ranked()
    assert [(s.number, s.rank, s.front, s.behind) for s in found] == [
        (1, 1, True, False),
        (3, 2, True, False),
        (5, 3, False, False),
        (2, None, False, True),
        (0, None, False, True),
        (4, None, False, True),
        (6, None, False, False),
    ]
    assert all(s.reward is not None for s in found[:6])
    early = ranked([row for row in ROWS if row.rung == 0])
    assert [(s.number, s.rank, s.front) for s in early] == [(4, 1, True), (0, 2, False)]


def test_a_study_without_rungs_ranks_all() -> None:
    assert on_highest_rung(np.full(3, np.nan)).tolist() == [True] * 3
    assert on_highest_rung(np.array([0.0, 2.0, 1.0])).tolist() == [False, True, False]
    assert on_highest_rung(np.zeros(0)).tolist() == []


def test_a_trial_that_reaches_a_higher_rung_takes_the_ranks_of_those_below() -> None:
    board = Board(-0.06, 0.6)
    board.update(ROWS[:1])
    assert board.standing.rank.tolist() == [1] and not board.behind().any()
    board.update([on(1, 0, 0.9)])
    assert board.standing.rank.tolist() == [1, 2]
    board.update([on(2, 1, 0.8)])
    assert board.standing.rank.tolist() == [0, 0, 1] and board.behind().tolist() == [True, True, False]
    assert board.numbers[board.order("reward", descending=True)[0]] == 2


def test_another_alpha_ranks_the_highest_rung_alone() -> None:
    board = Board(-0.06, 0.6)
    board.update(ROWS)
    for alpha in (0.0, -0.3, -2.0):
        places, _ = board.best_for(alpha, 0.6, 10)
        assert set(board.numbers[places].tolist()) == {1, 3, 5}


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("rung=2", [1, 3, 5]),
        ("rung<1", [0, 4]),
        ("rung>=1", [1, 2, 3, 5]),
        ("is:ranked", [1, 3, 5]),
        ("is:front", [1, 3]),
    ],
)
def test_the_filter_knows_the_rung(text: str, numbers: list[int]) -> None:
    board = Board(-0.06, 0.6)
    board.update(ROWS)
    assert board.numbers[board.mask(parse(text))].tolist() == numbers
    assert "rung" not in keys_of([made_row(0)]) and parse("rung=1")


def test_a_list_says_who_stayed_below(capsys: pytest.CaptureFixture[str]) -> None:
    trial_table(ranked())
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if "rung" in line] == ["1", "2", "3", "<", "<", "<"]
    assert [trial_values(s)["rung"] for s in ranked()] == [2, 2, 2, 1, 0, 0, None]


def entries(scored: list[Scored]) -> dict[str, Any]:
    listed = [export.candidate(s) for s in scored]
    head: dict[str, Any] = {
        "study": {"name": "s", "seed": 0, "done": 7, "trials": 7},
        "teacher": {"model": "t"},
        "data": {"source": "d"},
        "recipe": {"name": "r"},
        "strategy": {"name": "tpe"},
        "reward": {"alpha": -0.06, "beta": 0.6},
        "latency": {"teacher_ms": 30.0, "protocol": {"batch_size": 1, "length": 128}},
        "kdnas": "0",
        "spec": {},
    }
    return {**head, "candidates": listed}


def test_a_file_holds_the_highest_rung_and_says_so() -> None:
    chosen = export.select(ranked(), top=10)
    assert [s.number for s in chosen] == [1, 3, 5]
    assert [s.number for s in export.select(ranked(), pareto=True)] == [1, 3]
    body = entries(chosen)
    schema = export.schema()["properties"]["candidates"]
    import jsonschema

    jsonschema.validate(body["candidates"], schema)
    assert [entry["rung"] for entry in body["candidates"]] == [2, 2, 2]
    assert [row["rung"] for row in csv.DictReader(io.StringIO(export.render(body, "csv")))] == ["2", "2", "2"]
    assert "All are on rung 2, the highest that was reached." in export.render(body, "markdown")
    plain = entries(ranked([made_row(0)]))
    assert "rung" not in plain["candidates"][0]
    assert not re.search("rung", export.render(plain, "csv") + export.render(plain, "markdown"))


def test_a_filter_that_only_lower_rungs_pass_is_told() -> None:
    with pytest.raises(UsageError) as caught:
        export.select(ranked(), only=parse("rung=0"))
    assert "stayed on lower rungs" in str(caught.value)
