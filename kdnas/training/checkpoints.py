"""Checkpoints of one long training as safetensors files: after a death at any moment the last one is whole.

Two files at a time: the training's last state, after an epoch or within one, and the student as it was after its best
epoch. The history of epochs stands in the state's header, as JSON. Knows no recipe.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from kdnas.system import locks
from kdnas.system.errors import UsageError
from kdnas.system.files import explained, sync

FORMAT = "kdnas-checkpoint-1"
WITHIN = "kdnas-checkpoint-2"  # of a state within an epoch, which an older kdnas would take for one after it


@dataclass(frozen=True)
class Saved:
    """What a checkpoint holds: the training's own state, and what its caller kept beside it."""

    tensors: Mapping[str, torch.Tensor]
    facts: Mapping[str, Any]
    kept: Mapping[str, Any]


@contextlib.contextmanager
def alone(folder: Path, what: str) -> Iterator[None]:
    """Held while one process works in `folder`. Raises UsageError where another one does."""
    with explained(folder):
        folder.mkdir(exist_ok=True)
        lock = locks.opened(folder / "lock")
    try:
        if not locks.take(lock, wait=False):
            raise UsageError(f"Another process is writing {what}.", "Wait for it, or name another folder.")
        yield
    finally:
        os.close(lock)


def write(
    folder: Path,
    epoch: int,
    tensors: Mapping[str, torch.Tensor],
    facts: Mapping[str, Any],
    kept: Mapping[str, Any],
    best: Mapping[str, torch.Tensor] | None = None,
    step: int = 0,
) -> None:
    """The state after `epoch` and `step` steps of the next one, and the student's tensors where this epoch is the best
    one so far."""
    if best is not None:
        _write(folder / f"best-{epoch:05d}.safetensors", best, {"format": FORMAT})
    header = {"format": WITHIN if step else FORMAT, "facts": json.dumps(facts), "kept": json.dumps(kept)}
    state = f"state-{epoch:05d}-{step:08d}.safetensors" if step else f"state-{epoch:05d}.safetensors"
    _write(folder / state, tensors, header)
    # Older files go only when the new ones are whole; a death in between leaves one more than needed.
    keep = {state, f"best-{kept['best']:05d}.safetensors"}
    for path in folder.glob("*.safetensors*"):
        if path.name not in keep:
            path.unlink(missing_ok=True)


def _write(path: Path, tensors: Mapping[str, torch.Tensor], header: Mapping[str, str]) -> None:
    """safetensors under a temporary name, renamed when it is on the disk. Shared tensors are written as copies."""
    temporary = path.with_suffix(".safetensors.part")
    whole = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    with explained(path):
        try:
            save_file(whole, temporary, metadata=dict(header))
            sync(temporary)
            temporary.replace(path)
            sync(path.parent)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def last(folder: Path) -> Saved | None:
    """The newest state in `folder`, if there is one. Raises UsageError for a file that is not ours."""
    states = sorted(folder.glob("state-*.safetensors"), key=lambda path: path.stem)
    if not states:
        return None
    try:
        with safe_open(states[-1], "pt") as file:
            header = file.metadata() or {}
        if header.get("format") not in (FORMAT, WITHIN):
            raise ValueError("of another format")
        return Saved(load_file(states[-1]), json.loads(header["facts"]), json.loads(header["kept"]))
    except Exception as error:
        raise UsageError(
            f"The checkpoint {states[-1]} cannot be read: {error}.", f"Remove {folder} to begin afresh."
        ) from None


def best(folder: Path, epoch: int) -> dict[str, torch.Tensor]:
    """The student's tensors after its best epoch."""
    return load_file(folder / f"best-{epoch:05d}.safetensors")
