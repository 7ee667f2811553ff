"""The caches of teachers' outputs: what lies there, how an entry is opened, built once and left whole.

An entry is a folder that was renamed into place when it was complete. The limit, and what is thrown out first, are
those of system/disk_cache.py. Knows nothing of tensors; imports nothing heavy, so that `kdnas cache` answers at once.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from kdnas.system import disk_cache, locks, paths
from kdnas.system.errors import KdnasError
from kdnas.system.files import write_atomically

MANIFEST = disk_cache.FOLDERS["teacher"]
GIB = disk_cache.GIB
KEPT_S = 60.0  # seconds between two marks of what is built so far


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


def entries() -> list[Entry]:
    """Every finished entry, the one longest unused first."""
    found = []
    for item in disk_cache.items():
        if item.path.parent != root() or item.name is None:
            continue
        with contextlib.suppress(OSError, ValueError):
            key = item.path.name
            found.append(Entry(key, item.path, item.bytes, item.used, _in_use(key), manifest(key)))
    return found


def remove(entry: Entry) -> bool:
    """Delete one entry unless it is in use."""
    return disk_cache.remove(disk_cache.Item(entry.folder, entry.key, entry.bytes, entry.used))


def opened(key: str) -> IO[bytes] | None:
    """A shared lock on an entry, held until the file is closed: nobody throws it out meanwhile. Marks it as just used.
    None where there is no such entry."""
    file = disk_cache.lock_file(key)
    locks.take(file, shared=True)
    if not finished(key):
        file.close()
        return None
    disk_cache.used(root() / key / MANIFEST)
    return file


def opened_or_built(key: str, build: Callable[[], None]) -> IO[bytes]:
    """The lock of `opened`, on an entry that is built first where there is none.

    Between the building and the opening another process may throw the entry out: then it is built again.
    """
    while True:
        lock = opened(key)
        if lock is not None:
            return lock
        with building(key):
            if not finished(key):
                build()


@contextlib.contextmanager
def building(key: str) -> Iterator[None]:
    """The exclusive lock under which one worker builds an entry and the others wait."""
    with disk_cache.locked(key, wait=True):
        yield


class Build:
    """An entry under way: rows of one size in each of its files, taken up where an earlier attempt was left."""

    def __init__(self, folder: Path) -> None:
        """`folder` is there; what an earlier attempt marked in it counts."""
        self.folder, self.done = folder, 0
        self._files: list[IO[bytes]] = []
        self._marked = time.monotonic()
        with contextlib.suppress(OSError, ValueError):
            self.done = int((folder / disk_cache.MARK).read_text(encoding="utf-8"))

    def file(self, name: str, row_bytes: int) -> IO[bytes]:
        """A file of rows, open behind the `done` ones, until the build ends. Rows without a mark are cut off; they may
        not be whole."""
        path, there = self.folder / name, self.done * row_bytes
        size = path.stat().st_size if path.exists() else 0
        if size < there:
            raise OSError(errno.EIO, f"{name} lost what was written, and is begun anew next time")
        file = path.open("r+b" if size else "w+b")
        self._files.append(file)
        file.truncate(there)
        file.seek(there)
        return file

    def wrote(self, rows: int) -> None:
        """So many more rows are in every file."""
        self.done += rows
        if time.monotonic() - self._marked >= KEPT_S:
            self.mark()

    def mark(self) -> None:
        """What is written so far stays, whatever happens next."""
        for file in self._files:
            on_disk(file)
        write_atomically(self.folder / disk_cache.MARK, f"{self.done}\n")
        self._marked = time.monotonic()

    def close(self) -> None:
        for file in self._files:
            file.close()


@contextlib.contextmanager
def written(key: str, facts: dict[str, Any]) -> Iterator[Build]:
    """What becomes the entry when all is in it; nothing that looks finished is left before. Rows that an interrupt or a
    death leaves are taken up by whoever builds the entry next, who holds its lock (`building`).

    `facts` is the manifest, completed by the time that the block ends. Raises KdnasError where the disk refuses."""
    work = root() / f".build-{key}"
    try:
        paths.own_folder(work)
        build = Build(work)
        try:
            yield build
            for file in build._files:
                on_disk(file)
        except OSError:
            raise
        except BaseException:
            if build.done:
                build.mark()
            else:
                shutil.rmtree(work, ignore_errors=True)
            raise
        finally:
            build.close()
        (work / disk_cache.MARK).unlink(missing_ok=True)
        (work / MANIFEST).write_text(json.dumps(facts, indent=1), encoding="utf-8")
        work.rename(root() / key)
    except OSError as error:
        shutil.rmtree(work, ignore_errors=True)
        raise unwritable(error) from None


def manifest(key: str) -> dict[str, Any]:
    """What was written of an entry that is there."""
    found: dict[str, Any] = json.loads((root() / key / MANIFEST).read_text(encoding="utf-8"))
    return found


def on_disk(file: IO[bytes]) -> None:
    """Return when all that was written to an open file is on the disk."""
    file.flush()
    os.fsync(file.fileno())


def unwritable(error: OSError) -> KdnasError:
    return KdnasError(
        f"The teacher cache in {root()} cannot be written: {error.strerror}.",
        "Free some space, or set KDNAS_CACHE to a folder with room.",
    )


def finished(key: str) -> bool:
    return (root() / key / MANIFEST).is_file()


def _in_use(key: str) -> bool:
    with disk_cache.locked(key, wait=False) as mine:
        return not mine
