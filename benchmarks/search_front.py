"""How soon a search for the front covers what can be covered: one part of benchmarks.search (`--fronts`).

Evaluations until the hypervolume of loss against latency (kdnas.study.hypervolume) is 95 % of what all candidates of a
recorded table cover together. Trains nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import Result, Table, say
from benchmarks.search_replay import INITIAL, Recorded, evaluate_from, load, strategy_loop
from kdnas.study.hypervolume import hypervolume, hypervolume_so_far
from kdnas.study.spec import from_values
from kdnas.system import seeds

SHARE = 0.95
AT = (10, 20, 40)  # evaluations at which the share of the hypervolume is told
LIMIT = 100
STRATEGIES: dict[str, dict[str, Any]] = {
    "auto_two_objectives": {"name": "auto", "two_objectives": True},
    "gp_two_objectives": {"name": "gp", "two_objectives": True},
    "tpe_two_objectives": {"name": "tpe", "two_objectives": True},
    "nsga2": {"name": "nsga2"},
    "random": {"name": "random"},
}
OWN_START = ("auto_two_objectives",)


def shares(name: str, recorded: Recorded, seed: int) -> np.ndarray:
    """The share of the reachable hypervolume after each evaluation of one search, at most LIMIT."""
    space = recorded.space
    order = seeds.generator(seed, seeds.Benchmark.SAMPLE).permutation(len(recorded.candidates))
    initial = [] if name in OWN_START else [recorded.candidates[i] for i in order[:INITIAL]]
    spec = from_values({"seed": seed, "strategy": STRATEGIES[name], "budget": {"trials": LIMIT}})
    seen: list[tuple[float, float]] = []
    known = evaluate_from(recorded, recorded.rewards(-0.06))

    def evaluate(candidate: Any) -> tuple[float, float, float]:
        found = known(candidate)
        seen.append(found[:2])
        return found

    whole = hypervolume(recorded.losses, recorded.latencies)
    for done, _ in enumerate(strategy_loop(spec, space, evaluate, initial), start=1):
        losses, latencies = np.asarray(seen).T
        if done >= LIMIT or (done >= AT[-1] and hypervolume(losses, latencies) >= SHARE * whole):
            break
    return np.asarray(hypervolume_so_far(*np.asarray(seen).T) / whole)


def _job(path: Path, job: tuple[str, int]) -> np.ndarray:
    name, seed = job
    return shares(name, load(path), seed)


def measured(path: Path, names: Sequence[str], searches: int, gp_searches: int, pool: Any) -> Result:
    """The table of all that search the front, and of random search beside them."""
    counts = {name: min(searches, gp_searches) if name.startswith("gp") else searches for name in names}
    jobs = [(name, seed) for name in names for seed in range(counts[name])]
    found: dict[str, list[np.ndarray]] = {}
    for (name, _), curve in zip(jobs, pool.map(partial(_job, path), jobs, chunksize=2), strict=True):
        if name not in found:
            say(f"{name} …")
        found.setdefault(name, []).append(curve)
    rows: list[list[object]] = []
    figures: dict[str, float] = {}
    for name, curves in found.items():
        reached = [int(np.argmax(c >= SHARE)) + 1 if (c >= SHARE).any() else LIMIT for c in curves]
        low, median, high = np.percentile(reached, (25, 50, 75))
        figures[f"front_evaluations_median.{name}"] = float(median)
        at = [f"{100 * float(np.median([c[min(n, len(c)) - 1] for c in curves])):.1f}" for n in AT]
        missed = sum(not (c >= SHARE).any() for c in curves)
        rows.append([name, len(curves), float(median), f"{low:.0f} … {high:.0f}", missed, *at])
    table = Table(
        f"Evaluations to {SHARE:.0%} of the reachable hypervolume, and its share in % at some numbers of them",
        ("strategy", "searches", "median", "quartiles", "missed", *(f"at {n}" for n in AT)),
        rows,
        (f"Whoever had not reached it after {LIMIT} evaluations counts as {LIMIT}.",),
    )
    return Result([table], figures, {"table": path.name, "searches": counts})
