"""Where the workers of one machine go: which GPU each takes, and which cores it keeps to.

A pure function of what the machine has and what is wanted. Starts no process, and loads torch only to count GPUs.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Final, Literal

from kdnas.system.errors import UsageError

MOST: Final = 256  # workers that one command starts
GPUS: Final = "gpus"
CORES = "KDNAS_CORES"  # tells a worker's process its cores: numbers with commas between them
THREADS = "OMP_NUM_THREADS"

Count = int | Literal["gpus"]


@dataclass(frozen=True)
class Machine:
    """What a machine offers to this process."""

    cores: tuple[int, ...]  # by the system's numbers
    gpus: int = 0  # that torch sees


@dataclass(frozen=True)
class Seat:
    """Where one worker runs."""

    device: str | None  # as `--device` says it; None for the study's own
    threads: int
    cores: tuple[int, ...] = ()  # it keeps to these; to none in particular where there are none

    def into(self, environment: MutableMapping[str, str]) -> None:
        """Writes the seat into the environment of a process. Threads that the user has chosen stay."""
        environment.setdefault(THREADS, str(self.threads))
        environment.pop(CORES, None)
        if self.cores:
            environment[CORES] = ",".join(map(str, self.cores))


def seats(
    machine: Machine, workers: Count, *, per_gpu: int = 1, device: str | None = None, least: int = 1
) -> tuple[Seat, ...]:
    """A seat for each worker. `workers` is their number, or `gpus` for `per_gpu` on each GPU.

    All get equally many cores, so that all compute alike: no core is shared, unless there are fewer than `least` for
    each. A worker alone may use every core. Counted workers on `auto` or `cuda` take the least used GPU as they begin.
    Raises UsageError where there is no GPU, or `device` is no set of GPUs.
    """
    if workers == GPUS:
        if device not in (None, "auto", "cuda"):
            raise UsageError(
                f"One worker for each GPU, and the device {device}, were both asked for.",
                "Give --device cuda with --workers gpus, or a number of workers.",
            )
        if not machine.gpus:
            raise UsageError("There is no GPU to place workers on: torch finds none.", "Give a number of --workers.")
        devices: list[str | None] = [f"cuda:{index}" for index in range(machine.gpus) for _ in range(per_gpu)]
    else:
        devices = [device] * workers
    if not 1 <= len(devices) <= MOST:
        raise UsageError(f"{len(devices)} workers cannot be started.", f"Give 1 to {MOST}.")
    count, number = len(machine.cores), len(devices)
    if number == 1:
        return (Seat(devices[0], count),)
    each = min(count, max(1, least, count // number))
    apart = number * each <= count
    found = []
    for nth, name in enumerate(devices):
        first = nth * each if apart else nth * count // number
        found.append(Seat(name, each, tuple(machine.cores[(first + i) % count] for i in range(each))))
    return tuple(found)


def this_machine(*, gpus: bool = False) -> Machine:
    """The cores that this process may use and, with `gpus`, how many GPUs torch sees."""
    if hasattr(os, "sched_getaffinity"):
        cores = tuple(sorted(os.sched_getaffinity(0)))
    else:
        cores = tuple(range(os.cpu_count() or 1))
    if not gpus:
        return Machine(cores)
    import torch

    return Machine(cores, torch.cuda.device_count() if torch.cuda.is_available() else 0)


def here(workers: Count, *, per_gpu: int = 1, device: str | None = None, least: int = 1) -> tuple[Seat, ...]:
    """`seats` of this machine. Whoever has set OMP_NUM_THREADS gets at least so many cores for each worker."""
    given = os.environ.get(THREADS, "")
    threads = int(given) if given.isdigit() else 1
    machine = this_machine(gpus=workers == GPUS)
    return seats(machine, workers, per_gpu=per_gpu, device=device, least=max(least, threads))


def keep_to_own_cores() -> None:
    """Keeps this process to the cores of its seat, before its threads begin. Where the system knows no such thing, or
    the cores are gone by now, it goes on with all."""
    given = os.environ.get(CORES, "")
    if given and hasattr(os, "sched_setaffinity"):
        with contextlib.suppress(OSError, ValueError):
            os.sched_setaffinity(0, [int(core) for core in given.split(",")])
