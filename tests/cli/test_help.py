"""Help and the shell's completion name what there is to choose, and nothing that a command does not take."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from kdnas.cli import COMMANDS, main
from kdnas.cli.doctor import EXTRAS
from kdnas.study.spec_recipes import recipe_names
from kdnas.study.spec_strategies import strategy_names
from kdnas.system import paths
from tests.cli.conftest import Place, Quick

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("command", ["search", "plan", "distill"])
def test_help_names_the_choices_of_what_takes_a_name(quick: Quick, command: str) -> None:
    words = "".join(quick(command, "--help").out.split())
    assert "--recipe" + "|".join(recipe_names()) in words
    assert "VALUE" not in words.replace("KEY=VALUE", "").replace("FIELD=VALUE", "")
    if command != "distill":
        assert "--strategy" + "|".join(strategy_names()) in words
        assert "--prunernone|median|asha|hyperband" in words
        assert "--spacefull|kd-nas" in words


def test_distill_offers_and_takes_only_what_a_single_training_has(quick: Quick) -> None:
    words = quick("distill", "--help").out
    for flag in ("--strategy", "--strategy-option", "--trials", "--pruner", "--alpha", "--beta", "--proxy-fraction"):
        assert f" {flag} " not in words
        assert f"kdnas distill has no option {flag}." in quick("distill", flag, "1").line
    assert "mini-KD" not in words


@pytest.mark.parametrize("name", ["strategies", "recipes"])
def test_a_listing_leaves_out_no_name_and_no_option(quick: Quick, name: str) -> None:
    from kdnas.study.spec_recipes import recipe_parts
    from kdnas.study.spec_strategies import strategy_parts

    parts = {"strategies": strategy_parts, "recipes": recipe_parts}[name]()
    listed = {entry["name"]: entry for entry in quick(name, "--json").data}
    assert list(listed) == list(parts)
    text = quick(name).out
    for part, model in parts.items():
        assert text.count(f"\n{part} ") + text.startswith(f"{part} ") == 1
        assert [option["name"] for option in listed[part]["options"]] == [f for f in model.model_fields if f != "name"]


def test_doctor_knows_every_extra_and_what_it_brings() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    brought = {
        extra: {requirement.partition(">")[0].partition("[")[0] for requirement in requirements}
        for extra, requirements in extras.items()
        if extra not in ("test", "lint", "mutants")
    }
    assert {extra: set(names) for extra, (_, names) in EXTRAS.items()} == brought


@pytest.fixture
def completed(place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """What bash would be offered for the last word."""
    monkeypatch.setenv("_KDNAS_COMPLETE", "bash_complete")
    monkeypatch.setenv("KDNAS_STORAGE", str(place.store))
    monkeypatch.setattr(sys, "argv", ["kdnas"])

    def offered(words: str) -> list[str]:
        monkeypatch.setenv("COMP_WORDS", words)
        monkeypatch.setenv("COMP_CWORD", str(words.count(" ")))
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code
        said = capsys.readouterr()
        assert said.err == ""
        return [line.partition(",")[2] for line in said.out.splitlines() if line]

    return offered


def test_the_shell_completes_commands_presets_choices_and_studies(
    place: Place, completed: Callable[[str], list[str]]
) -> None:
    from kdnas.search.begin import begin
    from kdnas.study.spec_toml import read_toml

    begin(read_toml(place.spec), str(place.store))
    assert set(completed("kdnas ")) == set(COMMANDS)
    assert completed("kdnas search --preset ") == list(paths.presets())
    assert completed("kdnas search --strategy l") == ["lstm"]
    assert completed("kdnas plan --recipe ") == recipe_names()
    assert completed("kdnas distill --preset q") == ["quickstart"]
    for command in ("search", "finalize", "export", "resume", "report", "worker", "recheck", "delete", "logs"):
        assert completed(f"kdnas {command} ti") == ["tiny"], command
    assert completed("kdnas show ti") == ["tiny"]
    assert completed("kdnas show --storage /nowhere/at/all.db ti") == []


def test_a_shell_asks_a_process_of_its_own(place: Place) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import sys; sys.argv[0] = 'kdnas'; from kdnas.cli import main; main()"],
        env={
            **place.environment,
            "_KDNAS_COMPLETE": "bash_complete",
            "COMP_WORDS": "kdnas search --preset quicks",
            "COMP_CWORD": "3",
            "PYTHONPATH": os.pathsep.join(sys.path),
        },
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["plain,quickstart"]


def test_every_command_says_what_it_is_for() -> None:
    for module, attribute in (where.split(":") for where, _ in COMMANDS.values()):
        assert getattr(import_module(module), attribute).help
