"""Folders that are there whole or not at all. Knows nothing of what is written into them."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from kdnas.system.errors import UsageError
from kdnas.system.files import explained, sync, umask

MODEL_FACTS = "kdnas.json"  # what a model folder of ours says of itself


def partial_of(output: Path) -> Path:
    """Where the checkpoints of an unfinished folder lie: beside it, on the same file system."""
    return output.with_name(output.name + ".partial")


def require_vacant(output: Path) -> None:
    """Raise UsageError where something stands under that name, or where a folder could not be made there."""
    if output.is_dir():
        if (output / MODEL_FACTS).is_file():
            raise UsageError(
                f"{output} already holds another model that kdnas wrote.", "Name another folder, or remove that one."
            )
        if any(output.iterdir()):
            raise UsageError(f"The folder {output} is not empty.", "Name a folder that does not exist yet.")
    elif output.exists() or output.is_symlink():
        raise UsageError(f"{output} is a file.", "Name a folder that does not exist yet.")
    parent = output.parent
    if not parent.is_dir():
        raise UsageError(f"The folder {parent} does not exist.", "Make it first, or name another.")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise UsageError(f"You may not write in {parent}.", "Name a place in a folder of your own.")


@contextlib.contextmanager
def whole(output: Path) -> Iterator[Path]:
    """A folder to fill, beside the checkpoints; it gets its final name when the block ends well, and only then."""
    partial = partial_of(output)
    work = partial / "folder"
    with explained(output):
        partial.mkdir(exist_ok=True)
        shutil.rmtree(work, ignore_errors=True)  # what a killed attempt left
        work.mkdir()
        try:
            yield work
            for path in [*work.rglob("*"), work]:
                # Some writers make files for their owner alone; a model folder is for whom the umask says.
                path.chmod((0o777 if path.is_dir() else 0o666) & ~umask())
                sync(path)
            work.rename(output)
            sync(output.parent)
        except BaseException:
            shutil.rmtree(work, ignore_errors=True)
            raise
