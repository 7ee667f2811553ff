"""One candidate's evaluation: what it holds while it runs, and what is left when its memory runs out."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch

from kdnas.measuring import device_lock
from kdnas.search.candidate import EvaluationError, Measurement, evaluate
from kdnas.study.space import Candidate
from kdnas.training.contract import Student
from tests import fakes


def run(bench: fakes.FakeBench, **changes: Any) -> Measurement:
    given: dict[str, Any] = {
        "measure": fakes.measure,
        "seed": 0,
        "epochs": 2,
        "on_phase": lambda phase: None,
        "on_timed": lambda timed, parameters: None,
        "on_epoch": lambda epoch, timed: True,
        **changes,
    }
    return evaluate(bench, bench.space.from_ordinal(0), **given)


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory."), RuntimeError("can't allocate memory")], ids=["gpu", "cpu"]
)
def test_the_error_of_a_candidate_without_memory_holds_none_of_its_tensors(error: Exception) -> None:
    held: list[weakref.ref[torch.Tensor]] = []

    def trouble(_: Candidate) -> None:
        large = torch.zeros(1000)
        held.append(weakref.ref(large))
        raise error.with_traceback(None)

    gc.disable()
    try:
        with pytest.raises(EvaluationError, match=r"The memory of cpu ran out\. Give a smaller") as caught:
            run(fakes.FakeBench(fakes.spec(), trouble))
    finally:
        gc.enable()
    error.__traceback__ = None  # this test's own hold on the frame
    assert held[0]() is None
    assert caught.value.__context__ is None and caught.value.__cause__ is None


def test_building_waits_for_who_measures_and_the_timing_does_not() -> None:
    seen: list[tuple[str, bool]] = []

    class Watched(fakes.FakeBench):
        def build(self, candidate: Candidate, seed: int) -> Student:
            seen.append(("build", bool(device_lock._places())))
            return super().build(candidate, seed)

    def measure(bench: Any, student: Student, candidate: Candidate) -> Any:
        seen.append(("measure", bool(device_lock._places())))
        return fakes.FakeTimed(1.0, 1.0, 1.0, 1.0)

    bench = Watched(fakes.spec())
    run(bench, measure=measure)
    assert seen == [("build", True), ("measure", False)] and not device_lock._places()
