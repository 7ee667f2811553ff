"""A new strategy and a new recipe are one new file and one line each: both are added to a copy of the package."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import kdnas

LAST = '''"""The largest free candidate, after a few random ones."""

from kdnas.strategies.asked import Asked
from kdnas.strategies.without_replacement import WholeSampler, draw


class LastSampler(WholeSampler):
    def __init__(self, asked):
        super().__init__(asked.space, asked.taken)
        self.rng, self.first = asked.rng, asked.options.first

    def propose(self, study, trial):
        if len(self.taken) < self.first:
            return draw(self.space, self.rng, self.taken)
        return [c for c in self.space.candidates() if self.space.key(c) not in self.taken][-1]


def sampler(asked):
    return LastSampler(asked)
'''
STRATEGY = (
    '    StrategyOptions.of("toy-last", "The largest first.", '
    'first=(int, Field(2, ge=0, description="random candidates first"))),\n'
)
WIDE = '''"""Encoders of one layer, of which only the width is searched."""

from kdnas.recipes.contract import Description, Recipe
from kdnas.study.space import Dimension, SearchSpace


class ToyWide(Recipe):
    name, summary, families = "toy-wide", "One layer.", ("bert",)

    def describe(self, spec):
        widths = tuple(range(64, 64 + 64 * spec.recipe.widths, 64))
        return Description(SearchSpace((Dimension("hidden_size", widths),)), {})

    def prepare(self, spec, device, on_progress):
        raise NotImplementedError
'''
RECIPE = '    Choice.of("toy-wide", "One layer.", widths=(int, Field(6, ge=1, description="widths to try"))),\n'
SEARCH = """
import json, optuna
from kdnas.cli import COMMANDS
from kdnas.cli.frame import Lazy, run
from kdnas.recipes import recipe_of
from kdnas.strategies import candidate, directions, sampler
from kdnas.study.spec import from_values
from kdnas.study.spec_flags import command

optuna.logging.set_verbosity(optuna.logging.ERROR)
spec = from_values({"recipe": {"name": "toy-wide", "widths": 5}, "strategy": {"name": "toy-last"}})
assert "--recipe toy-wide --strategy toy-last --set recipe.widths=5" in command(spec), command(spec)
assert from_values(spec.model_dump(mode="json")) == spec
try:
    from_values({"strategy": {"name": "toy-last", "first": -1}})
except Exception as error:
    assert str(error).startswith("strategy.first = -1 is out of range."), error
space, done = recipe_of(spec).describe(spec).space, []
study = optuna.create_study(directions=directions(spec))
for slot in range(space.size):
    study.sampler = sampler(spec, space, slot, frozenset(map(space.key, done)))
    study.optimize(lambda trial: done.append(candidate(trial, space)) or float(done[-1]["hidden_size"]), n_trials=1)
print(json.dumps([one["hidden_size"] for one in done]))
for listing in ("strategies", "recipes"):
    run(Lazy("kdnas", COMMANDS), [listing])
"""


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the package, with a file and a line for each of the two. What is compiled is copied too, but for what
    another process is just writing."""
    package = tmp_path / "kdnas"
    shutil.copytree(Path(kdnas.__file__).parent, package, ignore=shutil.ignore_patterns("*.pyc.*"))
    (package / "strategies" / "toy_last.py").write_text(LAST)
    (package / "recipes" / "toy_wide.py").write_text(WIDE)
    for table, opening, line in (("spec_strategies", "STRATEGIES: ", STRATEGY), ("spec_recipes", "RECIPES: ", RECIPE)):
        file = package / "study" / f"{table}.py"
        lines = file.read_text().splitlines(keepends=True)
        place = next(i for i, text in enumerate(lines) if text.startswith(opening)) + 1
        file.write_text("".join([*lines[:place], line, *lines[place:]]))
    return tmp_path


def test_a_file_and_a_line_are_all_that_a_new_one_takes(copy: Path) -> None:
    ran = subprocess.run([sys.executable, "-c", SEARCH], capture_output=True, text=True, cwd=copy)
    assert ran.returncode == 0, ran.stderr
    first, *listed = ran.stdout.splitlines()
    widths = [int(width) for width in first.strip("[]").split(",")]
    assert sorted(widths) == [64, 128, 192, 256, 320]
    assert widths[2:] == sorted(widths[2:], reverse=True)
    text = "\n".join(listed)
    assert "toy-last" in text and "random candidates first" in text and "toy-wide" in text and "widths to try" in text
