"""How many more candidates a search needs where several are evaluated at once: benchmarks.search with `--parallel`.

Each search is replayed with 1, 4 and 16 trials in flight, which end in the order in which they began. A proposal sees
what a worker's sampler sees: finished trials, and those that run. A seed begins with the same candidates however many
workers there are. Trains nothing, and says nothing of the time that workers wait for each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import Result, Table, say
from benchmarks.search import ALPHAS, GOAL, LIMITS, load, replay

STRATEGIES = ("tpe", "lstm", "auto", "gp")
WORKERS = (1, 4, 16)
GOALS = {4: 1.15, 16: 1.4}  # so many times the evaluations of one worker are enough


def _job(table: Path, job: tuple[str, int, str, int]) -> tuple[int | None, int]:
    """Evaluations until a candidate within the goal, and how many count where there was none."""
    name, workers, kind, seed = job
    recorded = load(table)
    found = replay(name, recorded, ALPHAS[kind], seed, workers, regrets_at=()).reached
    return found, LIMITS.get(name, recorded.space.size)


def measured(table: Path, names: Sequence[str], searches: int, gp_searches: int, pool: Any) -> Result:
    """The table of all strategies and numbers of workers; searches that miss the goal count as their limit."""
    counts = {name: min(searches, gp_searches) if name == "gp" else searches for name in names}
    jobs = [
        (name, workers, kind, seed)
        for name in names
        for kind in ALPHAS
        for workers in WORKERS
        for seed in range(counts[name])
    ]
    found: dict[tuple[str, int, str], list[tuple[int | None, int]]] = {}
    for position, (job, count) in enumerate(zip(jobs, pool.map(partial(_job, table), jobs), strict=True), 1):
        found.setdefault(job[:3], []).append(count)
        if position % 100 == 0:
            say(f"{position} of {len(jobs)} searches")
    rows: list[list[object]] = []
    figures: dict[str, float] = {}
    alone: dict[tuple[str, str], float] = {}
    for (name, workers, kind), replays in found.items():
        low, median, high = np.percentile([limit if n is None else n for n, limit in replays], (25, 50, 75))
        alone.setdefault((name, kind), float(median))  # one worker comes first
        share = float(median) / alone[name, kind]
        figures[f"{kind}.{name}.{workers}"] = float(median)
        figures[f"workers_{workers}_of_one{'_strict' if 'strict' in kind else ''}.{name}"] = share
        missed = sum(n is None for n, _ in replays)
        enough = "–" if workers not in GOALS else "yes" if share <= GOALS[workers] else "no"
        quartiles = f"{low:.0f} … {high:.0f}"
        rows.append([name, f"{ALPHAS[kind]}", workers, len(replays), median, quartiles, missed, share, enough])
    told = Table(
        f"{table.name}: evaluations to within {GOAL:.0%} of the achievable range, by trials in flight",
        ("strategy", "α", "workers", "searches", "median", "quartiles", "missed", "of one worker's", "enough"),
        rows,
        (f"Enough: at most {GOALS[4]} times one worker's with 4 workers, {GOALS[16]} times with 16.",),
    )
    return Result([told], figures, {"table": table.name, "candidates": load(table).space.size})
