"""`kdnas show --as`: what it prints is read back by each format's own reader, and what does not go together is said."""

from __future__ import annotations

import csv
import json
import tomllib

import pytest

from kdnas.store.database import open_store
from kdnas.study.spec_flags import flatten
from tests.cli.conftest import Place, Quick
from tests.study.test_spec_flags import read_back
from tests.tui.filled import study


@pytest.fixture
def _filled(place: Place) -> None:
    with open_store(place.store, create=True) as store:
        study(store, "minilm")


@pytest.mark.usefixtures("_filled")
def test_each_form_is_the_best_candidate(quick: Quick) -> None:
    best = quick("show", "minilm", "--json", "--top", "1").data["trials"][0]
    assert quick("show", "minilm", "--as", "json").data["reward"] == best["reward"]
    assert tomllib.loads(quick("show", "minilm", "--as", "toml").out)["trial"] == best["number"]
    (row,) = csv.DictReader(quick("show", "minilm", "--as", "csv", "--heading").out.splitlines())
    assert float(row["reward"]) == best["reward"]
    assert quick("show", "minilm", "--as", "markdown").out.count("\n") == 1
    assert quick("show", "minilm", "--as", "latex", "--heading").out.count("\n") == 3


@pytest.mark.usefixtures("_filled")
def test_other_candidates_are_asked_for(quick: Quick) -> None:
    three = json.loads(quick("show", "minilm", "--as", "json", "--top", "3", "--filter", "layers<=5").out)
    assert len(three) == 3
    assert all(one["candidate"]["num_hidden_layers"] <= 5 for one in three)
    number = three[2]["trial"]
    assert json.loads(quick("show", "minilm", "--as", "json", "--trial", str(number)).out) == three[2]


@pytest.mark.usefixtures("_filled")
def test_the_command_is_the_study(quick: Quick) -> None:
    said = quick("show", "minilm", "--as", "command")
    assert flatten(read_back(said.out))["budget.trials"] == 40
    assert said.out.count("\n") == 1


@pytest.mark.usefixtures("_filled")
@pytest.mark.parametrize(
    ("given", "line"),
    [
        (("--trial", "3"), "--trial says what --as prints."),
        (("--as", "json", "--heading"), "There is no heading in json."),
        (("--as", "command", "--top", "3"), "A command is of the whole study."),
        (("--as", "json", "--trial", "99"), "minilm has no trial 99. Its trials are 0 to 29."),
        (("--as", "json", "--trial", "1", "--top", "2"), "Give one of them."),
        (("--as", "csv", "--json"), "Give one of them."),
        (("--as", "xml"), "'xml' is not one of"),
        (("--as", "csv", "--filter", "layers>90"), "no finished candidate"),
    ],
    ids=str,
)
def test_what_does_not_go_together_is_one_line(quick: Quick, given: tuple[str, ...], line: str) -> None:
    said = quick("show", "minilm", *given)
    assert said.code == 2
    assert line in said.line
