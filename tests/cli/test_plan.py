"""What `kdnas plan` says of a study before it runs, and that it leaves nothing behind."""

from __future__ import annotations

import shlex
from pathlib import Path

from tests.cli.conftest import Place, Quick


def test_a_plan_tells_the_study_in_figures_and_begins_nothing(quick: Quick, place: Place, shelf: Path) -> None:
    said = quick("plan", "--spec", str(place.spec), "--json")
    assert said.code == 0, said.err
    made = said.data
    size = 1
    for choices in made["dimensions"].values():
        size *= len(choices)
    assert made["space_size"] == size > 1
    assert made["teacher"]["family"] == "bert" and made["teacher"]["layers"] == 2
    assert "10 times faster" in made["exchange"]
    assert 0 < made["proxy_tokens"] < made["tokens"]
    assert made["cache_bytes"] > 0 and made["seconds"] > made["seconds_per_trial"] > 0
    assert not place.store.exists()


def test_the_planned_command_plans_the_same(quick: Quick, place: Place) -> None:
    made = quick("plan", "--spec", str(place.spec), "--json").data
    words = shlex.split(made["command"])
    assert words[:2] == ["kdnas", "search"]
    again = quick("plan", *words[2:], "--json").data
    assert again["command"] == made["command"] and again["dimensions"] == made["dimensions"]


def test_a_narrowed_space_and_a_large_budget_are_noted(quick: Quick, place: Place) -> None:
    narrow = ["--set", "space.choices.num_hidden_layers=[1]", "--trials", "5000"]
    narrow += ["--set", 'space.choices.hidden_act=["gelu"]']
    said = quick("plan", "--spec", str(place.spec), *narrow)
    assert said.code == 0, said.err
    assert "num_hidden_layers: 1\n" in said.out and "hidden_act: gelu\n" in said.out
    assert "The space has only" in said.out


def test_a_data_set_that_is_not_here_is_no_fault_of_a_plan(quick: Quick, place: Place) -> None:
    made = quick("plan", "--spec", str(place.spec), "--dataset", "somebody/something", "--json").data
    assert made["tokens"] is None and made["seconds"] is None
    assert any("not on this machine" in note for note in made["notes"])


def test_what_would_keep_a_study_from_beginning_is_said(quick: Quick, place: Place) -> None:
    said = quick("plan", "--spec", str(place.spec), "--teacher", "./nowhere")
    assert said.code == 2 and "'./nowhere'" in said.line
    said = quick("plan", "--spec", str(place.spec), "--set", "data.length=4096")
    assert said.code == 2 and "data.length = 4096" in said.line and "64" in said.line
    said = quick("plan", "--spec", str(place.spec), "--set", "space.choices.num_hidden_layers=[9]")
    assert said.code == 2 and "9" in said.line and "from 1 to 2" in said.line
