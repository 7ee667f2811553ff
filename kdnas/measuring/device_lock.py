"""One process at a time measures on a device; trainings share it and give it up between steps.

Locks are files of this host. Knows no protocol and no training.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import IO

import torch

from kdnas.measuring import device_waits, devices, gpus
from kdnas.measuring.lock_files import lock_file
from kdnas.system import locks

_shared = threading.local()  # the device's place that this thread has, and how often it was entered


@contextlib.contextmanager
def device_lock(device: torch.device) -> Iterator[None]:
    """Alone on the device: waits until no other process of this host measures, and none that trains takes a step."""
    if _place_of(device) in _places():
        raise RuntimeError(f"a thread that trains on {device} would wait for itself")
    with _file(device, "gate") as gate, _file(device, "room") as room:
        device_waits.take(device.type, gate)
        device_waits.take(device.type, room)
        yield


class Turn:
    """A training's place on the device, shared with other trainings and given up between steps to who measures.

    `with Turn(device) as turn:` around whatever computes there, `turn.step()` after each of its steps. Who waits to
    measure holds the gate, so that no stream of trainings can keep it waiting. Entered again by the same thread, it is
    the same place.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self._place = device, _place_of(device)

    def __enter__(self) -> Turn:
        place = _places().get(self._place)
        if place is None:
            place = _places()[self._place] = _Place(self._device)
            try:
                place.take()
            except BaseException:
                del _places()[self._place]
                place.close()
                raise
        place.entered += 1
        return self

    def step(self) -> None:
        """Let those who wait to measure do so; where nobody waits this costs a try of a lock."""
        _places()[self._place].step()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        place = _places()[self._place]
        place.entered -= 1
        if place.entered:
            return
        del _places()[self._place]
        try:
            if error is None:  # after an error the device may be in no state to be waited for
                devices.synchronise(self._device)
        finally:
            place.close()


class _Place:
    """The two locks of one thread that computes on a device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._gate, self._room = _file(device, "gate"), _file(device, "room")
        self.entered = 0

    def take(self) -> None:
        device_waits.take(self._device.type, self._gate, shared=True)
        device_waits.take(self._device.type, self._room, shared=True)
        locks.drop(self._gate)

    def step(self) -> None:
        if locks.take(self._gate, shared=True, wait=False):
            locks.drop(self._gate)
            return
        devices.synchronise(self._device)  # else what is queued would run into the other's measurement
        locks.drop(self._room)
        self.take()

    def close(self) -> None:
        self._gate.close()
        self._room.close()


def _places() -> dict[str, _Place]:
    found: dict[str, _Place] = _shared.__dict__.setdefault("places", {})
    return found


def _place_of(device: torch.device) -> str:
    """The device's lasting name: a GPU's is its UUID, since CUDA_VISIBLE_DEVICES changes its index."""
    if device.type == "cuda":
        return gpus.name_of(torch.cuda.current_device() if device.index is None else device.index)
    return device.type


def _file(device: torch.device, part: str) -> IO[bytes]:
    return lock_file(f"{_place_of(device)}.{part}")
