"""Help and the shell's completion name what there is to choose, and nothing that a command does not take."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

from kdnas.cli import COMMANDS
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


def completed(place: Place, words: str) -> list[str]:
    """What bash would be offered for the last word."""
    asked = {"_KDNAS_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    done = subprocess.run(
        [sys.executable, "-c", "import sys; sys.argv[0] = 'kdnas'; from kdnas.cli import main; main()"],
        env={**place.environment, **asked, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""
    return [line.partition(",")[2] for line in done.stdout.splitlines() if line]


def test_the_shell_completes_commands_presets_choices_and_studies(place: Place) -> None:
    from kdnas.search.begin import begin
    from kdnas.study.spec_toml import read_toml

    begin(read_toml(place.spec), str(place.store))
    assert set(completed(place, "kdnas ")) == set(COMMANDS)
    assert completed(place, "kdnas search --preset ") == list(paths.presets())
    assert completed(place, "kdnas search --strategy l") == ["lstm"]
    assert completed(place, "kdnas show ti") == ["tiny"]
    assert completed(place, "kdnas show --storage /nowhere/at/all.db ti") == []


def test_every_command_says_what_it_is_for() -> None:
    for module, attribute in (where.split(":") for where, _ in COMMANDS.values()):
        assert getattr(import_module(module), attribute).help
