"""Nothing computes on a device but under a place there, by which it gives way to who measures."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.modules.module import register_module_forward_pre_hook

from benchmarks.gpu import Ground
from kdnas.measuring import device_lock, latency
from kdnas.measuring.latency import Measured
from kdnas.recipes import recipe
from kdnas.students.distil import Job, Telling, distil

CPU = torch.device("cpu")
TIMED = Measured(1.0, 1.0, 1.0, 1.0, 0.0, 10, None, 2.0, 1.0, 0.0, 1.0)


@pytest.fixture
def outside(own_cache: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Where models ran without a place on their device."""
    found: list[str] = []

    def look(module: torch.nn.Module, given: Any) -> None:
        if not device_lock._places():
            found.append(_place_in_kdnas())

    monkeypatch.setattr(latency, "measure", lambda *given, **named: TIMED)
    hook = register_module_forward_pre_hook(look)
    yield found
    hook.remove()


def _place_in_kdnas() -> str:
    for frame in reversed(traceback.extract_stack(limit=60)):
        if "/kdnas/" in frame.filename and frame.name != "<lambda>":
            return f"{Path(frame.filename).name}:{frame.lineno} {frame.name}"
    return "elsewhere"


@pytest.mark.parametrize("name", ["fitted", "causal-divergence", "rnn-hybrid", "lora"])
def test_a_recipe_computes_nothing_without_a_place(tmp_path: Path, outside: list[str], name: str) -> None:
    ground = Ground(tmp_path, CPU, True)
    parts = {"recipe": {"name": "hidden-state", "init": "fitted"}} if name == "fitted" else {}
    spec = ground.spec("hidden-state" if name == "fitted" else name, full={"epochs": 1}, **parts)
    outside.clear()  # the models that this test itself made
    candidate = recipe(spec.recipe.name).describe(spec).space.from_ordinal(0)
    distil(Job(spec, candidate), tmp_path / "student", Telling(lambda *_: None), device="cpu")
    assert sorted(set(outside)) == []
