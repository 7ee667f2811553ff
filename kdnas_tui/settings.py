"""What a person chose for the screens, kept in the platform's config folder: the look, the columns, earlier filters."""

from __future__ import annotations

import tomllib
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import tomli_w

from kdnas.system.errors import KdnasError
from kdnas.system.paths import config_folder


@dataclass(frozen=True)
class Settings:
    theme: str = "kdnas-dark"
    ascii: bool = False
    table_share: int = 0  # the table's part of a wide screen in percent; 0 for what its columns want
    columns_hidden: tuple[str, ...] = ()  # keys of the filter language
    columns_added: tuple[str, ...] = ()
    filters: tuple[str, ...] = ()  # that were used, the latest last


def path() -> Path:
    return config_folder() / "screens.toml"


def read() -> Settings:
    """The settings; the default of each that is not there or cannot be read."""
    try:
        given = tomllib.loads(path().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return Settings()
    usual = Settings()
    read = {one.name: _like(getattr(usual, one.name), given.get(one.name)) for one in fields(Settings)}
    return Settings(**read)


def _like(usual: Any, given: Any) -> Any:
    if isinstance(usual, tuple):
        return tuple(given) if isinstance(given, list) and all(isinstance(one, str) for one in given) else usual
    return given if type(given) is type(usual) else usual


def keep(**changed: Any) -> None:
    """Write these settings, and leave the others as they are."""
    write(replace(read(), **changed))


def write(settings: Settings) -> None:
    """Keep the settings; a folder that cannot be written loses them, and nothing else."""
    from kdnas.system.files import write_atomically  # not needed for the first paint

    kept = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(settings).items()}
    try:
        path().parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path(), tomli_w.dumps(kept))
    except (OSError, KdnasError):
        return
