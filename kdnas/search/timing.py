"""Latencies by the studies' protocol, looked up in the store's table of shapes first. Evaluates no candidate."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from kdnas.measuring import latency, memory
from kdnas.measuring.passes import DtypeError, kept_mib
from kdnas.recipes.contract import Workbench
from kdnas.search.candidate import Aside, Measure, Timed
from kdnas.store import latencies
from kdnas.store.database import Store
from kdnas.study.rows import PREDICTED
from kdnas.study.space import Candidate
from kdnas.study.timed_words import AUTO
from kdnas.system.errors import UsageError
from kdnas.system.progress import Progress
from kdnas.training.contract import Epoch, Student


def require_timed(bench: Workbench, on_progress: Progress) -> None:
    """Tries what is timed of the teacher in the dtype that the spec asks for, and says what its copy takes. Raises
    UsageError for a teacher that cannot be timed so."""
    dtype = bench.spec.latency.dtype
    if dtype == AUTO:
        return
    with memory.one_line(bench.device):
        try:
            bench.timed(None)
            bench.asides(None)
        except DtypeError as error:
            raise UsageError(f"The teacher: {error.problem}", error.hint) from None
    copied = f"; the teacher's copy takes {mib:,.0f} MiB" if (mib := kept_mib()) else ""
    on_progress(f"teacher and students are timed in {dtype}{copied}", None)


def latency_protocol(store: Store) -> Measure:
    """The real measurement, which asks the store's table of shapes first."""

    def run(bench: Workbench, student: Student, chosen: Candidate) -> Timed:
        return latency.measure(
            bench.timed(student),
            bench.timed(None),
            bench.spec.latency,
            bench.device,
            shape=bench.shape_key(chosen),
            teacher_shape=bench.shape_key(None),
            lookup=partial(latencies.lookup, store),
            remember=partial(latencies.remember, store),
        )

    return run


def further_passes(store: Store | None) -> Aside:
    """The bench's further passes by the same protocol: `NAME` of the student and `teacher_NAME` of its teacher."""

    def run(bench: Workbench, student: Student, chosen: Candidate) -> Mapping[str, float]:
        found: dict[str, float] = {}
        teachers = bench.asides(None)
        for name, once in bench.asides(student).items():
            timed = latency.measure(
                once,
                teachers[name],
                bench.spec.latency,
                bench.device,
                shape=f"{name} {bench.shape_key(chosen)}",
                teacher_shape=f"{name} {bench.shape_key(None)}",
                lookup=partial(latencies.lookup, store) if store is not None else None,
                remember=partial(latencies.remember, store) if store is not None else None,
            )
            found |= {name: timed.p50, f"teacher_{name}": timed.teacher_p50}
        return found

    return run


def latency_columns(timed: Timed) -> dict[str, float | int | str | None]:
    return {
        "latency_ms": timed.p50,
        "latency_p90_ms": timed.p90,
        "latency_low_ms": timed.low,
        "latency_high_ms": timed.high,
        "latency_count": timed.count,
        "latency_flag": timed.flag,
        "teacher_latency_ms": timed.teacher_p50,
    }


def latency_words(timed: Timed) -> str:
    """`5.20 ms (3.1 × the teacher)`, and where nothing was measured of the candidate, that."""
    how = " predicted" if (timed.flag or "").startswith(PREDICTED) else ""
    return f"{timed.p50:.2f} ms{how} ({timed.teacher_p50 / timed.p50:.1f} × the teacher)"


def curve_columns(epoch: Epoch) -> dict[str, float]:
    """A finished epoch as a point of its trial's curve."""
    return {
        "epoch": epoch.epoch,
        "loss": epoch.score.loss,
        "raw_loss": epoch.score.raw_loss,
        "train_loss": epoch.train_loss,
        "seconds": epoch.seconds,
        "tokens": epoch.tokens,
    }
