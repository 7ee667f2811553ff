"""The forecast of a search: losses that its recipe predicts, latencies as sums of blocks, corrected by finished trials.

For strategies that propose by a forecast. Evaluates no candidate, and proposes none.
"""

from __future__ import annotations

from kdnas.recipes.contract import Workbench
from kdnas.search.block_latency import predicted_ratios
from kdnas.search.candidate import Measure
from kdnas.store import queries, slots
from kdnas.store.database import Store
from kdnas.study.forecast import Forecast
from kdnas.study.space import SearchSpace
from kdnas.study.states import TrialState
from kdnas.system.progress import Progress


def of_bench(bench: Workbench, measure: Measure, on_progress: Progress) -> Forecast:
    """Before any result; `measure` is the latency protocol. Raises UsageError, KdnasError."""
    candidates = list(bench.space.candidates())
    keys = tuple(map(bench.space.key, candidates))
    losses = bench.predicted(on_progress)
    ratios = predicted_ratios(bench, measure, on_progress)
    return Forecast.of(keys, tuple(map(bench.comparable, candidates)), losses, ratios)


def by_now(forecast: Forecast, space: SearchSpace, store: Store, study_id: int) -> Forecast:
    """Corrected by the trials that are finished, with the study's α and β of now."""
    results = {
        space.key(row.candidate): (row.loss, row.latency_ms / row.teacher_latency_ms)
        for row in queries.trial_rows(store, study_id)
        if row.state == TrialState.DONE and row.loss is not None and row.latency_ms and row.teacher_latency_ms
    }
    return forecast.corrected(results, *slots.rate(store, study_id))
