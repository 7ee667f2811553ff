"""Tensors that are worked out once and kept on the disk: whoever asks next, in this process or another, reads them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from kdnas.system import disk_cache, paths
from kdnas.system.files import explained


def computed_once(path: Path, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors of a safetensors file, made where there is none. Raises UsageError where it cannot be written.

    Two processes that make it at once write the same; the later one's file stays.
    """
    if path.is_file():
        with contextlib.suppress(FileNotFoundError):  # thrown out a moment ago
            found = load_file(path)
            disk_cache.used(path)
            return found
    tensors = make()
    part = path.with_suffix(f".{os.getpid()}")
    with explained(path):
        paths.own_folder(path.parent)
        try:
            save_file(tensors, part)
            found = load_file(part)  # as whoever asks next will get them
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    disk_cache.trim()
    return found
