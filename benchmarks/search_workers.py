"""How many more candidates a search needs where several are evaluated at once: benchmarks.search with `--parallel`.

Each search is replayed with 1, 4 and 16 trials in flight, which end in the order in which they began. A proposal sees
what a worker's sampler sees: finished trials, and those that run. A seed begins with the same candidates however many
workers there are. Trains nothing, and says nothing of the time that workers wait for each other.

With w workers, w candidates begin before any result is there. So each search is replayed once more by one worker that
begins w candidates at once, waits for all of them, and then evaluates one after the other: what several workers need
beyond that is the price of results that come late. As late: what one worker needs and w − 1, as if it had learnt of
each result w − 1 candidates later.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import Result, Table, say
from benchmarks.search_replay import ALPHAS, GOAL, LIMITS, load, replay

STRATEGIES = ("tpe", "lstm", "auto", "gp")
WORKERS = (1, 4, 16)
GOALS = {4: 1.15, 16: 1.4}  # so many times the evaluations of one worker are enough


def _job(table: Path, job: tuple[str, int, int, str, int]) -> tuple[int | None, int]:
    """Evaluations until a candidate within the goal, and how many count where there was none."""
    name, workers, at_once, kind, seed = job
    recorded = load(table)
    found = replay(name, recorded, ALPHAS[kind], seed, workers, at_once=at_once, regrets_at=()).reached
    return found, LIMITS.get(name, recorded.space.size)


def measured(table: Path, names: Sequence[str], searches: int, gp_searches: int, pool: Any) -> Result:
    """The table of all strategies and numbers of workers; searches that miss the goal count as their limit."""
    counts = {name: min(searches, gp_searches) if name == "gp" else searches for name in names}
    jobs = [
        (name, workers, at_once, kind, seed)
        for name in names
        for kind in ALPHAS
        for workers, at_once in (*((w, 0) for w in WORKERS), *((1, w) for w in GOALS))
        for seed in range(counts[name])
    ]
    found: dict[tuple[str, int, int, str], list[tuple[int | None, int]]] = {}
    for position, (job, count) in enumerate(zip(jobs, pool.map(partial(_job, table), jobs), strict=True), 1):
        found.setdefault(job[:4], []).append(count)
        if position % 100 == 0:
            say(f"{position} of {len(jobs)} searches")
    rows: list[list[object]] = []
    figures: dict[str, float] = {}
    alone: dict[tuple[str, str], float] = {}
    quartiles_of = {
        key: np.percentile([limit if n is None else n for n, limit in replays], (25, 50, 75))
        for key, replays in found.items()
    }
    for (name, workers, at_once, kind), replays in found.items():
        if at_once:
            continue
        low, median, high = quartiles_of[name, workers, at_once, kind]
        alone.setdefault((name, kind), float(median))  # one worker comes first
        share = float(median) / alone[name, kind]
        figures[f"{kind}.{name}.{workers}"] = float(median)
        figures[f"workers_{workers}_of_one{'_strict' if 'strict' in kind else ''}.{name}"] = share
        missed = sum(n is None for n, _ in replays)
        waited = float(quartiles_of[name, 1, workers, kind][1]) if workers in GOALS else None
        as_late = alone[name, kind] + workers - 1
        enough = "–" if workers not in GOALS else "yes" if share <= GOALS[workers] else "no"
        quartiles = f"{low:.0f} … {high:.0f}"
        cells = [len(replays), median, quartiles, missed, share, enough, waited, as_late]
        rows.append([name, f"{ALPHAS[kind]}", workers, *cells])
    told = Table(
        f"{table.name}: evaluations to within {GOAL:.0%} of the achievable range, by trials in flight",
        (
            *("strategy", "α", "workers", "searches", "median", "quartiles", "missed", "of one worker's", "enough"),
            *("begun at once", "as late"),
        ),
        rows,
        (
            f"Enough: at most {GOALS[4]} times one worker's with 4 workers, {GOALS[16]} times with 16. Begun at once: "
            "one worker that waits for as many first candidates. As late: one worker's, and one less than the workers.",
        ),
    )
    return Result([told], figures, {"table": table.name, "candidates": load(table).space.size})
