"""The flags that say what a study is, shared by search, plan and distill, and how they become a spec."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

import click
from pydantic.fields import FieldInfo

from kdnas.cli import frame
from kdnas.study.spec import DataSpec, StudySpec, from_values
from kdnas.study.spec_flags import FLAGS, assigned, overlay
from kdnas.study.spec_recipes import recipe_names
from kdnas.study.spec_strategies import strategy_names
from kdnas.study.spec_toml import read_values
from kdnas.system import paths
from kdnas.system.errors import UsageError
from kdnas.system.text import with_hyphen

F = TypeVar("F", bound=Callable[..., Any])

METAVARS = {
    "teacher.model": "NAME|ID|FOLDER",
    "teacher.checkpoint": "FOLDER",
    "data.source": "NAME|ID|FILE",
    "data.config": "NAME",
    "data.split": "NAME",
    "data.text_column": "COLUMN",
    "data.label_column": "COLUMN",
    "like": "auto|none|STUDY",
    "reward.alpha": "X",
    "reward.beta": "X",
    "constraints.max_latency_ms": "MS",
    "constraints.min_speedup": "X",
    "constraints.max_parameters": "N",
    "constraints.max_size_mib": "MIB",
    "constraints.max_loss": "X",
    "budget.trials": "N",
    "budget.hours": "H",
    "budget.until": "TIME",
    "budget.epochs": "N",
    "budget.proxy_fraction": "X",
    "seed": "S",
    "device": "auto|cpu|cuda|cuda:N|mps",
}
HELP = {  # where the spec's own description says less than a person at the prompt needs
    "recipe.name": "how students learn; see kdnas recipes",
    "strategy.name": "who proposes candidates; see kdnas strategies",
    "space.preset": "the recipe's own choices, or KD-NAS's lists",
    "device": "where it runs",
}
HELP_OF_A_TRAINING = {"budget.epochs": "at most this many epochs"}


# What only a search has; `kdnas distill` takes the others.
OF_A_SEARCH = {
    "strategy.name",
    "like",
    "reward.alpha",
    "reward.beta",
    *(field for field in FLAGS if field.startswith("constraints.")),
    "budget.trials",
    "budget.hours",
    "budget.until",
    "budget.proxy_fraction",
    "budget.pruner",
    "space.preset",
}


def data_part(source: str, config: str | None, split: str, text_column: str, **others: Any) -> DataSpec:
    """The data of a command that has no study. Raises BadOptionError."""
    asked = {"source": source, "config": config, "split": split, "text_column": text_column, **others}
    return from_values({"data": asked}).data


def _choices(field: str) -> Callable[[], list[str]] | None:
    """The names that a field takes, where it takes names; asked for when help or the shell wants them."""
    if field == "recipe.name":
        return recipe_names
    if field == "strategy.name":
        return strategy_names
    annotation = _field(field).annotation
    if get_origin(annotation) is not Literal:
        return None
    return lambda: [str(choice) for choice in get_args(annotation)]


def _parameter(field: str) -> str:
    return "at_" + field.replace(".", "_")


def spec_flags(command: F) -> F:
    """STUDY, what a search has, and --strategy-option."""
    named = click.argument("study", type=frame.StudyName(), required=False)
    return named(_with_options(command, [*FLAGS], HELP, strategy=True))


def training_flags(command: F) -> F:
    """What a single distillation takes: no strategy, no budget of trials, no reward, no space."""
    fields = [field for field in FLAGS if field not in OF_A_SEARCH]
    return _with_options(command, fields, HELP | HELP_OF_A_TRAINING, strategy=False)


def _with_options(command: F, fields: Sequence[str], help_of: Mapping[str, str], *, strategy: bool) -> F:
    """--spec, --preset, one flag for each of `fields`, perhaps --strategy-option, and --set."""
    options = [
        click.option("--spec", "spec_file", type=click.Path(path_type=Path), metavar="FILE", help="Spec in TOML."),
        click.option(
            "--preset",
            type=frame.OneOf(lambda: list(paths.presets())),
            metavar="NAME",
            help="One of the specs that ship, as in quickstart.",
        ),
    ]
    for field in fields:
        words = help_of.get(field) or _field(field).description or field
        choices = _choices(field)
        options.append(
            click.option(
                FLAGS[field],
                _parameter(field),
                type=None if choices is None else frame.OneOf(choices),
                metavar=METAVARS.get(field) if choices is None else None,
                help=f"{words[0].upper()}{words[1:]}.",
            )
        )
    if strategy:
        options.append(
            click.option(
                "--strategy-option",
                "strategy_options",
                multiple=True,
                metavar="KEY=VALUE",
                help="An option of the strategy; may be repeated.",
            )
        )
    options.append(
        click.option(
            "--set",
            "settings",
            multiple=True,
            metavar="FIELD=VALUE",
            help="Any field of the spec; FIELD= takes an optional one away.",
        )
    )
    for option in reversed(options):
        command = option(command)
    return command


def _field(name: str) -> FieldInfo:
    model: Any = StudySpec
    for step in name.split("."):
        found: FieldInfo = model.model_fields[step]
        model = found.annotation
    return found


def given_fields(values: dict[str, Any]) -> dict[str, Any]:
    """The fields that flags set, taken out of a command's keyword arguments: field → value as written."""
    fields: dict[str, Any] = {}
    for field in FLAGS:
        value = values.pop(_parameter(field), None)
        if value is not None:
            fields[field] = with_hyphen(value)
    for text in values.pop("strategy_options", ()):
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
