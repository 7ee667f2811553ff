"""Lock files of this host, in the state folder: the kernel drops a lock with its process, so a death leaves none.

Also which processes have which GPU: a file of each, locked for as long as the process lives. Knows no torch.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from kdnas.system import locks, paths
from kdnas.system.errors import UsageError

_claimed: dict[str, IO[bytes]] = {}  # what this process holds until it ends, by the GPU's name


def lock_file(name: str) -> IO[bytes]:
    """The file of that name, made if need be. Raises UsageError where it cannot be written."""
    folder = _folder()
    try:
        return (paths.private_folder(folder) / name).open("ab")
    except OSError as error:
        raise UsageError(
            f"The lock folder {folder} cannot be written: {error.strerror}.", "Set KDNAS_STATE to a folder of yours."
        ) from None


@contextlib.contextmanager
def choosing() -> Iterator[None]:
    """One process of this host at a time chooses a GPU, so that two that begin together see each other."""
    with lock_file("choice") as file:
        locks.take(file)
        yield


def claim(gpu: str) -> None:
    """This process uses the GPU of that name until it ends."""
    if gpu not in _claimed:
        file = lock_file(f"{gpu}.{os.getpid()}-{secrets.token_hex(4)}.claim")
        locks.take(file)
        _claimed[gpu] = file


def own_claims() -> tuple[str, ...]:
    """The GPUs that this process uses."""
    return tuple(_claimed)


def in_use() -> list[str]:
    """The GPUs that the other living processes of this host use, an entry each. Files of dead ones are removed."""
    ours = {file.name for file in _claimed.values()}
    found = []
    for path in sorted(_folder().glob("*.claim")):
        if str(path) not in ours and _living(path):
            found.append(path.name.partition(".")[0])
    return found


def _living(path: Path) -> bool:
    with contextlib.suppress(OSError), path.open("rb") as file:
        if not locks.take(file, wait=False):
            return True
        path.unlink(missing_ok=True)
    return False


def _folder() -> Path:
    return paths.state_folder() / "devices"
