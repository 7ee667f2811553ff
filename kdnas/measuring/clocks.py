"""How long one pass takes on each kind of device, and how much of it the machine's other processes took.

Decides nothing from it. Knows no protocol.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from kdnas.measuring import gpus
from kdnas.measuring.passes import Once


@dataclass(frozen=True)
class Pass:
    """One timed call, milliseconds; `cpu` is what each thread that computed had of a core."""

    wall: float
    cpu: float


class Crowd:
    """Who else computes on a GPU, from now on."""

    def __init__(self, device: torch.device) -> None:
        self._index = (device.index or 0) if device.type == "cuda" else None
        self._since = 0 if self._index is None else gpus.clock(self._index)

    def busy(self) -> float | None:
        """Share of the time in which the GPU worked for other processes; None on a CPU and where nobody can tell."""
        return None if self._index is None else gpus.busy_with_others(self._index, self._since)


def clock_of(device: torch.device) -> Callable[[Once], Pass]:
    """What times a pass there."""
    if device.type == "cuda":
        return _on_gpu(device)
    return _on_mps if device.type == "mps" else _on_cpu


def _on_gpu(device: torch.device) -> Callable[[Once], Pass]:
    """By the GPU's own events. The thread that launches kernels waits without sleeping, so that its share of a core is
    one unless others take the core, and launches then come late."""

    def clock(once: Once) -> Pass:
        stream = torch.cuda.current_stream(device)
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        cpu, wall = time.thread_time_ns(), time.perf_counter_ns()
        begin.record(stream)
        once()
        end.record(stream)
        end.synchronize()
        cpu, wall = time.thread_time_ns() - cpu, time.perf_counter_ns() - wall
        elapsed = begin.elapsed_time(end)
        return Pass(elapsed, elapsed * min(1.0, cpu / wall))

    return clock


def _on_mps(once: Once) -> Pass:
    torch.mps.synchronize()
    begin = time.perf_counter_ns()
    once()
    torch.mps.synchronize()
    wall = (time.perf_counter_ns() - begin) / 1e6
    return Pass(wall, wall)


def _on_cpu(once: Once) -> Pass:
    return _by(time.thread_time_ns, once)


def by_own_threads(threads: int) -> Callable[[Once], Pass]:
    """A clock for passes that so many other threads of this process compute, while the one that asks sleeps."""

    def clock(once: Once) -> Pass:
        made = _by(time.process_time_ns, once)
        return Pass(made.wall, made.cpu / threads)

    return clock


def _by(cpu_time_ns: Callable[[], int], once: Once) -> Pass:
    cpu, wall = cpu_time_ns(), time.perf_counter_ns()
    once()
    wall = time.perf_counter_ns() - wall
    return Pass(wall / 1e6, (cpu_time_ns() - cpu) / 1e6)
