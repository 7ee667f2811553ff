"""What a person writes for the screens: keys, themes and notices in `custom.toml` of the config folder.

It is read once, before anything is drawn. What is wrong in it is one line that says which and what is possible. The
screens never write it; what they remember by themselves lies in `screens.toml` (`settings`).
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from textual.color import Color, ColorParseError
from textual.theme import Theme

from kdnas.system.errors import UsageError, first_line, nearest
from kdnas.system.paths import config_folder
from kdnas_tui import keys, notices, own_keys, theme

PARTS = ("notify", "keys", "themes")
COLOURS = (
    "primary",
    "secondary",
    "accent",
    "success",
    "warning",
    "error",
    "foreground",
    "background",
    "surface",
    "panel",
)


@dataclass(frozen=True)
class Custom:
    notify: str = "off"
    keys: keys.Own = field(default_factory=dict)
    themes: tuple[Theme, ...] = ()


def path() -> Path:
    return config_folder() / "custom.toml"


def read() -> Custom:
    """What the file holds; nothing where there is none. Raises UsageError."""
    file = path()
    try:
        given = tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        return Custom()
    except OSError as error:
        raise UsageError(
            f"{file} cannot be read: {error.strerror}.", "Give yourself the right, or delete it."
        ) from None
    except UnicodeDecodeError:
        raise UsageError(f"{file} is not text in UTF-8.", "Save it as UTF-8.") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{file} is not TOML: {first_line(error)}.", "Fix that line.") from None
    for part in given:
        if part not in PARTS:
            raise UsageError(f"{file}: there is no setting {part!r}.", nearest(part, PARTS))
    notify = notices.require_way(_text(given.get("notify", "off"), f"{file}: notify"), f"{file}: notify")
    tables = _table(given.get("keys", {}), f"{file}: keys")
    themes = _table(given.get("themes", {}), f"{file}: themes")
    return Custom(
        notify,
        own_keys.checked({screen: _keys(file, screen, table) for screen, table in tables.items()}, str(file)),
        tuple(_theme(file, name, _table(values, f"{file}: themes.{name}")) for name, values in themes.items()),
    )


def _keys(file: Path, screen: str, table: Any) -> dict[str, Sequence[str]]:
    """The keys of a screen, by the name of what they do; one key or a list of them."""
    found: dict[str, Sequence[str]] = {}
    for name, value in _table(table, f"{file}: keys.{screen}").items():
        those = value if isinstance(value, list) else [value]
        found[name] = [_text(one, f"{file}: keys.{screen}.{name}") for one in those]
    return found


def _theme(file: Path, name: str, values: Mapping[str, Any]) -> Theme:
    """A theme: what it does not say is that of kdnas-dark, or of kdnas-light where `dark` is false."""
    where = f"{file}: themes.{name}"
    if name in {one.name for one in theme.THEMES}:
        raise UsageError(f"{where} is the name of a theme that ships.", "Give it another name.")
    known = (*COLOURS, "dark", "variables")
    for one in values:
        if one not in known:
            raise UsageError(f"{where} has no {one!r}.", nearest(one, known))
    dark = values.get("dark", True)
    if not isinstance(dark, bool):
        raise UsageError(f"{where}.dark is {dark!r}.", "Write true or false.")
    base = theme.DARK if dark else theme.LIGHT
    colours: dict[str, Any] = {one: _colour(values[one], f"{where}.{one}") for one in COLOURS if one in values}
    moved = {getattr(base, one): colour for one, colour in colours.items()}
    variables = {key: moved.get(value, value) for key, value in base.variables.items()}
    for key, value in _table(values.get("variables", {}), f"{where}.variables").items():
        if key not in base.variables:
            raise UsageError(f"{where}.variables has no {key!r}.", nearest(key, base.variables))
        variables[key] = value if value == "none" else _colour(value, f"{where}.variables.{key}")
    return replace(base, name=name, variables=variables, **colours)


def _colour(value: Any, where: str) -> str:
    try:
        return Color.parse(_text(value, where)).hex
    except ColorParseError:
        raise UsageError(f"{where}: {value!r} is no colour.", "Write it as #rrggbb, or by its name in CSS.") from None


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise UsageError(f"{where} is {value!r}.", "Write it in quotes.")
    return value


def _table(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise UsageError(f"{where} is {value!r}, and no table.", "docs/custom.md shows how it is written.")
    return value
