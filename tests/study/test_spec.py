"""A spec: its floors, its faults, as a file, and against another spec."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kdnas.study.spec import StudySpec, from_values
from kdnas.study.spec_differences import differences, flatten
from kdnas.study.spec_flags import assigned
from kdnas.study.spec_part import FLOOR
from kdnas.study.spec_toml import read_toml, read_values, to_toml
from kdnas.system.errors import BadOptionError, UsageError

POSITIVE = [
    ("reward", "beta"), ("training", "learning_rate"), ("training", "clip"), ("data", "held_out"),
    ("budget", "proxy_fraction"), ("latency", "precision"), ("latency", "max_seconds"),
]  # fmt: skip


@pytest.mark.parametrize(("part", "field"), POSITIVE)
def test_a_positive_number_has_a_floor_above_the_denormals(part: str, field: str) -> None:
    assert getattr(getattr(from_values({part: {field: FLOOR}}), part), field) == FLOOR
    for value in (5e-324, 1e-300, 0.0, -1.0):
        with pytest.raises(BadOptionError, match=r"is out of range\. Give a number of more than 0"):
            from_values({part: {field: value}})


def test_every_number_of_every_recipe_and_strategy_that_must_be_positive_has_the_floor() -> None:
    from kdnas.study.spec_recipes import recipe_parts
    from kdnas.study.spec_strategies import strategy_parts

    for kind, parts in (("recipe", recipe_parts()), ("strategy", strategy_parts())):
        for name, part in parts.items():
            for field, info in part.model_fields.items():
                if info.annotation is float:
                    try:
                        from_values({kind: {"name": name, field: 5e-324}})
                    except BadOptionError:
                        continue
                    least = from_values({kind: {"name": name, field: 0.0}})  # 0 means "none of it" there
                    assert getattr(getattr(least, kind), field) == 0


@pytest.mark.parametrize(
    ("values", "field", "words"),
    [
        ({"reward": {"alpha": 1}}, "reward.alpha", "from -2 to 0"),
        ({"reward": {"alpa": 1}}, "reward.alpa", "Did you mean 'alpha'?"),
        ({"strategy": {"name": "tpee"}}, "strategy.name", "Did you mean 'tpe'?"),
        ({"strategy": {}}, "strategy.name", "(none)"),
        ({"recipe": {"name": "lora", "rnk": 3}}, "recipe.rnk", "Did you mean 'rank'?"),
        ({"name": "a b"}, "name", "use 1 to 80 letters"),
        ({"latency": {"threads": 0}}, "latency.threads", "from 1 to 256"),
        ({"data": {"held_out": 1}}, "data.held_out", "less than 1"),
        ({"space": {"preset": "half"}}, "space.preset", "Give 'full' or 'kd-nas'"),
        ({"space": {"choices": {"layers": []}}}, "space.choices", "has no value left"),
        ({"space": {"variants": {"a b": {}}}}, "space.variants", "needs a plain name"),
        ({"space": {"variants": {"a": {"data": {}}}}}, "space.variants", "it may change teacher, recipe, training"),
        ({"space": {"variants": {"a": {"training": {"clip": 0}}}}}, "spec", "the variant a cannot be"),
        ({"strategy": {"name": "gp"}, "budget": {"trials": 201}}, "spec", "gp is for budgets up to 200"),
        ({"strategy": {"name": "nsga2"}, "budget": {"pruner": "asha"}}, "spec", "cannot prune"),
        ({"strategy": {"name": "evolution", "population": 3}}, "strategy", "tournament 4 is larger"),
        ({"budget": {"trials": "many"}}, "budget.trials", "Give a whole number from 1 to 1000000"),
        ({"teacher": {"model": "\udcff"}}, "spec", "half of a letter"),
        ({"space": {"variants": {"a": {"teacher": {"model": "\ud800"}}}}}, "spec", "half of a letter"),
    ],
)
def test_a_fault_names_the_field_and_the_hint(values: dict[str, Any], field: str, words: str) -> None:
    with pytest.raises(BadOptionError) as raised:
        from_values(values)
    assert raised.value.field == field
    assert words in str(raised.value)
    str(raised.value).encode()  # can be printed


def test_values_within_values_without_end_are_refused() -> None:
    deep: Any = 1
    for _ in range(5000):
        deep = [deep]
    for values in ({"name": deep}, {"space": {"variants": {"a": {"training": deep}}}}):
        with pytest.raises(BadOptionError, match="nested more than 100 levels deep"):
            from_values(values)


def test_episodes_are_a_budget_where_no_trials_are_given() -> None:
    def trials(**strategy: Any) -> int:
        return from_values({"strategy": {"name": "lstm", **strategy}}).budget.trials

    assert trials(episodes=4, samples=6) == 24
    assert trials(episodes=4) == 20
    assert trials() == 100
    assert trials(controller="paper") == 15 * 20
    assert trials(controller="paper", samples=2) == 30
    given = from_values({"strategy": {"name": "lstm", "episodes": 4}, "budget": {"trials": 9}})
    assert given.budget.trials == 9


def test_a_recipe_brings_its_own_defaults_for_other_parts() -> None:
    spec = from_values({"recipe": {"name": "rnn-hybrid"}, "data": {"limit": 50}})
    assert (spec.data.source, spec.data.limit, spec.full.patience) == ("rotten-tomatoes", 50, 5)
    assert from_values({"recipe": {"name": "rnn-hybrid"}, "data": {"source": "x.csv"}}).data.source == "x.csv"


# ---------------------------------------------------------------------------------------------------- as a file


def test_a_file_that_begins_with_a_byte_order_mark_reads_like_any_other(tmp_path: Path) -> None:
    path = tmp_path / "spec.toml"
    path.write_text('[teacher]\nmodel = "m"\n', encoding="utf-8-sig")
    assert read_toml(path).teacher.model == "m"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"x = " + b"[" * 20_000, "nested too deeply"),
        (b"x = " + b"[" * 20_000 + b"]" * 20_000, "nested too deeply"),
        (b"x = " + b"9" * 5000, "is not TOML"),
        (b"x = ", "is not TOML"),
        (b"\xff\xfex\x00", "not text in UTF-8"),
    ],
)
def test_a_file_that_is_no_spec_is_one_line(tmp_path: Path, text: bytes, words: str) -> None:
    path = tmp_path / "spec.toml"
    path.write_bytes(text)
    with pytest.raises(UsageError, match=words) as raised:
        read_values(path)
    assert "\n" not in str(raised.value) and raised.value.hint
    with pytest.raises(UsageError, match="cannot be read"):
        read_values(tmp_path / "none.toml")


def test_a_value_on_the_command_line_may_not_be_nested_without_end() -> None:
    with pytest.raises(UsageError, match="nested too deeply"):
        assigned("space.choices=" + "[" * 20_000)
    assert assigned("seed=" + "9" * 5000) == ("seed", "9" * 5000)  # refused where it is checked


def test_a_spec_comes_back_from_its_file(tmp_path: Path) -> None:
    spec = from_values(
        {
            "teacher": {"model": 'a "b" \\ c\u2028'},
            "space": {"choices": {"layers": [1, 2]}, "variants": {"a": {"recipe": {"init": "random"}}}},
            "data": {"limit": 7},
        }
    )
    path = tmp_path / "spec.toml"
    path.write_text(to_toml(spec), encoding="utf-8")
    assert read_toml(path) == spec


# ------------------------------------------------------------------------------------------ against another spec


def test_a_flat_spec_has_every_setting_once() -> None:
    flat = flatten(from_values({"space": {"choices": {"layers": [1]}, "variants": {"a": {"training": {"clip": 2}}}}}))
    assert flat["reward.alpha"] == -0.06 and flat["name"] == "study" and flat["data.limit"] is None
    assert flat["space.choices"] == {"layers": [1]}
    assert flat["space.variants"] == {"a": {"training": {"clip": 2}}}
    assert "space" not in flat and not any(field.startswith("space.choices.") for field in flat)
    parts = {field.split(".")[0] for field in flat}
    assert parts == set(StudySpec.model_fields)


def test_differences_are_what_a_begun_study_may_not_change() -> None:
    stored = from_values({"strategy": {"name": "tpe", "pool": 9}})
    assert differences(stored, stored) == {}
    freed = {"budget": {"trials": 7}, "reward": {"alpha": -0.3, "beta": 0.2}, "device": "cpu"}
    assert differences(stored, from_values({**freed, "strategy": {"name": "tpe", "pool": 9}})) == {}
    assert differences(stored, from_values({"seed": 3, "strategy": {"name": "tpe", "pool": 9}})) == {"seed": (0, 3)}
    found = differences(stored, from_values({"strategy": {"name": "random"}, "data": {"limit": 3}}))
    assert found["strategy.name"] == ("tpe", "random")
    assert found["strategy.pool"] == (9, None) and found["strategy.startup"] == (10, None)
    assert found["data.limit"] == (None, 3)
    assert list(found) == sorted(found) and len(found) == 5
