"""Where things lie: caches, settings, logs and the default store. Environment variables move each of them."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

from kdnas.system.errors import UsageError, nearest

PACKAGE = Path(__file__).resolve().parent.parent


def cache_folder() -> Path:
    """Fetched models and texts, teacher caches (KDNAS_CACHE)."""
    return _place("KDNAS_CACHE", platformdirs.user_cache_path("kdnas"))


def config_folder() -> Path:
    """Settings and themes of the screens (KDNAS_CONFIG)."""
    return _place("KDNAS_CONFIG", platformdirs.user_config_path("kdnas"))


def state_folder() -> Path:
    """Logs of detached workers, lock files, copies (KDNAS_STATE)."""
    return _place("KDNAS_STATE", platformdirs.user_state_path("kdnas"))


def default_storage() -> str:
    """`KDNAS_STORAGE`, else `studies/kdnas.db` where there is a `studies/` here, else one in the user's data folder."""
    given = os.environ.get("KDNAS_STORAGE")
    if given:
        return given
    here = Path.cwd() / "studies"
    folder = here if here.is_dir() else platformdirs.user_data_path("kdnas")
    return f"sqlite:///{folder / 'kdnas.db'}"


def presets() -> dict[str, Path]:
    """The specs that ship: name → TOML file."""
    folder = PACKAGE / "presets"
    if not folder.is_dir():
        folder = PACKAGE.parent / "studies"
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def preset(name: str) -> Path:
    """The TOML file of a spec that ships. Raises UsageError, with the nearest name, for one that does not."""
    known = presets()
    if name not in known:
        raise UsageError(f"There is no preset {name!r}.", nearest(name, known) if known else "None ships here.")
    return known[name]


def _place(variable: str, default: Path) -> Path:
    given = os.environ.get(variable)
    return Path(given).expanduser() if given else default
