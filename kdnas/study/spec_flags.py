"""A spec as flags of `kdnas search` and back: one table for the command line, the screens and the documentation.

Reads no file and checks no value; the spec does that.
"""

from __future__ import annotations

import json
import shlex
import tomllib
from collections.abc import Iterable, Mapping
from typing import Any

from kdnas.study.spec import StudySpec
from kdnas.study.spec_differences import flatten
from kdnas.study.spec_recipes import HiddenStateRecipe
from kdnas.study.spec_strategies import AutoStrategy, LstmStrategy
from kdnas.study.time_budget import MOST_TRIALS
from kdnas.system.errors import UsageError
from kdnas.system.text import with_hyphen

FLAGS: dict[str, str] = {  # field of the spec → its own flag; every other field is set by --set FIELD=VALUE
    "teacher.model": "--teacher",
    "teacher.checkpoint": "--teacher-checkpoint",
    "data.source": "--dataset",
    "data.config": "--dataset-config",
    "data.split": "--split",
    "data.text_column": "--text-column",
    "data.label_column": "--label-column",
    "recipe.name": "--recipe",
    "strategy.name": "--strategy",
    "like": "--like",
    "reward.alpha": "--alpha",
    "reward.beta": "--beta",
    "constraints.max_latency_ms": "--max-latency-ms",
    "constraints.min_speedup": "--min-speedup",
    "constraints.max_parameters": "--max-parameters",
    "constraints.max_size_mib": "--max-size-mib",
    "constraints.max_loss": "--max-loss",
    "budget.trials": "--trials",
    "budget.hours": "--hours",
    "budget.until": "--until",
    "budget.epochs": "--epochs",
    "budget.proxy_fraction": "--proxy-fraction",
    "budget.pruner": "--pruner",
    "space.preset": "--space",
    "seed": "--seed",
    "device": "--device",
}

ENDS = {"budget.hours": "until", "budget.until": "hours"}  # field → the other way to say the same, which it replaces

NAMED = {  # part of the spec → its name where none is given
    "recipe": HiddenStateRecipe().name,  # type: ignore[call-arg]
    "strategy": AutoStrategy().name,  # type: ignore[call-arg]
}


def command(spec: StudySpec, storage: str | None = None, preset: tuple[str, StudySpec] | None = None) -> str:
    """The `kdnas search` line that begins this very study: its name and what differs from the defaults.

    With a preset (its name and spec) the line names it, and then what differs from it.
    """
    words = ["kdnas", "search", spec.name]
    flat, understood = flatten(spec), _understood(spec)
    taken_away: list[str] = []
    if preset is not None and _lacking(flatten(preset[1]), flat):
        preset = None  # no flag takes a key of a mapping away
    if preset is not None:
        words += ["--preset", preset[0]]
        based = flatten(preset[1])
        # Another recipe or strategy starts from its own defaults, as `overlay` has it.
        others = tuple(f"{part}." for part in NAMED if based[f"{part}.name"] != flat[f"{part}.name"])
        of_preset = {field: value for field, value in based.items() if not field.startswith(others)}
        of_preset |= {f"{part}.name": based[f"{part}.name"] for part in NAMED}
        understood = {field: value for field, value in understood.items() if field.startswith(others)} | of_preset
        taken_away = [field for field in of_preset if flat.get(field) is None and of_preset[field] is not None]
    for field in sorted(flat, key=lambda f: (list(FLAGS).index(f) if f in FLAGS else len(FLAGS), f)):
        value = flat[field]
        if field in taken_away:
            words += ["--set", f"{field}="]
        if field == "name" or value is None or (field in understood and value == understood[field]):
            continue
        if field == "budget.trials" and spec.budget.open:
            words += ["--set", f"{field}="]  # the time decides alone, and not the preset's trials
        elif field in FLAGS:
            words += [FLAGS[field], str(value)]
        elif field.startswith("strategy."):
            words += ["--strategy-option", f"{field.removeprefix('strategy.')}={_text(value)}"]
        elif isinstance(value, Mapping):
            for key, inner in value.items():
                words += ["--set", f"{field}.{key}={_text(inner)}"]
        else:
            words += ["--set", f"{field}={_text(value)}"]
    if storage is not None:
        words += ["--storage", storage]
    return shlex.join(words)


def _lacking(based: Mapping[str, Any], flat: Mapping[str, Any]) -> bool:
    """Whether a mapping (of choices, say) has keys that the other one's lacks."""
    held = {field: value for field, value in based.items() if isinstance(value, Mapping)}
    return any(not set(value) <= set(flat.get(field) or ()) for field, value in held.items())


def _understood(spec: StudySpec) -> dict[str, Any]:
    """Field → the value that needs no flag: the defaults under the spec's own recipe, strategy and controller."""
    strategy: dict[str, str] = {"name": spec.strategy.name}
    if isinstance(spec.strategy, LstmStrategy):
        strategy["controller"] = spec.strategy.controller
    found = flatten(StudySpec.model_validate({"recipe": {"name": spec.recipe.name}, "strategy": strategy}))
    found |= {f"{part}.name": name for part, name in NAMED.items()}
    if spec.budget.timed:
        found["budget.trials"] = MOST_TRIALS
    if isinstance(spec.strategy, LstmStrategy):
        found["strategy.controller"] = "ours"
        if not spec.budget.timed or spec.strategy.episodes is not None:
            del found["budget.trials"]  # its episodes are the budget where no other is given
    return found


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value if assigned(f"x={value}")[1] == value else json.dumps(value)
    return toml_text(value)


def toml_text(value: Any) -> str:
    """A value as TOML writes it on one line; what `assigned` reads back."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key} = {toml_text(inner)}" for key, inner in value.items()) + "}"
    return json.dumps(value)


def assigned(text: str) -> tuple[str, Any]:
    """`budget.epochs=2` → ("budget.epochs", 2): the value as TOML reads it, else as text; `data.limit=` → None, which
    takes an optional value away. Raises UsageError."""
    field, equals, value = text.partition("=")
    if not equals or not field.strip():
        raise UsageError(f"{text!r} sets nothing.", "Write it as field=value, as in budget.epochs=2.")
    if not value.strip():
        return field.strip(), None
    value = with_hyphen(value)
    try:
        parsed = tomllib.loads(f"value = {value}\n")
    except RecursionError:
        raise UsageError(
            f"The value of {field.strip()} is nested too deeply.", "Write it with fewer brackets."
        ) from None
    except ValueError:  # no TOML, or a number of too many digits
        return field.strip(), value
    return field.strip(), parsed["value"] if list(parsed) == ["value"] else value


def overlay(base: Mapping[str, Any], given: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Nested values with dotted fields laid over them. Another recipe or strategy starts from its own defaults. A
    strategy that nobody named stays unnamed, so that a study of another default can be taken up."""
    values = {key: dict(v) if isinstance(v, Mapping) else v for key, v in base.items()}
    given = list(given)
    fields = {field for field, value in given if value is not None}
    unnamed = "strategy" not in values
    for part, usual in NAMED.items():
        inner = values.setdefault(part, {})
        if isinstance(inner, dict):
            inner.setdefault("name", usual)
    # Names first, so that an option of the new strategy is not thrown away with the old one's.
    for field, value in sorted(given, key=lambda pair: not pair[0].endswith(".name")):
        *parents, last = field.split(".")
        if last == "name" and parents and parents[0] in NAMED and _name(values[parents[0]]) != value:
            values[parents[0]] = {}
        place: Any = values
        for step in parents:
            inner = place.get(step)
            place[step] = dict(inner) if isinstance(inner, Mapping) else {}
            place = place[step]
        place[last] = value
        if field in ENDS and value is not None and not ENDS.keys() <= fields:
            place.pop(ENDS[field], None)
        unnamed = unnamed and not field.startswith("strategy.")
    if unnamed:
        del values["strategy"]
    return values


def _name(part: Any) -> Any:
    return part.get("name") if isinstance(part, Mapping) else None
