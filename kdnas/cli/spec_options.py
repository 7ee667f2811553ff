"""The flags that say what a study is, shared by search and plan, and how they become a spec."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from kdnas.study.spec import StudySpec, from_values
from kdnas.study.spec_flags import FLAGS, assigned, overlay
from kdnas.study.spec_toml import read_values
from kdnas.system import paths
from kdnas.system.errors import UsageError

F = TypeVar("F", bound=Callable[..., Any])

METAVARS = {
    "teacher.model": "NAME|ID|FOLDER",
    "teacher.checkpoint": "FOLDER",
    "data.source": "NAME|ID|FILE",
    "budget.trials": "N",
    "budget.epochs": "N",
    "seed": "S",
}
HELP = {  # where the spec's own description says less than a person at the prompt needs
    "recipe.name": "how students learn",
    "strategy.name": "who proposes candidates; see kdnas strategies",
    "space.preset": "full or kd-nas: the recipe's own choices, or KD-NAS's lists",
}


def _parameter(field: str) -> str:
    return "at_" + field.replace(".", "_")


def spec_flags(command: F) -> F:
    """STUDY and `spec_options`."""
    return click.argument("study", required=False)(spec_options(command))


def spec_options(command: F) -> F:
    """--spec, --preset, one flag per field of FLAGS, --strategy-option and --set."""
    options = [
        click.option("--spec", "spec_file", type=click.Path(path_type=Path), metavar="FILE", help="Spec in TOML."),
        click.option("--preset", metavar="NAME", help="One of the specs that ship, as in quickstart."),
    ]
    for field, flag in FLAGS.items():
        words = HELP.get(field) or _description(field)
        options.append(
            click.option(
                flag,
                _parameter(field),
                metavar=METAVARS.get(field, "VALUE"),
                help=f"{words[0].upper()}{words[1:]}.",
            )
        )
    options += [
        click.option(
            "--strategy-option",
            "strategy_options",
            multiple=True,
            metavar="KEY=VALUE",
            help="An option of the strategy; may be repeated.",
        ),
        click.option(
            "--set",
            "settings",
            multiple=True,
            metavar="FIELD=VALUE",
            help="Any field of the spec; FIELD= takes an optional one away.",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def _description(field: str) -> str:
    model: Any = StudySpec
    for step in field.split("."):
        found = model.model_fields[step]
        model = found.annotation
    return found.description or field


def given_fields(values: dict[str, Any]) -> dict[str, Any]:
    """The fields that flags set, taken out of a command's keyword arguments: field → value as written."""
    fields: dict[str, Any] = {}
    for field in FLAGS:
        value = values.pop(_parameter(field))
        if value is not None:
            fields[field] = value
    for text in values.pop("strategy_options"):
        key, value = assigned(text)
        fields[f"strategy.{key}"] = value
    for text in values.pop("settings"):
        key, value = assigned(text)
        fields[key] = value
    return fields


def base_values(study: str | None, spec_file: Path | None, preset: str | None) -> dict[str, Any]:
    """The values of a spec file or preset (none: empty), with the study's name in them."""
    if spec_file is not None and preset is not None:
        raise UsageError("--spec and --preset both say what the study is.", "Give one of them.")
    values: dict[str, Any] = {}
    if preset is not None:
        values = {"name": preset, **read_values(paths.preset(preset))}
    elif spec_file is not None:
        values = {"name": spec_file.stem, **read_values(spec_file)}
    if study is not None:
        values["name"] = study
    return values


def spec_from(values: dict[str, Any], fields: dict[str, Any]) -> StudySpec:
    """The checked spec. Raises BadOptionError that names the first wrong field."""
    return from_values(overlay(values, fields.items()))
