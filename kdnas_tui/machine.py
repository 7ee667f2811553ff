"""How busy this machine is: GPUs through NVML where there are some, else CPU and memory. Draws nothing."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import psutil

_GIB = 1024**3


@dataclass(frozen=True)
class Reading:
    """One device at one moment."""

    name: str  # gpu0 | cpu
    busy: float  # 0 … 1
    used_gib: float
    total_gib: float
    celsius: float | None = None  # None where it is not reported

    def __str__(self) -> str:
        """`gpu0 87% 31/139G`"""
        return f"{self.name} {self.busy:.0%} {gib(self.used_gib, self.total_gib)}/{self.total_gib:.0f}G"


class Probe:
    """Reads the devices; call it from a thread, once a second or less. Needs no GPU and no driver."""

    def __init__(self) -> None:
        self._nvml: Any = None
        self._handles: list[Any] = []
        with contextlib.suppress(Exception):  # no package, no driver, no device: then there is no GPU to show
            import pynvml

            pynvml.nvmlInit()
            self._handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
            self._nvml = pynvml
        psutil.cpu_percent()  # the first call only marks a moment

    def read(self) -> tuple[Reading, ...]:
        """The GPUs, or the CPU where there is none."""
        return self._gpus() or (self._cpu(),)

    def _gpus(self) -> tuple[Reading, ...]:
        found = []
        for i, handle in enumerate(self._handles):
            with contextlib.suppress(self._nvml.NVMLError):  # a lost or forbidden device is left out
                memory = self._nvml.nvmlDeviceGetMemoryInfo(handle)
                try:
                    busy = self._nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100
                except self._nvml.NVMLError:
                    busy = float("nan")  # a part of a shared GPU reports no utilisation
                heat: float | None = None
                with contextlib.suppress(self._nvml.NVMLError):
                    heat = float(self._nvml.nvmlDeviceGetTemperature(handle, self._nvml.NVML_TEMPERATURE_GPU))
                found.append(Reading(f"gpu{i}", busy, memory.used / _GIB, memory.total / _GIB, heat))
        return tuple(found)

    def _cpu(self) -> Reading:
        memory = psutil.virtual_memory()
        return Reading("cpu", psutil.cpu_percent() / 100, (memory.total - memory.available) / _GIB, memory.total / _GIB)

    def close(self) -> None:
        if self._nvml is not None:
            with contextlib.suppress(self._nvml.NVMLError):
                self._nvml.nvmlShutdown()


def gib(amount: float, total: float) -> str:
    return f"{amount:.1f}" if total < 10 else f"{amount:.0f}"
