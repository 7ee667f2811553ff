"""A student given by hand, as a configuration, becomes what a distillation takes. Distils nothing."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdnas.students.distil import Job
from kdnas.study.layer_words import KIND
from kdnas.study.spec import StudySpec, from_values
from kdnas.system.errors import UsageError

if TYPE_CHECKING:
    pass

ALIASES = {  # what other families call the same
    "num_hidden_layers": ("n_layers", "n_layer"),
    "hidden_size": ("dim", "n_embd"),
    "num_attention_heads": ("n_heads", "n_head"),
    "head_size": ("head_dim",),
    "intermediate_size": ("hidden_dim", "n_inner"),
    "hidden_act": ("activation", "activation_function"),
}


def given(spec: StudySpec, config: Mapping[str, Any]) -> Job:
    """A configuration given by hand (Hugging Face keys, or a candidate's) as a job; the spec's space becomes it alone.

    Raises UsageError where a key of the recipe's space is missing, out of range, or the model is of another family.
    """
    from kdnas.recipes import recipe

    described = recipe(spec.recipe.name)
    family = config.get("model_type")
    if family is not None and family not in described.families:
        raise UsageError(
            f"The recipe {spec.recipe.name} makes no {family!r} models.", f"It makes {', '.join(described.families)}."
        )
    config = described.in_words_of_the_space(spec, config)
    spec = _of_kind(_of_layers_that_differ(spec, config), config)
    names = [d.name for d in described.describe(spec).space.dimensions]
    known = {name: _value(config, name) for name in {*names, "hidden_size", "num_attention_heads"}}
    width, heads = known["hidden_size"], known["num_attention_heads"]
    if "head_size" in names and known["head_size"] is None and width is not None and heads is not None:
        if "num_attention_heads" not in names:
            names[names.index("head_size")] = "num_attention_heads"  # the same space, told by the number of heads
        elif heads and width % heads == 0:
            known["head_size"] = width // heads
    missing = [name for name in names if known[name] is None]
    if missing:
        raise UsageError(
            f"The configuration gives no {missing[0]}.", f"The recipe {spec.recipe.name} needs {', '.join(names)}."
        )
    values = spec.model_dump(mode="json")
    values["space"] = {"choices": {name: [known[name]] for name in names}, "per_layer": spec.space.per_layer}
    narrowed = from_values(values)
    space = described.describe(narrowed).space
    return Job(narrowed, space.from_ordinal(0))


def _of_layers_that_differ(spec: StudySpec, config: Mapping[str, Any]) -> StudySpec:
    """The spec for a student that gives sizes for each of its layers, whose space has as many layers; for any other
    one without such sizes."""
    depth, values = _value(config, "num_hidden_layers"), spec.model_dump(mode="json")
    if "num_attention_heads_1" in config and depth is not None:
        values["space"] = {"choices": {"num_hidden_layers": [depth]}, "per_layer": True}
    elif spec.space.per_layer:
        values["space"] = {}
    else:
        return spec
    return from_values(values)


def _of_kind(spec: StudySpec, config: Mapping[str, Any]) -> StudySpec:
    """The spec whose space has the kind of the student, where the configuration says one."""
    if config.get(KIND) is None or KIND in spec.space.choices:
        return spec
    values = spec.model_dump(mode="json")
    values["space"]["choices"] = {**values["space"]["choices"], KIND: [config[KIND]]}
    return from_values(values)


def _value(config: Mapping[str, Any], name: str) -> Any:
    return next((config[key] for key in (name, *ALIASES.get(name, ())) if config.get(key) is not None), None)


def read_config(path: Path) -> dict[str, Any]:
    """A configuration from JSON (a config.json, a candidate, or the best of an exported file) or TOML."""
    try:
        text = path.read_text(encoding="utf-8-sig")  # some editors begin a file with a byte-order mark
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}.", "Give a JSON or TOML file.") from None
    try:
        found = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except ValueError as error:
        kind = "TOML" if path.suffix == ".toml" else "JSON"
        raise UsageError(f"{path} is not {kind}: {error}.", "Fix that place.") from None
    except RecursionError:
        raise UsageError(f"{path} is nested too deeply.", "Write it with fewer brackets.") from None
    if isinstance(found, dict) and found.get("format") == "kdnas-export" and found.get("candidates"):
        found = found["candidates"][0]["candidate"]
    if not isinstance(found, dict):
        raise UsageError(f"{path} holds no configuration.", 'Give keys and values, as in {"num_hidden_layers": 3, …}.')
    return found
