"""A stand-in for torch.cuda that records calls and computes nothing: for the logic around GPUs, where there is none."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch


class Stream:
    def __init__(self, name: str) -> None:
        self.name = name

    def wait_stream(self, other: Stream) -> None:
        return None


class FakeCuda:
    """So many GPUs, of which torch would know the UUIDs; `calls` holds what was asked of them in order."""

    def __init__(self, count: int = 2) -> None:
        self.count = count
        self.bf16: bool | dict[int, bool] = True  # or by GPU
        self.calls: list[tuple[Any, ...]] = []
        self.current = Stream("default")
        self.index = 0
        self.capture_fails = False
        self.events = [0.0]  # milliseconds between the events to come, the last one again and again

    def is_available(self) -> bool:
        return True

    def device_count(self) -> int:
        return self.count

    def current_device(self) -> int:
        return self.index

    def set_device(self, device: Any) -> None:
        self.index = device if isinstance(device, int) else device.index
        self.calls.append(("set_device", self.index))

    @contextlib.contextmanager
    def device(self, device: Any) -> Iterator[None]:
        before, self.index = self.index, self.index if device.index is None else device.index
        yield
        self.index = before

    def get_device_properties(self, index: int) -> Any:
        return SimpleNamespace(uuid=f"uuid-{index}")

    def get_device_name(self, device: Any) -> str:
        return "Fake"

    def is_bf16_supported(self, including_emulation: bool = True) -> bool:
        return self.bf16 if isinstance(self.bf16, bool) else self.bf16[self.index]

    def synchronize(self, device: Any = None) -> None:
        self.calls.append(("synchronize", str(device)))

    def empty_cache(self) -> None:
        self.calls.append(("empty_cache",))

    def current_stream(self, device: Any = None) -> Stream:
        return self.current

    def set_stream(self, stream: Stream) -> None:
        self.current = stream

    def Stream(self, device: Any = None) -> Stream:  # noqa: N802
        return Stream("side")

    @contextlib.contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        before, self.current = self.current, stream
        yield
        self.current = before  # as torch: not where an exception passes

    def CUDAGraph(self) -> Any:  # noqa: N802
        return SimpleNamespace(replay=lambda: self.calls.append(("replay",)))

    @contextlib.contextmanager
    def graph(self, graph: Any) -> Iterator[None]:
        before, self.current = self.current, Stream("capture")
        yield
        if self.capture_fails:
            raise RuntimeError("operation not permitted when stream is capturing")
        self.current = before

    def Event(self, enable_timing: bool = False) -> Any:  # noqa: N802
        def elapsed(_other: Any) -> float:
            return self.events.pop(0) if len(self.events) > 1 else self.events[0]

        return SimpleNamespace(
            record=lambda stream: self.calls.append(("record", stream.name)),
            synchronize=lambda: None,
            elapsed_time=elapsed,
        )


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    fake = FakeCuda()
    monkeypatch.setattr(torch, "cuda", fake)
    return fake
