"""The logic around GPUs, on recorded calls: which one is taken, whose lock it is, what a capture leaves, who is waited
for. What only a real GPU can show is checked by benchmarks/gpu.py."""

from __future__ import annotations

import fcntl
import sys
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from kdnas.measuring import clocks, device_lock, devices, gpus, latency, lock_files, passes
from kdnas.measuring.device_lock import Turn
from kdnas.measuring.devices import least_used, resolve_device
from kdnas.measuring.gpus import Gpu
from kdnas.study.spec_latency import LatencySpec
from kdnas.system.errors import UsageError
from tests.measuring.fake_cuda import FakeCuda, cuda

__all__ = ["cuda"]
GPU = torch.device("cuda", 1)
QUICK = LatencySpec(max_seconds=0.2, precision=0.5)  # type: ignore[call-arg]


@pytest.fixture(autouse=True)
def no_claims(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    held: dict[str, Any] = {}
    monkeypatch.setattr(lock_files, "_claimed", held)
    monkeypatch.setitem(sys.modules, "pynvml", None)  # as where it is not installed
    yield
    for file in held.values():
        file.close()


def other_worker(gpu: str, name: str = "other") -> Any:
    """What another living process leaves: a claim whose file it keeps locked."""
    file = lock_files.lock_file(f"{gpu}.{name}.claim")
    fcntl.flock(file, fcntl.LOCK_EX)
    return file


# ---------------------------------------------------------------- which one


def test_the_resolved_gpu_is_the_one_that_torch_works_on(cuda: FakeCuda) -> None:
    assert resolve_device("cuda:1") == GPU
    assert cuda.calls == [("set_device", 1)]


def test_a_gpu_of_another_kind_is_asked_for_itself(cuda: FakeCuda) -> None:
    cuda.bf16 = {0: True, 1: False}
    assert [devices.autocasts(torch.device(name)) for name in ("cuda", "cuda:0", "cuda:1", "cpu")] == [
        True,
        True,
        False,
        False,
    ]
    assert devices.numerics(GPU) == "float32" and cuda.index == 0


def test_a_teachers_own_gpu_is_claimed_and_does_not_become_the_current_one(cuda: FakeCuda) -> None:
    own = resolve_device("cuda:0")
    assert devices.device_beside("cuda:1") == GPU and cuda.index == own.index
    assert set(lock_files.own_claims()) == {"GPU-uuid-0", "GPU-uuid-1"}
    assert devices.device_beside("cuda") == own and devices.device_beside("cpu") == torch.device("cpu")
    with pytest.raises(UsageError, match=r"The device cuda:7 is not there: torch finds 2 GPU"):
        devices.device_beside("cuda:7")


def test_a_successor_takes_the_gpu_of_the_worker_that_died(cuda: FakeCuda) -> None:
    cuda.count = 4
    workers = [other_worker(f"GPU-uuid-{i}", str(i)) for i in range(4)]
    workers[2].close()  # it dies
    assert resolve_device("auto").index == 2
    for worker in workers:
        worker.close()


def test_processes_of_other_studies_count_and_the_same_process_keeps_its_gpu(cuda: FakeCuda) -> None:
    with other_worker("GPU-uuid-0"):
        assert resolve_device("auto").index == 1
    with other_worker("GPU-uuid-1"):
        assert resolve_device("cuda").index == 1  # this process has it already


def test_the_least_used_gpu_by_claims_then_by_what_nvml_says() -> None:
    there = [Gpu(0, "a", others=0, busy=90), Gpu(1, "b", others=2), Gpu(2, "c", busy=10), Gpu(3, "d", busy=10, used=5)]
    assert least_used(there, []).name == "c"
    assert least_used(there, ["c"]).name == "d"
    assert least_used(there, ["a", "c", "d"]).name == "c"  # one each there, and two on b
    assert least_used(there[:2], ["a", "a", "a"]).name == "b"
    assert least_used([Gpu(0, "a", others=1), Gpu(1, "b")], ["a", "b"]).name == "a"  # one process seen twice is one


def test_the_claim_of_a_dead_process_is_removed_and_one_of_our_own_is_not_counted(cuda: FakeCuda) -> None:
    other_worker("GPU-uuid-1").close()
    resolve_device("cuda:0")
    assert lock_files.in_use() == []
    assert [path.name.split(".")[0] for path in lock_files._folder().glob("*.claim")] == ["GPU-uuid-0"]


# ---------------------------------------------------------------- locks and turns


def test_locks_bear_the_gpus_uuid_whatever_its_index(cuda: FakeCuda) -> None:
    with device_lock.device_lock(GPU):
        names = {path.name for path in lock_files._folder().iterdir()}
    assert names == {"GPU-uuid-1.gate", "GPU-uuid-1.room"}
    cuda.index = 1
    assert device_lock._place_of(torch.device("cuda")) == "GPU-uuid-1"


def test_a_step_synchronises_only_where_somebody_waits_to_measure_and_before_it_lets_him_in(
    cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = threading.Event()
    waited_for: list[bool] = []
    monkeypatch.setattr(cuda, "synchronize", lambda device: waited_for.append(measured.is_set()))

    def measure() -> None:
        with device_lock.device_lock(GPU):
            measured.set()

    thread = threading.Thread(target=measure)
    with Turn(GPU) as turn:
        for _ in range(5):
            turn.step()
        assert waited_for == []
        thread.start()
        while not measured.is_set():
            turn.step()
        assert waited_for == [False]
    thread.join()
    assert len(waited_for) == 2  # and once at the end: nothing queued runs into who comes next


def test_a_turn_within_a_turn_is_the_same_place(cuda: FakeCuda) -> None:
    asking = threading.Event()

    def measure() -> None:
        asking.set()
        with device_lock.device_lock(GPU):
            pass

    thread = threading.Thread(target=measure)
    with Turn(GPU):
        thread.start()
        assert asking.wait(60)
        thread.join(0.2)  # it holds the gate by now, and a second place would wait behind it for ever
        with Turn(GPU):
            pass
        with pytest.raises(RuntimeError, match="wait for itself"), device_lock.device_lock(GPU):
            pass
    thread.join(60)
    assert not thread.is_alive()


# ---------------------------------------------------------------- passes


def test_a_failed_capture_leaves_the_stream_as_it_was(cuda: FakeCuda) -> None:
    cuda.capture_fails = True
    before = cuda.current
    assert passes.captured(lambda: None, GPU) is None
    assert cuda.current is before

    def broken() -> None:
        raise RuntimeError("in the warm-up")

    assert passes.captured(broken, GPU) is None and cuda.current is before
    cuda.capture_fails = False
    assert passes.captured(lambda: None, GPU) is not None and cuda.current is before


def test_events_are_recorded_on_the_timed_devices_stream(cuda: FakeCuda) -> None:
    cuda.events = [3.0]
    assert clocks.clock_of(GPU)(lambda: None).wall == 3.0
    assert cuda.calls == [("record", "default"), ("record", "default")]


@pytest.fixture
def whole_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """The launching thread has its core, whatever else this machine does meanwhile."""
    ticks = iter(range(0, 10**12, 1000))
    for clock in ("thread_time_ns", "perf_counter_ns"):
        monkeypatch.setattr(clocks.time, clock, lambda: next(ticks))


@pytest.mark.usefixtures("whole_core")
def test_the_reward_uses_replays_where_both_can_be_captured_and_says_so(cuda: FakeCuda) -> None:
    cuda.events = [2.0]
    made = latency._measure(lambda: None, lambda: None, QUICK, GPU)
    assert made.way == "graph" and ("replay",) in cuda.calls
    assert made.eager_p50 == made.teacher_eager_p50 == made.p50 == 2.0
    eager = latency._measure(lambda: None, lambda: None, QUICK.model_copy(update={"gpu": "eager"}), GPU)
    assert eager.way == "eager" and eager.eager_p50 is None
    cuda.capture_fails = True
    failed = latency._measure(lambda: None, lambda: None, QUICK, GPU)
    assert failed.way == "eager" and failed.flag == "eager: a pass cannot be captured as a CUDA graph"


def test_a_gpus_protocol_has_keys_of_its_own_and_a_cpus_are_those_of_before(cuda: FakeCuda) -> None:
    eager = QUICK.model_copy(update={"gpu": "eager"})
    cpu = torch.device("cpu")
    assert latency.protocol_key(QUICK, cpu) == latency.protocol_key(eager, cpu)
    assert len({latency.protocol_key(s, d) for s in (QUICK, eager) for d in (cpu, GPU)}) == 3


@pytest.mark.parametrize(("bf16", "dtype"), [(True, torch.bfloat16), (False, torch.float16)])
def test_on_a_gpu_a_copy_in_half_precision_is_timed_and_a_frozen_ones_is_made_once(
    cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch, bf16: bool, dtype: torch.dtype
) -> None:
    cuda.bf16 = bf16
    monkeypatch.setattr(passes, "device_of", lambda model: GPU)
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout())
    made = passes.served(model)
    assert {p.dtype for p in made.parameters()} == {dtype} and not made.training
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert passes.served(model) is not made
    assert passes.served(model, frozen=True) is passes.served(model, frozen=True)


def test_on_a_cpu_the_model_itself_is_timed() -> None:
    model = torch.nn.Linear(2, 2)
    assert passes.served(model) is model is passes.served(model, frozen=True)


def test_inputs_go_to_where_the_model_lies() -> None:
    model = torch.nn.Embedding(5, 2, device="meta")  # as a teacher on another device than the students
    waited: list[torch.device] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(devices, "synchronise", waited.append)
        passes.one_pass(model, torch.device("cpu"), input=torch.tensor([1, 2]))()
    assert waited == [torch.device("meta")]


# ---------------------------------------------------------------- others on the same GPU


def sample(pid: int, percent: int, at: int = 1) -> Any:
    return SimpleNamespace(pid=pid, smUtil=percent, timeStamp=at)


@pytest.mark.usefixtures("whole_core")
def test_a_gpu_that_works_for_others_is_flagged(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    cuda.events = [2.0]
    monkeypatch.setattr(gpus, "_samples", lambda index, since: [sample(os.getpid(), 60), sample(1, 30), sample(2, 5)])
    made = latency._measure(lambda: None, lambda: None, QUICK, GPU)
    assert made.flag == "contended: the GPU worked for other processes 35% of the time" and made.contended == 0.35
    monkeypatch.setattr(gpus, "_samples", lambda index, since: [sample(os.getpid(), 60), sample(1, 5)])
    assert latency._measure(lambda: None, lambda: None, QUICK, GPU).flag is None
    # In a container NVML has other numbers for us: nobody can tell who the others are.
    monkeypatch.setattr(gpus, "_samples", lambda index, since: [sample(999_999, 60)])
    assert latency._measure(lambda: None, lambda: None, QUICK, GPU).flag is None


def test_a_launching_thread_without_its_core_is_flagged(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    cuda.events = [2.0]
    ticks = iter(range(0, 10**12, 1000))
    slow = iter(range(0, 10**12, 400))  # the thread has 40 % of its core
    monkeypatch.setattr(clocks.time, "perf_counter_ns", lambda: next(ticks))
    monkeypatch.setattr(clocks.time, "thread_time_ns", lambda: next(slow))
    assert clocks.clock_of(GPU)(lambda: None) == clocks.Pass(2.0, pytest.approx(0.8))
    assert latency._measure(lambda: None, lambda: None, QUICK, GPU).flag == (
        "contended: 100% of the passes shared their core"
    )


def test_waiting_works_on_every_kind_of_device(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[str] = []
    monkeypatch.setattr(torch, "mps", SimpleNamespace(synchronize=lambda: waited.append("mps")))
    for kind in ("cpu", "mps", "cuda:1"):
        devices.synchronise(torch.device(kind))
    assert waited == ["mps"] and cuda.calls == [("synchronize", "cuda:1")]


def test_deterministic_torch_does_not_fill_new_tensors() -> None:
    mode = torch.get_deterministic_debug_mode()
    filled = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    try:
        devices.set_up_torch()
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    finally:
        torch.set_deterministic_debug_mode(mode)
        torch.utils.deterministic.fill_uninitialized_memory = filled  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "cuda:-1", "", "cuda:0:1"])
def test_a_name_of_no_device_is_one_line(name: str) -> None:
    with pytest.raises(UsageError, match="There is no device"):
        resolve_device(name)
