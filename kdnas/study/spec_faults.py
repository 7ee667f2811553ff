"""Why values make no spec, in words for people: the field, the value, and what is allowed there.

The words come from the fields themselves: their kind, bounds and examples. Knows no part of a spec by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from kdnas.study.spec_part import FLOOR
from kdnas.system.errors import BadOptionError, nearest

COMMA = "A comma is no part of a number: write 1000 or 0.6."
_NO_NUMBER = {"int_parsing", "int_type", "int_from_float", "float_parsing", "float_type"}
_OUTSIDE = {
    "greater_than",
    "greater_than_equal",
    "less_than",
    "less_than_equal",
    "finite_number",
    "int_parsing_size",
}
_NOT = {  # kind of pydantic's error → what the value is not, to follow it
    **dict.fromkeys(_OUTSIDE, "is out of range"),
    "string_type": "is no text",
    "string_too_short": "is empty",
    "bool_type": "is neither true nor false",
    "bool_parsing": "is neither true nor false",
    "tuple_type": "is no list",
    "literal_error": "is not known",
    "string_pattern_mismatch": "is not known",
}
_NO_TABLE = ("dict_type", "model_type", "model_attributes_type", "mapping_type")
KINDS = {int: "whole number", float: "number", str: "text", bool: "true or false"}


def explain(error: ValidationError, spec: type[BaseModel], names: Mapping[str, Mapping[str, Any]]) -> BadOptionError:
    """The first fault of a validation as one line. `names`: part of the spec → the models that its `name` chooses."""
    first = error.errors(include_url=False)[0]
    kind, given, context = first["type"], first.get("input"), first.get("ctx", {})
    field, info, siblings = _found(first["loc"], spec, names)
    if kind == "extra_forbidden":
        return BadOptionError(field, f"There is no setting {field}.", nearest(field.rpartition(".")[2], siblings))
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        tag = str(context.get("tag", "")) or "(none)"
        return BadOptionError(f"{field}.name", f"There is no {field} {tag!r}.", nearest(tag, names[field]))
    if kind == "value_error":
        subject = "The spec:" if field == "spec" else f"{field} = {_short(given)}:"
        said = str(context["error"])
        return BadOptionError(field, subject, said if said.endswith("?") else f"{said}.")
    if given is None or kind == "missing":
        problem = f"{field} is not given, and it cannot be left out."
    elif kind in _NO_TABLE:
        problem = f"{field} = {_short(given)} is no table of settings."
    elif kind in _NO_NUMBER:
        problem = f"{field} = {_short(given)} is no {KINDS[int if kind.startswith('int') else float]}."
    else:
        problem = f"{field} = {_short(given)} {_NOT.get(kind, 'does not fit')}."
    if field in names:
        hint = f"Give one with a name: {', '.join(names[field])}."
    else:
        hint = f"Give {allowed(info)}." if info is not None else "Give a table of settings."
    if kind in _NO_NUMBER and isinstance(given, str) and "," in given:
        hint += f" {COMMA}"
    if kind == "string_type" and isinstance(given, int | float):
        hint += " Put it in quotes."  # TOML reads it as a number
    return BadOptionError(field, problem, hint)


def allowed(info: FieldInfo) -> str:
    """What a field takes, to follow "Give": `a whole number from 1 to 256`, `'full' or 'kd-nas'`, …"""
    kinds = [kind for kind in _members(info.annotation) if kind is not NoneType]
    kind = kinds[0] if kinds else str
    bounds = {name: value for part in info.metadata for name, value in _bounds(part)}
    if get_origin(kind) is Literal:
        words = _either([repr(choice) for choice in get_args(kind)])
    elif kind is bool:
        words = KINDS[bool]
    elif kind in (int, float):
        words = f"a {KINDS[kind]}{_range(bounds, whole=kind is int)}"
    elif "pattern" in bounds and info.examples:
        words = _either([str(example) for example in info.examples])
    elif kind is str:
        words = f"text: {info.description}"
    elif get_origin(kind) is tuple:
        words = f"a list of {_either([KINDS[one] + 's' for one in _members(get_args(kind)[0])])}"
    elif isinstance(kind, type) and issubclass(kind, BaseModel):
        words = f"a table of settings: {', '.join(kind.model_fields)}"
    else:
        words = f"a table ({info.description})"
    if info.examples and "pattern" not in bounds:
        words += f", as in {info.examples[0]}"
    return words if NoneType not in _members(info.annotation) else f"{words}; or leave it out"


def _range(bounds: Mapping[str, Any], *, whole: bool) -> str:
    """Bounds in words; a whole number is never said to be less than something."""
    low, high = bounds.get("ge"), bounds.get("le")
    if whole and "lt" in bounds:
        high = bounds["lt"] - 1
    below = "" if "lt" not in bounds or whole else f"less than {bounds['lt']:g}"
    least = "" if low is None else "more than 0" if low == FLOOR else f"{low:g}" if not whole else str(low)
    most = "" if high is None else f"{high:g}" if not whole else str(high)
    if not least:
        return f" of at most {most}" if most else f" of {below}" if below else ""
    if low == FLOOR:
        return f" of more than 0{f' and at most {most}' if most else f' and {below}' if below else ''}"
    return f" from {least} to {most}" if most else f" of at least {least}{f' and {below}' if below else ''}"


def _bounds(part: Any) -> Iterator[tuple[str, Any]]:
    for name in ("ge", "le", "lt", "pattern"):
        value = getattr(part, name, None)
        if value is not None:
            yield name, value


def _members(annotation: Any) -> tuple[Any, ...]:
    """The kinds that a union allows, or the one kind."""
    plain = get_origin(annotation) in (Literal, tuple, dict, None)
    return (annotation,) if plain else get_args(annotation)


def _either(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def _found(
    place: tuple[Any, ...], spec: type[BaseModel], names: Mapping[str, Mapping[str, Any]]
) -> tuple[str, FieldInfo | None, list[str]]:
    """The field at pydantic's place as people write it, what is known of it, and the settings beside it."""
    model: Any = spec
    info: FieldInfo | None = None
    path: list[str] = []
    for step in place:
        chosen = names.get(path[0], {}) if len(path) == 1 else {}
        if step in chosen:
            model = chosen[step]
        elif model is not None:
            path.append(str(step))
            info = model.model_fields.get(step)
            kind = info.annotation if info is not None else None
            inner = isinstance(kind, type) and issubclass(kind, BaseModel)
            model = kind if inner else model if info is None or (path[0] in names and len(path) == 1) else None
        elif info is not None and get_origin(info.annotation) is dict and step not in ("int", "float", "str"):
            path.append(str(step))  # a key of a table; places in a list say nothing to who wrote the spec
    return ".".join(path) or "spec", info, list(model.model_fields) if model is not None else []


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # Python writes no whole number of more than some thousand digits
        text = "a number of thousands of digits"
    return text if len(text) <= 60 else text[:57] + "…"
