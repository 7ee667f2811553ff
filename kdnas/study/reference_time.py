"""Latencies of trials at one time of their teacher. Pure arithmetic.

What is measured is a ratio: a student's time beside its teacher's, in turn. On a contended machine both are longer, by
another factor for each trial. So milliseconds of two trials compare only where both are told for the same teacher.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from kdnas.study.rows import TrialRow


def factor(teacher_ms: float | None, reference_ms: float | None) -> float:
    """What a trial's milliseconds are multiplied by; 1 where either time of the teacher is not known."""
    return reference_ms / teacher_ms if teacher_ms and reference_ms else 1.0


def factors(teacher_ms: np.ndarray, reference_ms: float) -> np.ndarray:
    """The same of many trials: float [n] from float [n], where NaN or 0 is not known."""
    known = np.isfinite(teacher_ms) & (teacher_ms != 0)
    return np.divide(reference_ms, teacher_ms, out=np.ones(len(teacher_ms)), where=known)


def at(row: TrialRow, reference_ms: float | None) -> TrialRow:
    """The trial as if its teacher had taken `reference_ms`: the same speed-up, latencies that compare."""
    by = factor(row.teacher_latency_ms, reference_ms)
    if by == 1.0:
        return row

    def scaled(ms: float | None) -> float | None:
        return None if ms is None else ms * by

    return replace(
        row,
        latency_ms=scaled(row.latency_ms),
        latency_p90_ms=scaled(row.latency_p90_ms),
        latency_low_ms=scaled(row.latency_low_ms),
        latency_high_ms=scaled(row.latency_high_ms),
        teacher_latency_ms=scaled(row.teacher_latency_ms),
    )
