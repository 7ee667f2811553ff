"""Every field of a spec says in words of its own what is wrong with a value and what it takes."""

from __future__ import annotations

import re
from typing import Any, Literal, get_args, get_origin

import pytest
from pydantic.fields import FieldInfo

from kdnas.cli.spec_options import spec_from
from kdnas.study.spec import StudySpec, from_values
from kdnas.study.spec_flags import assigned
from kdnas.study.spec_recipes import recipe_parts
from kdnas.study.spec_strategies import strategy_parts
from kdnas.system.errors import BadOptionError

WRONG: tuple[Any, ...] = ("many", "1,000", "0,6", "", -5, 0, 2.5, 1e30, float("nan"), True, None, [1], [[1]], {"a": 1})
RAW = re.compile(  # what pydantic and regular expressions say
    r"(?i)\b(input|valid|parse|pattern|match|should|instance|tuple|dictionary|integer|float|string|object)\b|not fit|\^"
)
KINDS = {"recipe": recipe_parts(), "strategy": strategy_parts()}


def fields() -> list[tuple[dict[str, Any], str, FieldInfo]]:
    """Every field of the spec, of each recipe and each strategy: what must be chosen for it, its name, itself."""
    found: list[tuple[dict[str, Any], str, FieldInfo]] = []
    for name, info in StudySpec.model_fields.items():
        parts = KINDS.get(name, {"": info.annotation})
        for choice, model in parts.items():
            inner = getattr(model, "model_fields", None)
            chosen = {name: {"name": choice}} if choice else {}
            if inner is None:
                found.append(({}, name, info))
            else:
                found += [
                    (chosen, f"{name}.{key}", one) for key, one in inner.items() if not (choice and key == "name")
                ]
    return found


def refusals(chosen: dict[str, Any], field: str) -> list[tuple[Any, BadOptionError]]:
    part, _, key = field.partition(".")
    found = []
    for value in WRONG:
        try:
            from_values({**chosen, part: {**chosen.get(part, {}), key: value} if key else value})
        except BadOptionError as error:
            found.append((value, error))
    return found


@pytest.mark.parametrize(
    ("chosen", "field", "info"), fields(), ids=lambda value: value if isinstance(value, str) else ""
)
def test_every_field_says_its_own_name_the_value_and_what_it_takes(
    chosen: dict[str, Any], field: str, info: FieldInfo
) -> None:
    found = refusals(chosen, field)
    assert found, "no value is wrong"
    for value, error in found:
        said = str(error).replace(repr(value), "")
        own = "rungs are" in said or "letters, digits" in said  # the words of a part's own check
        assert not RAW.search(said.replace(str(info.description), "")), said
        assert field in str(error) or own, said
        inner = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
        assert value is None or any(repr(one) in str(error) for one in (value, *inner)) or own, said
        for word in () if own else must_name(info, value):
            assert word in error.hint, (word, said)


def must_name(info: FieldInfo, value: Any) -> list[str]:
    """What the hint of a field may not leave out: every choice, and every bound."""
    kinds = [kind for kind in (get_args(info.annotation) or (info.annotation,)) if kind is not type(None)]
    if get_origin(info.annotation) is Literal:
        return [repr(choice) for choice in get_args(info.annotation)]
    words = [str(one) for one in info.examples or ()]
    for part in info.metadata:
        for name in ("ge", "le"):
            bound = getattr(part, name, None)
            if bound is not None:
                words.append("more than 0" if bound == 1e-9 else f"{bound:g}" if kinds[0] is float else str(bound))
    if (
        get_origin(info.annotation) is not tuple
        and kinds[0] in (int, float)
        and isinstance(value, str)
        and "," in value
    ):
        words.append("write 1000 or 0.6")
    return words


@pytest.mark.parametrize(
    "settings",
    ["budget.trials=1,000", "data.limit=1,000", "reward.beta=0,6", "space.choices.layers=1,000"],
)
def test_a_comma_is_no_part_of_a_number_on_the_command_line(settings: str) -> None:
    with pytest.raises(BadOptionError) as raised:
        spec_from({}, dict([assigned(settings)]))
    assert settings.partition("=")[2] in str(raised.value)
    assert from_values({"budget": {"trials": "1_000"}}).budget.trials == 1000


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"budget": 1}, "budget = 1 is no table of settings. Give a table of settings: trials, epochs, "),
        ({"strategy": "lstm"}, "strategy = 'lstm' is no table of settings. Give one with a name: auto, tpe, lstm, "),
        ({"budget": {"rungs": ["a"]}}, "budget.rungs = 'a' is no number. Give a list of numbers."),
        ({"space": {"choices": {"a": 1}}}, "space.choices.a = 1 is no list."),
        ({"space": {"variants": {"a": {"recipe": 1}}}}, "space.variants.a.recipe = 1 is no table of settings."),
        ({"data": {"config": 2024}}, "data.config = 2024 is no text. Give text: configuration of a hub data set; or"),
        ({"teacher": {"model": None}}, "teacher.model is not given, and it cannot be left out."),
    ],
)
def test_values_within_values_are_named_as_they_are_written(values: dict[str, Any], said: str) -> None:
    with pytest.raises(BadOptionError) as raised:
        from_values(values)
    assert str(raised.value).startswith(said)
    assert not RAW.search(str(raised.value))


def test_a_name_of_several_lines_makes_a_message_of_several() -> None:
    for values in ({"a\x0b\u2028b\r\nkdnas: forged": 1}, {"seed": 1, "x\x85y": {}}, {"strategy": {"name": "a\nb"}}):
        with pytest.raises(BadOptionError) as caught:
            from_values(values)
        assert len(str(caught.value).splitlines()) == len(caught.value.problem.splitlines()) == 1
