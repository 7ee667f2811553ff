"""The forecast of a search: losses that its recipe predicts, latencies as sums of blocks, corrected by finished trials.

For strategies that propose by a forecast. Evaluates no candidate, and proposes none.
"""

from __future__ import annotations

import numpy as np

from kdnas.recipes.contract import Workbench
from kdnas.recipes.spaces.encoder import layered
from kdnas.search.block_latency import predicted_ratios
from kdnas.search.candidate import Measure
from kdnas.search.layer_latency import layer_times
from kdnas.store import queries, slots
from kdnas.store.database import Store
from kdnas.study.forecast import Forecast
from kdnas.study.space import SearchSpace
from kdnas.study.states import TrialState
from kdnas.system.progress import Progress


def of_bench(bench: Workbench, measure: Measure, on_progress: Progress) -> Forecast:
    """Before any result; `measure` is the latency protocol. Of every candidate; where each layer has sizes of its own,
    of those that are predicted to be best. Raises UsageError, KdnasError."""
    if layered(bench.space.from_ordinal(0)):
        times = layer_times(bench, measure, on_progress)
        best = bench.proposals(times.block, times.around, on_progress)
        figures = np.array([(one.loss, one.time) for one in best])
        keys = tuple(bench.space.key(one.candidate) for one in best)
        return Forecast.of(keys, tuple(bench.group(one.candidate) for one in best), figures[:, 0], figures[:, 1])
    candidates = list(bench.space.candidates())
    keys = tuple(map(bench.space.key, candidates))
    losses = bench.predicted(on_progress)
    ratios = predicted_ratios(bench, measure, on_progress)
    return Forecast.of(keys, tuple(map(bench.group, candidates)), losses, ratios)


def by_now(forecast: Forecast, space: SearchSpace, store: Store, study_id: int) -> Forecast:
    """Corrected by the trials that are finished, with the study's α and β of now."""
    results = {
        space.key(row.candidate): (row.loss, row.latency_ms / row.teacher_latency_ms)
        for row in queries.trial_rows(store, study_id)
        if row.state == TrialState.DONE and row.loss is not None and row.latency_ms and row.teacher_latency_ms
    }
    return forecast.corrected(results, *slots.rate(store, study_id))
