"""Memory that runs out: half the rows are tried, nothing is lost or done twice, and what was held is let go."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

from kdnas.measuring import devices, memory
from kdnas.measuring.memory import OutOfMemoryError

CPU = torch.device("cpu")
IDS = torch.arange(20).view(10, 2)


def test_rows_that_do_not_fit_are_halved_and_every_row_comes_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []
    let_go: list[torch.device] = []
    monkeypatch.setattr(devices, "let_go", let_go.append)

    def run(part: torch.Tensor) -> torch.Tensor:
        tried.append(len(part))
        if len(part) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return part * 2

    made = list(memory.halving(IDS, 8, CPU, run))
    assert torch.equal(torch.cat([part for part, _ in made]), IDS)
    assert torch.equal(torch.cat([doubled for _, doubled in made]), IDS * 2)
    assert tried == [8, 4, 2, 2, 2, 2, 2] and len(let_go) == 2


def test_a_single_row_that_does_not_fit_is_one_line_with_a_hint() -> None:
    def run(_part: torch.Tensor) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    with pytest.raises(OutOfMemoryError) as caught:
        list(memory.halving(IDS, 8, CPU, run))
    assert "memory of cpu ran out" in str(caught.value) and caught.value.hint and "\n" not in str(caught.value)
    assert caught.value.__context__ is None  # its traceback would hold the tensors
    with pytest.raises(OutOfMemoryError):
        memory.whole(8, CPU, lambda rows: run(IDS))


def test_other_faults_pass_through() -> None:
    def run(_part: object) -> None:
        raise RuntimeError("a fault")

    with pytest.raises(RuntimeError, match="a fault"):
        list(memory.halving(IDS, 8, CPU, run))
    with pytest.raises(ValueError), memory.one_line(CPU):
        raise ValueError


def test_what_the_failed_try_held_is_gone_before_the_device_gives_memory_back(monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[weakref.ref[torch.Tensor]] = []
    alive: list[bool] = []

    def run(part: torch.Tensor) -> int:
        if len(part) > 5:
            large = torch.zeros(10)
            held.append(weakref.ref(large))
            raise torch.OutOfMemoryError
        return len(part)

    def let_go(_device: torch.device) -> None:
        alive.append(held[-1]() is not None)

    monkeypatch.setattr(devices, "let_go", let_go)
    gc.disable()
    try:
        assert [rows for _, rows in memory.halving(IDS, 10, CPU, run)] == [5, 5]
    finally:
        gc.enable()
    assert alive == [False]


def test_preparing_that_runs_out_of_memory_is_no_fault_of_kdnas() -> None:
    with pytest.raises(OutOfMemoryError, match=r"Give a smaller data\.batch_size"), memory.one_line(CPU):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
