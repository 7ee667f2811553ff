"""The folder of teacher caches: what lies in it, how much of the disk it may take, what is thrown out first.

Knows nothing of tensors (teacher.py fills and reads the entries); imports nothing heavy, so that `kdnas cache`
answers at once. An entry is a folder that was renamed into place when it was complete.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from kdnas.system import paths
from kdnas.system.errors import UsageError

MANIFEST = "manifest.json"
GIB = 2**30
DEFAULT_LIMIT_GIB = 20.0


@dataclass(frozen=True)
class Entry:
    """One finished cache. `used` is when a worker last opened it, UTC seconds."""

    key: str
    folder: Path
    bytes: int
    used: float
    in_use: bool
    facts: dict[str, Any]  # teacher, layers, chunks, length, dtype


def root() -> Path:
    return paths.cache_folder() / "teacher"


def limit_bytes() -> int:
    """The most that all entries may take: KDNAS_CACHE_GIB (20), and never more than half of what is free or ours."""
    given = os.environ.get("KDNAS_CACHE_GIB", "")
    try:
        wanted = float(given) if given else DEFAULT_LIMIT_GIB
        if not 0 <= wanted < 2**20:
            raise ValueError
    except ValueError:
        raise UsageError(f"KDNAS_CACHE_GIB = {given!r} is no size.", "Give a number of GiB, 0 for no cache.") from None
    half = (free_bytes() + sum(entry.bytes for entry in entries())) // 2
    return int(min(wanted * GIB, half))


def free_bytes() -> int:
    folder = root()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def entries() -> list[Entry]:
    """Every finished entry, the one longest unused first."""
    found = []
    for manifest in root().glob(f"*/{MANIFEST}"):
        folder = manifest.parent
        if folder.name.startswith("."):
            continue
        try:
            facts = json.loads(manifest.read_text(encoding="utf-8"))
            size = sum(file.stat().st_size for file in folder.iterdir())
            used = manifest.stat().st_mtime
        except (OSError, ValueError):
            continue
        found.append(Entry(folder.name, folder, size, used, _held(folder.name), facts))
    return sorted(found, key=lambda entry: entry.used)


def clear() -> tuple[int, int]:
    """Delete every entry that no worker has open, and what killed builds left; returns (entries, bytes) freed."""
    sweep()
    gone = [entry for entry in entries() if remove(entry)]
    return len(gone), sum(entry.bytes for entry in gone)


def remove(entry: Entry) -> bool:
    """Delete one entry unless it is in use."""
    with _locked(entry.key, wait=False) as mine:
        if not mine:
            return False
        # Renamed first, so that what is half deleted never looks finished.
        doomed = entry.folder.with_name(f".gone-{entry.key}-{os.getpid()}")
        with contextlib.suppress(OSError):
            entry.folder.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)
    return True


def make_room(needed: int) -> bool:
    """Throw out entries, the longest unused first, until `needed` bytes fit in the limit; False where they cannot."""
    sweep()
    limit = limit_bytes()
    if needed > limit:
        return False
    there = entries()
    total = sum(entry.bytes for entry in there)
    for entry in there:
        if total + needed <= limit:
            break
        if remove(entry):
            total -= entry.bytes
    return total + needed <= limit


def sweep() -> None:
    """Delete what killed builds left behind: working folders whose lock nobody holds."""
    for folder in root().glob(".build-*"):
        key = folder.name.removeprefix(".build-").rpartition("-")[0]
        with _locked(key, wait=False) as mine:
            if mine:
                shutil.rmtree(folder, ignore_errors=True)
    for folder in root().glob(".gone-*"):
        shutil.rmtree(folder, ignore_errors=True)


def opened(key: str) -> IO[bytes]:
    """A shared lock on an entry, held until the file is closed: nobody evicts it meanwhile. Marks it as just used."""
    file = _lock_file(key)
    fcntl.flock(file, fcntl.LOCK_SH)
    with contextlib.suppress(OSError):
        os.utime(root() / key / MANIFEST)
    return file


@contextlib.contextmanager
def building(key: str) -> Iterator[None]:
    """The exclusive lock under which one worker builds an entry and the others wait."""
    with _locked(key, wait=True):
        yield


def finished(key: str) -> bool:
    return (root() / key / MANIFEST).is_file()


def _held(key: str) -> bool:
    with _locked(key, wait=False) as mine:
        return not mine


def _lock_file(key: str) -> IO[bytes]:
    folder = root() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    return (folder / key).open("wb")


@contextlib.contextmanager
def _locked(key: str, *, wait: bool) -> Iterator[bool]:
    with _lock_file(key) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True
