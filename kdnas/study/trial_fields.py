"""Which fields of a trial's row are kept as which kind of column, and which of them a ranking reads."""

from __future__ import annotations

from dataclasses import fields

from kdnas.study import filter as language
from kdnas.study.rows import TrialRow

FLOATS = (
    "predicted", "reward", "loss", "raw_loss", "latency_ms", "latency_p90_ms", "latency_low_ms",
    "latency_high_ms", "teacher_latency_ms", "memory_mib", "progress", "started", "ended", "mean_loss",
    "mean_raw_loss", "loss_spread",
)  # fmt: skip
INTS = (
    "number", "slot", "seed", "parameters", "epoch", "revision", "repeats", "worker_id",
)  # fmt: skip
CODED = (
    "state", "origin", "phase", "alpha", "beta", "latency_count", "latency_flag", "epochs", "reused_from", "error",
    "marked", "tags", "note",
)  # fmt: skip
LATENCIES = ("latency_ms", "latency_p90_ms", "latency_low_ms", "latency_high_ms")  # of the student
MAPPINGS = ("candidate", "config")
RANKING = (  # what a ranking reads, beside the state
    "loss", "raw_loss", "mean_loss", "mean_raw_loss", "loss_spread", "repeats", "latency_ms", "latency_low_ms",
    "latency_high_ms", "teacher_latency_ms", "parameters",
)  # fmt: skip
SMALL = frozenset(INTS) - {"parameters", "seed"}  # counts and numbers, which fit in 32 bits
BY_KEY = {key: column.field for key, column in language.COLUMNS.items() if column.field is not None}

assert set(FLOATS) | set(INTS) | set(CODED) | set(MAPPINGS) | {"extra"} == {f.name for f in fields(TrialRow)}
