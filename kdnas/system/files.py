"""Files that are there whole or not at all. Knows nothing of what is written."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from kdnas.system.errors import KdnasError, UsageError


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file so that at any moment either the old one or the whole new one is under its name.

    A link stays one, and the file that it names is written; a device or a pipe is written into. Raises UsageError where
    the place cannot take it (missing folder, no right, full disk); nothing is left behind.
    """
    path = _target(Path(path))
    if path.is_dir():
        raise UsageError(f"{path} is a folder.", "Name a file in it.")
    if path.exists() and not path.is_file():
        _write_into(path, content.encode() if isinstance(content, str) else content)
        return
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
        sync(path.parent)
    except OSError as error:
        raise _cannot_write(path, error) from None
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Return when a file, or the names in a folder, are on the disk. Raises OSError."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _target(path: Path) -> Path:
    """What a link names in the end, whether it is there or not; any other path as it is."""
    if not path.is_symlink():
        return path
    try:
        return path.resolve()
    except (OSError, RuntimeError):
        raise UsageError(f"{path} is a link that leads nowhere.", "Name another file.") from None


def _write_into(path: Path, content: bytes) -> None:
    """Into a device or a pipe: in its own pace, and with nothing to take back."""
    if not (path.is_char_device() or path.is_fifo()):
        raise UsageError(f"{path} is neither a file nor a pipe.", "Name another one.")
    try:
        with path.open("wb") as file:
            file.write(content)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise _cannot_write(path, error) from None


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


@contextlib.contextmanager
def explained(place: Path) -> Iterator[None]:
    """What a disk can complain of while something is written below `place` becomes a UsageError with the hint."""
    try:
        yield
    except KdnasError:
        raise
    except OSError as error:
        raise _explain(place, error.errno, error.strerror or str(error)) from None
    except Exception as error:
        # safetensors raises an exception type of its own that carries the system's message only as text.
        if type(error).__name__ != "SafetensorError" or "os error" not in str(error):
            raise
        number = int(str(error).rsplit("os error", 1)[1].strip(" )")[:4].split(")")[0])
        raise _explain(place, number, os.strerror(number)) from None


def _explain(place: Path, number: int | None, said: str) -> UsageError:
    if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return UsageError(
            f"{place} could not be written: the disk is full.",
            "Make room there and run the same command again; finished epochs are kept.",
        )
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return UsageError(f"{place} may not be written: {said}.", "Name a place in a folder of your own.")
    return UsageError(f"{place} could not be written: {said}.", "Name another place.")
