"""How busy the machine is: GPUs through NVML where there are some, else CPU and memory. This host only."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import psutil
from textual.strip import Strip

from kdnas_tui.widgets.lines import Lines, fitted, strip_of

_GIB = 1024**3


@dataclass(frozen=True)
class Reading:
    """One device at one moment."""

    name: str  # gpu0 | cpu
    busy: float  # 0 … 1
    used_gib: float
    total_gib: float

    def __str__(self) -> str:
        """`gpu0 87% 31/139G`"""
        return f"{self.name} {self.busy:.0%} {_gib(self.used_gib, self.total_gib)}/{self.total_gib:.0f}G"


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
                    busy = float("nan")  # parts of a shared GPU tell no utilisation
                found.append(Reading(f"gpu{i}", busy, memory.used / _GIB, memory.total / _GIB))
        return tuple(found)

    def _cpu(self) -> Reading:
        memory = psutil.virtual_memory()
        return Reading("cpu", psutil.cpu_percent() / 100, (memory.total - memory.available) / _GIB, memory.total / _GIB)

    def close(self) -> None:
        if self._nvml is not None:
            with contextlib.suppress(self._nvml.NVMLError):
                self._nvml.nvmlShutdown()


class Devices(Lines):
    """A line for each device: utilisation and memory as bars."""

    PREFIX = "devices"
    COMPONENT_CLASSES = {"devices--bar", "devices--rest", "devices--quiet"}
    DEFAULT_CSS = """
    Devices {
        height: 1;
        background: $background;
        & > .devices--bar { color: $primary; }
        & > .devices--rest { color: $foreground 20%; }
        & > .devices--quiet { color: $foreground 55%; }
    }
    """

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.readings: tuple[Reading, ...] = ()

    def show(self, readings: tuple[Reading, ...]) -> None:
        if len(readings) != len(self.readings):
            self.styles.height = max(1, len(readings))
        self.readings = readings
        self.redraw()

    def line(self, y: int, width: int) -> Strip:
        if y >= len(self.readings):
            return Strip.blank(width, self.base)
        reading = self.readings[y]
        quiet, bar, rest = self.look("quiet"), self.look("bar"), self.look("rest")
        length = max(4, min(16, (width - 28) // 2))
        pieces = [(fitted(reading.name, 5), quiet)]
        figures = (
            (reading.busy, " –  " if reading.busy != reading.busy else f"{reading.busy:4.0%} "),
            (
                reading.used_gib / max(reading.total_gib, 1e-9),
                f" {_gib(reading.used_gib, reading.total_gib)}/{reading.total_gib:.0f} GiB",
            ),
        )
        for share, text in figures:
            full = round(length * max(0.0, min(1.0, share))) if share == share else 0
            pieces += [("▰" * full, bar), ("▱" * (length - full), rest), (f" {text.strip():>5}  ", quiet)]
        return strip_of(pieces)


def _gib(amount: float, total: float) -> str:
    return f"{amount:.1f}" if total < 10 else f"{amount:.0f}"
