"""One process at a time measures on a device; trainings share it and give it up between steps.

Locks are files of this host. Knows no protocol and no training.
"""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from types import TracebackType
from typing import IO

import torch

from kdnas.system import paths
from kdnas.system.errors import UsageError


@contextlib.contextmanager
def device_lock(device: torch.device) -> Iterator[None]:
    """Alone on the device: waits until no other worker of this host measures, and none that trains takes a step."""
    with _lock_file(device, "gate") as gate, _lock_file(device, "room") as room:
        fcntl.flock(gate, fcntl.LOCK_EX)
        fcntl.flock(room, fcntl.LOCK_EX)
        yield


class Turn:
    """A training's place on the device, shared with other trainings and given up between steps to who measures.

    `with Turn(device) as turn:` around the training, `turn.step()` after each of its steps. Who waits to measure holds
    the gate, so that no stream of trainings can keep it waiting.
    """

    def __init__(self, device: torch.device) -> None:
        self._gate, self._room = _lock_file(device, "gate"), _lock_file(device, "room")

    def __enter__(self) -> Turn:
        self._take()
        return self

    def step(self) -> None:
        fcntl.flock(self._room, fcntl.LOCK_UN)
        self._take()

    def _take(self) -> None:
        fcntl.flock(self._gate, fcntl.LOCK_SH)
        fcntl.flock(self._room, fcntl.LOCK_SH)
        fcntl.flock(self._gate, fcntl.LOCK_UN)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._gate.close()
        self._room.close()


def _lock_file(device: torch.device, part: str) -> IO[bytes]:
    folder = paths.state_folder() / "devices"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        name = str(device if device.index is not None or device.type == "cpu" else f"{device.type}:0").replace(":", "-")
        return (folder / f"{name}.{part}").open("ab")
    except OSError as error:
        raise UsageError(
            f"The lock folder {folder} cannot be written: {error.strerror}.", "Set KDNAS_STATE to a folder of yours."
        ) from None
