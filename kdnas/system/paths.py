"""Where things lie: caches, settings, logs and the default store. Environment variables move each of them."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import platformdirs

from kdnas.system.errors import UsageError, nearest

PACKAGE = Path(__file__).resolve().parent.parent
CAMPAIGNS = "campaign-"  # how the names of campaigns that ship begin


def cache_folder() -> Path:
    """Fetched models and texts, teacher caches (KDNAS_CACHE)."""
    return _place("KDNAS_CACHE", platformdirs.user_cache_path("kdnas"))


def config_folder() -> Path:
    """Settings and themes of the screens (KDNAS_CONFIG)."""
    return _place("KDNAS_CONFIG", platformdirs.user_config_path("kdnas"))


def state_folder() -> Path:
    """Logs of detached workers, lock files, copies (KDNAS_STATE)."""
    return _place("KDNAS_STATE", platformdirs.user_state_path("kdnas"))


def own_folder(folder: Path) -> Path:
    """The folder, made where it is missing; whatever had to be made for it is its owner's alone, and what is there
    keeps its rights, since a cache may be shared on purpose. Raises OSError."""
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    for one in reversed(missing):
        with contextlib.suppress(FileExistsError):
            one.mkdir(mode=0o700)
    return folder


def private_folder(folder: Path) -> Path:
    """The same for a folder that is never shared: one that is open to others is closed. Raises OSError."""
    found = own_folder(folder).stat()
    if found.st_uid == os.geteuid() and found.st_mode & 0o077:  # made by an earlier version, or by another's umask
        folder.chmod(0o700)
    return folder


def default_storage() -> str:
    """`KDNAS_STORAGE`, else `studies/kdnas.db` where there is a `studies/` here, else one in the user's data folder."""
    given = os.environ.get("KDNAS_STORAGE")
    if given:
        return given
    here = Path.cwd() / "studies"
    folder = here if here.is_dir() else platformdirs.user_data_path("kdnas")
    return f"sqlite:///{folder / 'kdnas.db'}"


def presets() -> dict[str, Path]:
    """The specs of studies that ship: name → TOML file."""
    return {name: path for name, path in _shipped_specs().items() if not name.startswith(CAMPAIGNS)}


def shipped_campaigns() -> dict[str, Path]:
    """The campaigns that ship: name → TOML file."""
    return {name: path for name, path in _shipped_specs().items() if name.startswith(CAMPAIGNS)}


def _shipped_specs() -> dict[str, Path]:
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
