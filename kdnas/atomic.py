"""Files that are there whole or not at all. Knows nothing of what is written."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

from kdnas.errors import UsageError


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file so that at any moment either the old one or the whole new one is under its name.

    Raises UsageError where the place cannot take it (missing folder, no right, full disk); nothing is left behind.
    """
    path = Path(path)
    if path.is_dir():
        raise UsageError(f"{path} is a folder.", "Name a file in it.")
    temporary: Path | None = None
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        temporary = Path(name)
        with os.fdopen(handle, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~umask())
        temporary.replace(path)
        temporary = None
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise _cannot_write(path, error) from None
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def umask() -> int:
    """The process's umask."""
    # The only portable way to learn the umask is to set it.
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _cannot_write(path: Path, error: OSError) -> UsageError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return UsageError(
            f"{path} could not be written: the disk is full.", "Free some space or name a file elsewhere."
        )
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return UsageError(f"The folder {path.parent} does not exist.", "Make it first, or name another.")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return UsageError(f"{path} may not be written: {error.strerror}.", "Name a file in a folder of your own.")
    return UsageError(f"{path} could not be written: {error.strerror}.", "Name another file.")
