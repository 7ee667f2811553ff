"""What the driver says of the GPUs, by NVML: their lasting names, who else is on them, how busy others keep them.

Answers with less where NVML is missing. Chooses nothing and times nothing.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch


@dataclass(frozen=True)
class Gpu:
    """One GPU that torch sees. `name` lasts: its UUID, whatever CUDA_VISIBLE_DEVICES makes its index."""

    index: int
    name: str
    others: int = 0  # processes on it besides this one
    busy: int = 0  # percent of the last moment in which it computed
    used: int = 0  # bytes


def survey() -> list[Gpu]:
    """Every GPU that torch sees."""
    found = []
    for index in range(torch.cuda.device_count()):
        name = name_of(index)
        gpu = Gpu(index, name)
        with _handle(name) as (nvml, handle):
            if handle is not None:
                pids = {process.pid for process in nvml.nvmlDeviceGetComputeRunningProcesses(handle)}
                busy = int(nvml.nvmlDeviceGetUtilizationRates(handle).gpu)
                used = int(nvml.nvmlDeviceGetMemoryInfo(handle).used)
                gpu = Gpu(index, name, len(pids - {os.getpid()}), busy, used)
        found.append(gpu)
    return found


def name_of(index: int) -> str:
    """`GPU-` and its UUID; its index where torch knows none."""
    uuid = getattr(torch.cuda.get_device_properties(index), "uuid", None)
    return f"cuda-{index}" if uuid is None else f"GPU-{uuid}"


def clock(index: int) -> int:
    """NVML's time of the GPU's newest sample, for `busy_with_others`; 0 where it has none."""
    return max((sample.timeStamp for sample in _samples(index, 0)), default=0)


def busy_with_others(index: int, since: int) -> float | None:
    """Share of the time since `clock` in which the GPU computed for other processes. None where nobody can tell: NVML
    is missing, or it does not know this process (in a container processes have other numbers)."""
    shares: dict[int, list[int]] = {}
    for sample in _samples(index, since):
        shares.setdefault(sample.pid, []).append(sample.smUtil)
    if os.getpid() not in shares:
        return None
    return min(1.0, sum(fmean(percent) / 100 for pid, percent in shares.items() if pid != os.getpid()))


def _samples(index: int, since: int) -> list[Any]:
    with _handle(name_of(index)) as (nvml, handle):
        if handle is not None:
            return list(nvml.nvmlDeviceGetProcessUtilization(handle, since))
    return []


@contextlib.contextmanager
def _handle(name: str) -> Iterator[tuple[Any, Any]]:
    """NVML and its handle of a GPU, or None for it. What NVML cannot say of this GPU is left out."""
    try:
        import pynvml as nvml
    except ImportError:
        yield None, None
        return
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        yield nvml, None
        return
    try:
        handle = None
        with contextlib.suppress(nvml.NVMLError):
            handle = nvml.nvmlDeviceGetHandleByUUID(name)
        with contextlib.suppress(nvml.NVMLError):
            yield nvml, handle
    finally:
        nvml.nvmlShutdown()
