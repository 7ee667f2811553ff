"""All that kdnas works out once and caches on the disk, under one limit: what lies there, what is thrown out first.

Teachers' outputs, taught classifiers, tokens, unpacked GGUF files, scores. Fetched models and texts are not among them.
What a process has open is never thrown out. Knows nothing of what the entries hold, and imports nothing heavy.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from kdnas.system import locks, paths
from kdnas.system.errors import UsageError

GIB = 2**30
DEFAULT_LIMIT_GIB = 20.0
FOLDERS = {  # kind → the file that makes a folder of it whole, and whose time says when it was used
    "teacher": "manifest.json",
    "classifiers": "finetune.json",
    "tokens": "ends.npy",
    "gguf": "kdnas-gguf.json",
}
FILES = (
    "teacher/importance/*.safetensors",
    "teacher/moments/*.safetensors",
    "teacher/embeddings/*.safetensors",
    "teacher/blocks/*.safetensors",
    "teacher/repeats/*.safetensors",
    "classifiers/logits/*.safetensors",
    "classifiers/word2vec/*.safetensors",
    "causal/*.json",
    "causal/*.safetensors",
    "scores/*.json",
)
MARK = "rows"  # of a folder that is being built: how many rows of it stay, whatever happens
UNFINISHED = "classifiers/*.partial"  # checkpoints of trainings that were interrupted: the next call goes on from them

YOUNG_S = 60.0  # what was made so recently may not be locked yet
HALF_WRITTEN_S = 3600.0  # a file that nobody renamed for so long was left by a death
GIVEN_UP_S = 7 * 86_400.0  # a training that nobody went on with for so long

_held: dict[str, IO[bytes]] = {}  # locks on what this process uses until it ends, by name


@dataclass(frozen=True)
class Item:
    """One entry, a folder or a file. `name` is that of its lock, None for a file, which is read at once."""

    path: Path
    name: str | None
    bytes: int
    used: float  # UTC seconds

    @property
    def kind(self) -> str:
        """Where it lies in the cache: teacher, teacher/importance, scores …"""
        return self.path.parent.relative_to(paths.cache_folder()).as_posix()

    @property
    def in_use(self) -> bool:
        if self.name is None:
            return False
        with locked(self.name, wait=False) as mine:
            return not mine


def items() -> list[Item]:
    """Every whole entry, the one longest unused first."""
    root, found = paths.cache_folder(), []
    for kind, mark in FOLDERS.items():
        for marker in root.glob(f"{kind}/*/{mark}"):
            folder = marker.parent
            if not folder.name.startswith("."):
                with contextlib.suppress(OSError):
                    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
                    found.append(Item(folder, lock_name(folder), size, marker.stat().st_mtime))
    for pattern in FILES:
        for file in root.glob(pattern):
            with contextlib.suppress(OSError):
                facts = file.stat()
                found.append(Item(file, None, facts.st_size, facts.st_mtime))
    return sorted(found, key=lambda item: item.used)


def limit_bytes() -> int:
    """The most that all entries may take: KDNAS_CACHE_GIB (20), and never more than half of what is free or ours."""
    given = os.environ.get("KDNAS_CACHE_GIB", "")
    try:
        wanted = float(given) if given else DEFAULT_LIMIT_GIB
        if not 0 <= wanted < 2**20:
            raise ValueError
    except ValueError:
        raise UsageError(f"KDNAS_CACHE_GIB = {given!r} is no size.", "Give a number of GiB, 0 for no cache.") from None
    half = (_free_bytes() + sum(item.bytes for item in items())) // 2
    return int(min(wanted * GIB, half))


def make_room(needed: int) -> bool:
    """Throw out entries, the longest unused first, until `needed` bytes fit in the limit; False where they cannot."""
    sweep()
    limit = limit_bytes()
    if needed > limit:
        return False
    there = items()
    total = sum(item.bytes for item in there)
    for item in there:
        if total + needed <= limit:
            break
        if remove(item):
            total -= item.bytes
    return total + needed <= limit


def trim() -> None:
    """Throw out what is over the limit and not in use, the longest unused first."""
    make_room(0)


def clear() -> tuple[int, int]:
    """Delete every entry that no process has open, and what is unfinished; returns (entries, bytes) freed."""
    sweep(given_up_s=0.0)
    gone = [item for item in items() if remove(item)]
    return len(gone), sum(item.bytes for item in gone)


def sweep(given_up_s: float = GIVEN_UP_S) -> None:
    """Delete what killed processes left behind, and trainings and teachers' outputs that nobody went on with for so
    many seconds."""
    root, now = paths.cache_folder(), time.time()
    for kind in FOLDERS:
        for folder in root.glob(f"{kind}/.*"):
            with contextlib.suppress(OSError):
                if folder.name.startswith(".gone-"):
                    shutil.rmtree(folder, ignore_errors=True)
                elif folder.name.startswith(".build-"):
                    _sweep_build(folder, now - given_up_s)
                elif folder.is_dir() and now - folder.stat().st_mtime > YOUNG_S:
                    _remove_unlocked(folder, folder)
    for folder in root.glob(UNFINISHED):
        with contextlib.suppress(OSError, ValueError):
            newest = max(file.stat().st_mtime for file in folder.rglob("*"))
            if now - newest >= given_up_s:
                _remove_unlocked(folder, folder / "lock")
    for place in {(root / pattern).parent for pattern in FILES}:
        for file in [*place.glob(".*.part"), *place.glob("*.[0-9]*")]:
            with contextlib.suppress(OSError):
                if now - file.stat().st_mtime > HALF_WRITTEN_S:
                    file.unlink()


def _sweep_build(folder: Path, since: float) -> None:
    """Delete a folder that nobody builds, unless rows of it were marked later than `since`: the next call goes on."""
    with contextlib.suppress(FileNotFoundError):
        if (folder / MARK).stat().st_mtime > since:
            return
    with locked(folder.name.removeprefix(".build-").partition("-")[0], wait=False) as mine:
        if mine:
            shutil.rmtree(folder, ignore_errors=True)


def _remove_unlocked(folder: Path, lock: Path) -> None:
    """Delete a folder unless a living process holds its lock, a file of it or itself."""
    file = os.open(lock, os.O_RDONLY) if lock.exists() else None
    try:
        if file is None or locks.take(file, wait=False):
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        if file is not None:
            os.close(file)


def remove(item: Item) -> bool:
    """Delete one entry unless it is in use."""
    if item.name is None:
        item.path.unlink(missing_ok=True)
        return True
    with locked(item.name, wait=False) as mine:
        if not mine:
            return False
        # Renamed first, so that what is half deleted never looks whole.
        doomed = item.path.with_name(f".gone-{item.path.name}-{os.getpid()}")
        with contextlib.suppress(OSError):
            item.path.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)
    return True


def kept_while_used(folder: Path, make: Callable[[], None]) -> None:
    """Make the entry `folder` where there is none, and have it stay until this process ends."""
    name, marker = lock_name(folder), folder / FOLDERS[folder.parent.name]
    made = False
    while not _hold(name, marker):
        make()
        made = True
    if made:
        trim()


@contextlib.contextmanager
def filled(folder: Path) -> Iterator[Path]:
    """A working folder that becomes the entry `folder` when the block ends well, unless another process was quicker.
    It is locked meanwhile; a death leaves it unlocked for `sweep`."""
    kind = folder.parent.name
    paths.own_folder(folder.parent)
    with tempfile.TemporaryDirectory(prefix=f".{kind}-", dir=folder.parent) as scratch:
        lock = os.open(scratch, os.O_RDONLY)
        try:
            locks.take(lock)
            made = Path(scratch) / "made"
            made.mkdir()
            yield made
            try:
                made.rename(folder)
            except OSError:  # another process was quicker, or something unfinished is in the way
                if not (folder / FOLDERS[kind]).is_file():
                    shutil.rmtree(folder, ignore_errors=True)
                    made.rename(folder)
        finally:
            os.close(lock)


def used(path: Path) -> None:
    """Mark an entry's file as just used."""
    with contextlib.suppress(OSError):
        os.utime(path)


def _hold(name: str, marker: Path) -> bool:
    """Lock an entry for as long as this process lives; False where it is not there."""
    if name not in _held:
        file = lock_file(name)
        locks.take(file, shared=True)
        _held[name] = file
    if not marker.is_file():
        _held.pop(name).close()
        return False
    used(marker)
    return True


# ---------------------------------------------------------------- locks


def lock_name(folder: Path) -> str:
    """Of an entry's lock: the key alone for a teacher's, as it always was."""
    kind = folder.parent.name
    return folder.name if kind == "teacher" else f"{kind.removesuffix('s')}-{folder.name}"


def lock_file(name: str) -> IO[bytes]:
    folder = paths.cache_folder() / "teacher" / "locks"
    return (paths.own_folder(folder) / name).open("wb")


@contextlib.contextmanager
def locked(name: str, *, wait: bool) -> Iterator[bool]:
    """The exclusive lock on an entry; False where others have it and `wait` is not wanted."""
    with lock_file(name) as file:
        yield locks.take(file, wait=wait)


def _free_bytes() -> int:
    folder = paths.cache_folder()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
