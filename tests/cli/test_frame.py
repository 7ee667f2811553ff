"""The command line before any study: it starts fast, names what is nearest, and never shows a traceback."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from kdnas.cli import COMMANDS
from tests.cli.conftest import Place, Quick

HEAVY = ("torch", "transformers", "datasets", "optuna", "rich", "jsonschema")


def loaded(place: Place, *arguments: str) -> set[str]:
    script = (
        "import sys\n"
        "from kdnas.cli import COMMANDS\n"
        "from kdnas.cli.frame import Lazy, run\n"
        f"run(Lazy('kdnas', COMMANDS), {list(arguments)!r})\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=place.environment, cwd=place.folder
    )
    found = eval(done.stderr.splitlines()[-1], {})
    return set(found)


@pytest.mark.parametrize("arguments", [["--help"], ["studies"], ["search", "--help"], ["strategies"]])
def test_what_only_looks_loads_nothing_heavy(place: Place, arguments: list[str]) -> None:
    assert not loaded(place, *arguments) & {"torch", "transformers", "datasets", "optuna"}


def test_every_command_of_the_table_is_there_and_explains_itself(quick: Quick) -> None:
    for name in COMMANDS:
        said = quick(name, "--help")
        assert said.code == 0, name
        assert f"kdnas {name}" in said.out


def test_an_unknown_command_names_the_nearest(quick: Quick) -> None:
    said = quick("serach")
    assert (said.code, said.line) == (2, "kdnas: There is no command 'serach'. Did you mean 'search'?")


def test_an_unknown_option_names_the_nearest(quick: Quick) -> None:
    said = quick("search", "x", "--tirals", "3")
    assert said.code == 2
    assert said.line == "kdnas: kdnas search has no option --tirals. Did you mean '--trials'?"


def test_a_missing_argument_and_a_value_of_the_wrong_kind_are_one_line(quick: Quick) -> None:
    said = quick("show")
    assert said.code == 2 and "STUDY" in said.line and "kdnas show --help" in said.line
    said = quick("export", "x", "--top", "many")
    assert said.code == 2 and "'many'" in said.line


def test_nothing_asked_shows_the_help_and_fails(quick: Quick) -> None:
    said = quick()
    assert said.code == 2 and "Commands:" in said.err and not said.out


def test_the_strategies_and_their_options_are_listed(quick: Quick) -> None:
    said = quick("strategies", "--json")
    names = {entry["name"]: [o["name"] for o in entry["options"]] for entry in said.data}
    assert {"tpe", "lstm", "random", "grid", "gp", "evolution", "nsga2"} <= names.keys()
    assert "controller" in names["lstm"]
    assert all(entry["what"] and all(o["what"] for o in entry["options"]) for entry in said.data)


def test_without_a_store_there_are_no_studies_and_that_is_no_fault(quick: Quick) -> None:
    said = quick("studies", "--json")
    assert (said.code, said.data) == (0, [])
    assert "--preset quickstart" in quick("studies").err


def test_assets_are_listed_with_their_licences(quick: Quick, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDNAS_CACHE", str(tmp_path / "empty"))
    said = quick("assets", "list", "--json")
    assert said.code == 0
    assert all(entry["licence"] for entry in said.data)
    assert not any(entry["folder"] for entry in said.data)


def test_the_doctor_says_the_mend_for_what_is_missing(quick: Quick, place: Place) -> None:
    place.store.write_text("no database at all")
    said = quick("doctor", "--json")
    storage = next(f for f in said.data if f["subject"] == "storage")
    assert said.code == 2
    assert storage["state"] == "missing" and "not a database" in storage["what"] and storage["hint"]
    assert {"python", "torch", "cache", "hub", "terminal"} <= {f["subject"] for f in said.data}
