"""The short command of a study that began from a preset: read back, it is the very same study."""

from __future__ import annotations

import shlex
from typing import Any

import pytest

from kdnas.study import spec_flags
from kdnas.study.spec import StudySpec, from_values
from kdnas.study.spec_toml import read_values
from kdnas.system.paths import presets

CHANGES: list[dict[str, Any]] = [
    {},
    {"reward.alpha": -0.2, "budget.trials": 33},
    {"strategy.name": "random"},
    {"data.source": "imdb-sentences", "data.length": 96},
    {"seed": 5, "device": "cpu", "strategy.name": "evolution"},
]


def spec_of(name: str) -> StudySpec:
    return from_values({"name": name, **read_values(presets()[name])})


def read_back(line: str) -> StudySpec:
    """What `kdnas search` makes of its words."""
    words = shlex.split(line)
    assert words[:2] == ["kdnas", "search"] and words[3] == "--preset"
    values = {**read_values(presets()[words[4]]), "name": words[2]}
    fields = {flag: field for field, flag in spec_flags.FLAGS.items()}
    given: list[tuple[str, Any]] = []
    for flag, text in zip(words[5::2], words[6::2], strict=True):
        if flag == "--set":
            given.append(spec_flags.assigned(text))
        elif flag == "--strategy-option":
            field, value = spec_flags.assigned(text)
            given.append((f"strategy.{field}", value))
        else:
            given.append((fields[flag], spec_flags.assigned(f"x={text}")[1]))
    return from_values(spec_flags.overlay(values, given))


@pytest.mark.parametrize("name", presets())
@pytest.mark.parametrize("changed", CHANGES, ids=str)
def test_the_short_command_is_the_same_study(name: str, changed: dict[str, Any]) -> None:
    base = spec_of(name)
    values = {"name": "mine", **{k: v for k, v in read_values(presets()[name]).items() if k != "name"}}
    spec = from_values(spec_flags.overlay(values, list(changed.items())))
    line = spec_flags.command(spec, preset=(name, base))
    assert read_back(line) == spec, line
    if not changed:
        assert line == f"kdnas search mine --preset {name}"


def test_what_a_preset_sets_is_taken_away_where_the_study_does_without() -> None:
    base = spec_of("quickstart")
    assert base.data.limit is not None
    spec = base.model_copy(update={"data": base.data.model_copy(update={"limit": None})})
    line = spec_flags.command(spec, preset=("quickstart", base))
    assert line == "kdnas search quickstart --preset quickstart --set data.limit="
    assert read_back(line) == spec


def test_a_preset_whose_choices_the_study_lacks_is_not_named() -> None:
    base = spec_of("quickstart")
    assert base.space.choices
    spec = base.model_copy(update={"space": base.space.model_copy(update={"choices": {}})})
    assert "--preset" not in spec_flags.command(spec, preset=("quickstart", base))
