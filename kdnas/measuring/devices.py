"""Devices: which one a name means, what they are called, how much memory was used, how torch is set up on them.

Trains nothing and times nothing.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import torch

from kdnas.measuring import devices, gpus, lock_files
from kdnas.measuring.gpus import Gpu
from kdnas.system.errors import UsageError


class PeakMemory:
    """The most memory in use since it was made: of the device where that is a GPU, else of the process."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._resettable = False
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        else:
            try:
                Path("/proc/self/clear_refs").write_text("5")  # Linux: begin the high-water mark anew
                self._resettable = True
            except OSError:
                pass

    def mib(self) -> float:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 2**20
        if self._resettable:
            found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
            if found:
                return int(found[1]) / 1024
        return psutil.Process().memory_info().rss / 2**20


# ---------------------------------------------------------------- which one


def resolve_device(name: str) -> torch.device:
    """The device that a spec names, made this process's own; `auto` takes a GPU where there is one.

    Of several GPUs, `auto` and `cuda` take the least used one, and the same one whenever this process asks again.
    Raises UsageError for a device that is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if re.fullmatch(r"cpu|mps|cuda(:\d{1,3})?", name, re.ASCII) is None:
        raise UsageError(f"There is no device {name!r}.", "Give auto, cpu, cuda, cuda:N or mps.")
    if name.startswith("cuda"):
        return _own_gpu(_index(name))
    if name == "mps" and not torch.backends.mps.is_available():
        raise UsageError("The device mps is not there.", "Give --device cpu or auto.")
    return torch.device(name)


def device_beside(name: str) -> torch.device:
    """A device that a spec names beside the process's own, which stays the one that torch works on. Others see that
    this process uses it. Raises UsageError for a device that is not there."""
    index = _index(name) if name.startswith("cuda") else None
    if index is None:
        return resolve_device(name)
    lock_files.claim(gpus.name_of(index))
    return torch.device("cuda", index)


def _index(name: str) -> int | None:
    """The number in `cuda:N`, None for `cuda`. Raises UsageError where torch finds no such GPU."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        raise UsageError(f"The device {name} is not there: torch finds no GPU.", "Give --device cpu or auto.")
    index = int(name.split(":")[1]) if ":" in name else None
    if index is not None and index >= count:
        raise UsageError(f"The device {name} is not there: torch finds {count} GPU(s).", "Count from cuda:0.")
    return index


def _own_gpu(index: int | None) -> torch.device:
    """The GPU of that index, else the least used one: claimed, and the one on which torch works from now on."""
    with lock_files.choosing():
        if index is None:
            own = lock_files.own_claims()
            there = gpus.survey()
            mine = [gpu for gpu in there if gpu.name in own]
            index = (mine[0] if mine else least_used(there, lock_files.in_use())).index
        lock_files.claim(gpus.name_of(index))
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def least_used(there: Sequence[Gpu], in_use: Sequence[str]) -> Gpu:
    """The GPU with the fewest processes; of several, the idlest, the emptiest, the first.

    `in_use` names the GPU of each process of kdnas on this host, which NVML may not see yet, or under another number:
    of the two counts the larger holds.
    """
    return min(there, key=lambda gpu: (max(gpu.others, in_use.count(gpu.name)), gpu.busy, gpu.used, gpu.index))


# ---------------------------------------------------------------- what it is


def device_name(device: torch.device) -> str:
    """The hardware in words, at most 120 characters: what a remembered figure holds for."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    elif device.type == "mps":
        name = f"{platform.processor() or platform.machine()} GPU"
    else:
        name = _processor()
    return f"{device.type}: {name}"[:120]


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def autocast(device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=devices.autocasts(device))


def autocasts(device: torch.device) -> bool:
    """Whether training and teacher run in bf16 there."""
    if device.type != "cuda":
        return False
    with torch.cuda.device(device):  # torch answers for the current one
        return torch.cuda.is_bf16_supported(including_emulation=False)


def numerics(device: torch.device) -> str:
    """The precision in which a frozen model answers there: part of the key of whatever it said."""
    return "float32, autocast to bfloat16" if devices.autocasts(device) else "float32"


# ---------------------------------------------------------------- how it is used


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what it was given; a CPU has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def let_go(device: torch.device) -> None:
    """Give memory that no tensor needs back to the device."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def set_up_torch() -> None:
    """Threads as the environment says, else all cores; results that a seed repeats."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(int(asked) if asked.isdigit() and int(asked) else cores)
    torch.set_deterministic_debug_mode("warn")  # the plain function imports the whole compiler first, for a second
    # Deterministic torch would fill every new tensor, also in timed passes; nothing here reads one before.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what deterministic matrix products on a GPU need
    warnings.filterwarnings("ignore", message=".*does not have a deterministic implementation.*")


@contextlib.contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Inside, torch's operations on the CPU take so many threads; as many as before where that is None."""
    before = torch.get_num_threads()
    torch.set_num_threads(before if count is None else count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def as_studies() -> Iterator[None]:
    """Inside, torch is set up as in a study's process; afterwards it is as it was: for what programs of other people
    call, too."""
    count, mode = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    filled = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    workspace = os.environ.get("CUBLAS_WORKSPACE_CONFIG")
    with warnings.catch_warnings():
        set_up_torch()
        try:
            yield
        finally:
            torch.set_num_threads(count)
            torch.set_deterministic_debug_mode(mode)
            torch.utils.deterministic.fill_uninitialized_memory = filled  # type: ignore[attr-defined]
            if workspace is None:
                os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)
