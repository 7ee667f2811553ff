"""What a person chose for the screens, kept in the platform's config folder: theme and plain characters."""

from __future__ import annotations

import tomllib
from dataclasses import asdict, dataclass
from pathlib import Path

import tomli_w

from kdnas.system.errors import KdnasError
from kdnas.system.paths import config_folder


@dataclass(frozen=True)
class Settings:
    theme: str = "kdnas-dark"
    ascii: bool = False


def path() -> Path:
    return config_folder() / "screens.toml"


def read() -> Settings:
    """The settings; the defaults where there are none or they cannot be read."""
    try:
        given = tomllib.loads(path().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return Settings()
    theme = given.get("theme")
    return Settings(theme if isinstance(theme, str) else Settings.theme, given.get("ascii") is True)


def write(settings: Settings) -> None:
    """Keep the settings; a folder that cannot be written loses them, and nothing else."""
    from kdnas.system.files import write_atomically  # not needed for the first paint

    try:
        path().parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path(), tomli_w.dumps(asdict(settings)))
    except (OSError, KdnasError):
        return
