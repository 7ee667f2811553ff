"""A workbench that evaluates nothing: losses and latencies are a formula of the candidate. For tests of the loop.

`python -m tests.fakes STUDY` is a real worker process on the store in KDNAS_STORAGE. Where KDNAS_FAKE names a folder,
each evaluation leaves a line in its `begun` and `ended`, and every step waits while there is a file `hold` in it,
after touching `held`.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kdnas.recipes.contract import Workbench
from kdnas.study.space import Candidate, Dimension, SearchSpace
from kdnas.study.spec import StudySpec, from_values
from kdnas.system.errors import KdnasError
from kdnas.system.progress import Progress
from kdnas.training.contract import Epoch, OnStep, Score, Student, Training

SPACE = SearchSpace(
    (
        Dimension("num_hidden_layers", (1, 2, 3, 4, 6, 8)),
        Dimension("num_attention_heads", (1, 2, 4, 6)),
        Dimension("intermediate_size", (128, 256, 512, 1024, 2048)),
        Dimension("hidden_act", ("gelu", "relu", "silu"), ordered=False),
    )
)
WIDE = SearchSpace(  # 294,912 candidates: room for a long search without repeats
    (
        Dimension("num_hidden_layers", tuple(range(1, 25))),
        Dimension("num_attention_heads", tuple(range(1, 17))),
        Dimension("intermediate_size", tuple(range(16, 16 * 257, 16))),
        Dimension("hidden_act", ("gelu", "relu", "silu"), ordered=False),
    )
)
STEPS = 3


def spec(name: str = "fake", **parts: Any) -> StudySpec:
    """A spec on which the fake workbench runs; `parts` as in the TOML."""
    values: dict[str, Any] = {
        "name": name,
        "device": "cpu",
        "strategy": {"name": "random"},
        "budget": {"trials": 8, "epochs": 2},
    }
    for part, value in parts.items():
        whole = isinstance(value, Mapping) and part != "strategy"
        values[part] = {**values.get(part, {}), **value} if whole else value
    return from_values(values)


def loss(candidate: Mapping[str, Any], epoch: int = 2) -> float:
    """Falls with size and with every epoch; somewhere between 0 and 1."""
    layers, heads, inner = (candidate[d.name] for d in SPACE.dimensions[:3])
    size = math.log(layers * 4) / math.log(32) + math.log(heads * 2) / math.log(12) + math.log(inner) / math.log(2048)
    act = {"gelu": 0.0, "relu": 0.02, "silu": 0.01}[candidate["hidden_act"]]
    return 0.9 - 0.25 * size + act + 0.3 / (1 + epoch)


def latency_ms(candidate: Mapping[str, Any]) -> float:
    return 0.5 * candidate["num_hidden_layers"] * (1 + candidate["intermediate_size"] / 1024)


@dataclass(frozen=True)
class FakeTimed:
    p50: float
    p90: float
    low: float
    high: float
    count: int = 25
    flag: str | None = None
    teacher_p50: float = 10.0


def measure(bench: Workbench, student: Student, candidate: Candidate) -> FakeTimed:
    ms = latency_ms(candidate)
    return FakeTimed(ms, ms * 1.1, ms * 0.99, ms * 1.01)


class FakeTraining(Training):
    def __init__(self, candidate: Candidate, epochs: int, before_step: Callable[[], None]) -> None:
        self.candidate = candidate
        self.epochs = epochs
        self.done = 0
        self.before_step = before_step

    def begin(self) -> Epoch:
        now = loss(self.candidate, 0)
        return Epoch(0, self.epochs, Score(now, now * 2, {"figure": 1.0}), now * 2, 0.1, 0)

    def run_epoch(self, on_step: OnStep | None = None) -> Epoch:
        for step in range(1, STEPS + 1):
            self.before_step()
            if on_step is not None:
                on_step(step, STEPS)
        self.done += 1
        now = loss(self.candidate, self.done)
        return Epoch(self.done, self.epochs, Score(now, now * 2, {"figure": 1.0}), now * 2.1, 0.1, 100 * self.done)

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        return {}, {"done": self.done}

    def restore(self, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]) -> None:
        self.done = facts["done"]


class FakeBench(Workbench):
    """`trouble` is called with each candidate before it trains, and may raise."""

    def __init__(
        self, spec: StudySpec, trouble: Callable[[Candidate], None] = lambda _: None, space: SearchSpace = SPACE
    ) -> None:
        self.spec = spec
        self.device = torch.device("cpu")
        allowed = spec.space.choices
        self.space = SearchSpace(
            tuple(
                Dimension(d.name, tuple(c for c in d.choices if c in allowed.get(d.name, d.choices)), d.ordered)
                for d in space.dimensions
            )
        )
        self.trouble = trouble
        folder = os.environ.get("KDNAS_FAKE")
        self.folder = Path(folder) if folder else None

    def note(self, what: str, candidate: Candidate) -> None:
        if self.folder is not None:
            with (self.folder / what).open("a") as file:
                file.write(f"{self.space.key(candidate)}\n")

    def wait(self) -> None:
        if self.folder is not None and (self.folder / "hold").exists():
            (self.folder / "held").touch()
            while (self.folder / "hold").exists():
                time.sleep(0.005)

    def config(self, candidate: Candidate) -> dict[str, Any]:
        return {"model_type": "bert", **candidate}

    def build(self, candidate: Candidate, seed: int) -> Student:
        self.candidate = candidate
        return Student(torch.nn.Linear(int(candidate["num_hidden_layers"]), int(candidate["intermediate_size"])))

    def training(self, student: Student, *, epochs: int, seed: int, full: bool = False) -> Training:
        candidate = self.candidate
        self.note("begun", candidate)
        self.trouble(candidate)
        return FakeTraining(candidate, epochs, self.wait)

    def score(self, student: Student) -> Score:
        return Score(loss(self.candidate), 2 * loss(self.candidate))

    def comparable(self, candidate: Candidate) -> str:
        return str(candidate["num_hidden_layers"])

    def timed(self, student: Student | None) -> Callable[[], None]:
        return lambda: None

    def shape_key(self, candidate: Candidate | None) -> str:
        return "teacher" if candidate is None else self.space.key(candidate)

    def save(self, student: Student, folder: Path) -> None:
        raise AssertionError("nothing to save")

    def provenance(self) -> dict[str, Any]:
        return {"teacher": {"fingerprint": "none"}}


def prepare(spec: StudySpec, device: torch.device, on_progress: Progress) -> Workbench:
    on_progress("loading nothing", 0.5)
    return FakeBench(spec)


def prepare_wide(spec: StudySpec, device: torch.device, on_progress: Progress) -> Workbench:
    return FakeBench(spec, space=WIDE)


def main(arguments: list[str]) -> int:
    from kdnas.search.worker import run_worker
    from kdnas.system.paths import default_storage

    try:
        return run_worker(default_storage(), arguments[0], prepare=prepare, measure=measure)
    except KdnasError as error:
        print(f"kdnas: {error}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
