"""One candidate from its name to its figures: build, time, train epoch by epoch, score.

The search, the recheck of leaders and the benchmarks all come through here. Knows no store and no strategy: it tells
what happens through callbacks.
"""

from __future__ import annotations

import gc
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import psutil
import torch

from kdnas.errors import KdnasError, UsageError
from kdnas.latency import Turn
from kdnas.recipes.contract import Epoch, OnStep, Student, Workbench
from kdnas.space import Candidate


class Timed(Protocol):
    """What the latency protocol found; milliseconds of one forward pass."""

    @property
    def p50(self) -> float: ...
    @property
    def p90(self) -> float: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...
    @property
    def count(self) -> int: ...
    @property
    def flag(self) -> str | None: ...
    @property
    def teacher_p50(self) -> float: ...


Measure = Callable[[Workbench, Student, Candidate], Timed]
Aside = Callable[[Workbench, Student, Candidate], Mapping[str, float]]
"""Milliseconds of the bench's further passes, by name."""


@dataclass(frozen=True)
class Measurement:
    """What one evaluation found. `pruned` where it was stopped after `epoch` of its epochs."""

    loss: float
    raw_loss: float
    timed: Timed
    parameters: int
    memory_mib: float
    extra: Mapping[str, float]
    epoch: int
    pruned: bool


class EvaluationError(KdnasError):
    """The candidate cannot be evaluated; others may."""


def evaluate(
    bench: Workbench,
    candidate: Candidate,
    measure: Measure,
    *,
    seed: int,
    epochs: int,
    on_phase: Callable[[str], None],
    on_timed: Callable[[Timed, int], None],
    on_epoch: Callable[[Epoch, Timed], bool],
    on_step: OnStep | None = None,
    aside: Aside | None = None,
) -> Measurement:
    """Evaluates one candidate. `on_timed` gets the latency and the number of parameters before the training begins;
    `on_epoch` says after each epoch whether to go on.

    Raises EvaluationError where memory runs out or the loss is no number; whatever else goes wrong passes through.
    """
    memory = PeakMemory(bench.device)
    try:
        on_phase("building")
        student = bench.build(candidate, seed)
        on_phase("timing")
        timed = measure(bench, student, candidate)
        further = {} if aside is None else aside(bench, student, candidate)
        on_timed(timed, student.size)
        on_phase("training")
        training = bench.training(student, epochs=epochs, seed=seed)
        while True:
            # Not held while `on_epoch` waits in a pause, so that other workers can measure meanwhile.
            with Turn(bench.device) as turn:
                epoch = training.run_epoch(partial(_step, turn, on_step))
            if not (abs(epoch.score.loss) < float("inf") and abs(epoch.score.raw_loss) < float("inf")):
                raise EvaluationError(
                    f"The loss is {epoch.score.loss} after epoch {epoch.epoch}.", "Try a lower training.learning_rate."
                )
            go_on = on_epoch(epoch, timed)
            if not go_on or epoch.epoch >= epoch.epochs:
                break
        return Measurement(
            loss=epoch.score.loss,
            raw_loss=epoch.score.raw_loss,
            timed=timed,
            parameters=student.size,
            memory_mib=memory.mib(),
            extra={**epoch.score.extra, **further},
            epoch=epoch.epoch,
            pruned=not go_on and epoch.epoch < epoch.epochs,
        )
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise _out_of_memory(bench.device) from error
    except RuntimeError as error:
        # torch's CPU allocator has no exception of its own.
        if re.search("not enough memory|out of memory|[Cc]an('t|not) allocate memory", str(error)):
            raise _out_of_memory(bench.device) from error
        raise
    finally:
        student = training = None  # type: ignore[assignment]  # let go of the memory before the next candidate
        gc.collect()
        if bench.device.type == "cuda":
            torch.cuda.empty_cache()


def _step(turn: Turn, on_step: OnStep | None, step: int, steps: int) -> None:
    turn.step()
    if on_step is not None:
        on_step(step, steps)


def _out_of_memory(device: torch.device) -> EvaluationError:
    return EvaluationError(
        f"The memory of {device} ran out.", "Give a smaller data.batch_size or data.length, or fewer workers."
    )


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


def resolve_device(name: str, nth: int = 0) -> torch.device:
    """The device that a spec names; `auto` takes a GPU where there is one. Workers share several GPUs by `nth`.

    Raises UsageError for a device that is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if name.startswith("cuda"):
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if not count:
            raise UsageError(f"The device {name} is not there: torch finds no GPU.", "Give --device cpu or auto.")
        index = int(name.split(":")[1]) if ":" in name else nth % count
        if index >= count:
            raise UsageError(f"The device {name} is not there: torch finds {count} GPU(s).", "Count from cuda:0.")
        return torch.device("cuda", index)
    if name == "mps" and not torch.backends.mps.is_available():
        raise UsageError("The device mps is not there.", "Give --device cpu or auto.")
    return torch.device(name)
