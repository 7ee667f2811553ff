"""One candidate from its name to its figures: build, time, train epoch by epoch, score.

The search, the recheck of leaders and the benchmarks all come through here. Knows no store and no strategy: it tells
what happens through callbacks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

from kdnas.measuring import memory
from kdnas.measuring.device_lock import Turn
from kdnas.measuring.devices import PeakMemory
from kdnas.measuring.latency import Measured
from kdnas.recipes.contract import Workbench
from kdnas.study.space import Candidate
from kdnas.system.errors import KdnasError
from kdnas.training.contract import Epoch, OnStep, Student


class Timed(Protocol):
    """What the latency protocol found; milliseconds of one forward pass."""

    @property
    def p50(self) -> float: ...
    @property
    def p90(self) -> float | None: ...  # None where it was not measured
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


R = TypeVar("R")
Measure = Callable[[Workbench, Student, Candidate], Timed]
Aside = Callable[[Workbench, Student, Candidate], Mapping[str, float]]
"""Milliseconds of the bench's further passes, by name."""


@dataclass(frozen=True)
class Untimed:
    """What one evaluation found whose latency is measured afterwards."""

    loss: float
    raw_loss: float
    parameters: int
    memory_mib: float
    extra: Mapping[str, float]
    epoch: int


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
    as_built: bool = False,
) -> Measurement:
    """Evaluates one candidate. `on_timed` gets the latency and the number of parameters before the training begins;
    `on_epoch` says after each epoch whether to go on. With `as_built`, or without any epoch, the student is scored
    before its first step, too, as epoch 0.

    Raises EvaluationError where memory runs out or the loss is no number; whatever else goes wrong passes through.
    """
    run = partial(_evaluated, bench, candidate, measure, aside or no_asides, seed, epochs)
    return _in_memory(bench, lambda: run(on_phase, on_timed, on_epoch, on_step, as_built))


def score(
    bench: Workbench,
    candidate: Candidate,
    *,
    seed: int,
    epochs: int,
    on_phase: Callable[[str], None],
    on_epoch: Callable[[Epoch], bool],
    on_step: OnStep | None = None,
) -> Untimed:
    """The same without its latency, which `timed_alone` measures then."""

    def run() -> Untimed:
        peak = PeakMemory(bench.device)
        student = _built(bench, candidate, seed, on_phase)
        epoch, _ = _trained(bench, student, seed, epochs, on_phase, on_epoch, on_step, False)
        found = epoch.score
        return Untimed(found.loss, found.raw_loss, student.size, peak.mib(), dict(found.extra), epoch.epoch)

    return _in_memory(bench, run)


def timed_alone(
    bench: Workbench, candidate: Candidate, measure: Measure, aside: Aside
) -> tuple[Timed, Mapping[str, float]]:
    """The latency of a candidate that is built to be timed and no more, of whatever weights, and its further passes.
    Raises EvaluationError where memory runs out."""

    def run() -> tuple[Timed, Mapping[str, float]]:
        with Turn(bench.device):
            student = bench.probe(candidate)
        timed = measure(bench, student, candidate)
        return timed, {**eager(timed), **aside(bench, student, candidate)}

    return _in_memory(bench, run)


def _in_memory(bench: Workbench, run: Callable[[], R]) -> R:
    """What `run` gives. Raises EvaluationError where it needs more memory than there is."""
    device = bench.device
    try:
        return run()
    except Exception as error:
        if not memory.ran_out(error):
            raise
    finally:
        memory.let_go(device)  # before the next candidate
    # The exception is gone, and with its traceback the tensors that its frames held.
    memory.let_go(device)
    gone = memory.explained(device)
    raise EvaluationError(gone.problem, gone.hint)


def no_asides(bench: Workbench, student: Student, candidate: Candidate) -> Mapping[str, float]:
    """Measures nothing besides the pass itself."""
    return {}


def _evaluated(
    bench: Workbench,
    candidate: Candidate,
    measure: Measure,
    aside: Aside,
    seed: int,
    epochs: int,
    on_phase: Callable[[str], None],
    on_timed: Callable[[Timed, int], None],
    on_epoch: Callable[[Epoch, Timed], bool],
    on_step: OnStep | None,
    as_built: bool,
) -> Measurement:
    peak = PeakMemory(bench.device)
    student = _built(bench, candidate, seed, on_phase)
    on_phase("timing")
    timed = measure(bench, student, candidate)
    further = {**eager(timed), **aside(bench, student, candidate)}
    on_timed(timed, student.size)

    def after(epoch: Epoch) -> bool:
        return on_epoch(epoch, timed)

    epoch, whole = _trained(bench, student, seed, epochs, on_phase, after, on_step, as_built)
    return Measurement(
        loss=epoch.score.loss,
        raw_loss=epoch.score.raw_loss,
        timed=timed,
        parameters=student.size,
        memory_mib=peak.mib(),
        extra={**epoch.score.extra, **further},
        epoch=epoch.epoch,
        pruned=not whole,
    )


def _built(bench: Workbench, candidate: Candidate, seed: int, on_phase: Callable[[str], None]) -> Student:
    on_phase("building")
    with Turn(bench.device):
        return bench.build(candidate, seed)


def _trained(
    bench: Workbench,
    student: Student,
    seed: int,
    epochs: int,
    on_phase: Callable[[str], None],
    on_epoch: Callable[[Epoch], bool],
    on_step: OnStep | None,
    as_built: bool,
) -> tuple[Epoch, bool]:
    """The last epoch, and whether none was left out because `on_epoch` said so."""
    training = bench.training(student, epochs=epochs, seed=seed)
    epoch, go_on = None, True
    if as_built or not epochs:
        on_phase("scoring")
        with Turn(bench.device):
            epoch = training.begin()
        _require_number(epoch, "Check the teacher and the text.")
        go_on = on_epoch(epoch)
    if go_on and epochs:
        on_phase("training")
    while epoch is None or (go_on and epoch.epoch < epochs):
        # Not held while `on_epoch` waits in a pause, so that other workers can measure meanwhile.
        with Turn(bench.device) as turn:
            epoch = training.run_epoch(partial(_step, turn, on_step))
        _require_number(epoch, "Try a lower training.learning_rate.")
        go_on = on_epoch(epoch)
    return epoch, go_on or epoch.epoch >= epochs


def _require_number(epoch: Epoch, hint: str) -> None:
    """Raises EvaluationError for a loss that is none."""
    if not (abs(epoch.score.loss) < float("inf") and abs(epoch.score.raw_loss) < float("inf")):
        when = f"after epoch {epoch.epoch}" if epoch.epoch else "before any step"
        raise EvaluationError(f"The loss is {epoch.score.loss} {when}.", hint)


def eager(timed: Timed) -> dict[str, float]:
    """Of a GPU's replays: the same pass without a graph, in milliseconds, for the trial's own figures."""
    if not isinstance(timed, Measured) or timed.eager_p50 is None:
        return {}
    teachers = timed.teacher_eager_p50
    return {"eager_ms": timed.eager_p50, **({} if teachers is None else {"teacher_eager_ms": teachers})}


def _step(turn: Turn, on_step: OnStep | None, step: int, steps: int) -> None:
    turn.step()
    if on_step is not None:
        on_step(step, steps)
