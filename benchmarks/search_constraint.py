"""How soon a search finds the best student that is fast enough, and how many too slow ones it tries: one part of
benchmarks.search (`--constraint`).

A tenth of a recorded table's candidates is fast enough, and none is known to be before its trial. Trains nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import Result, Table, say
from benchmarks.search import ALPHAS, GOAL, INITIAL, Recorded, evaluate_from, load, strategy_loop
from kdnas.study.constraints import Limits, figures, limits_of
from kdnas.study.spec import from_values
from kdnas.system import seeds

FAST_ENOUGH = 0.1  # of the candidates
LEARNT = 20  # proposals after which a search is to know what is fast enough
LIMIT = 40  # evaluations
STRATEGIES: dict[str, dict[str, Any]] = {
    "auto": {"name": "auto"},
    "gp": {"name": "gp"},
    "tpe": {"name": "tpe"},
    "evolution": {"name": "evolution"},
    "random": {"name": "random"},
}
OWN_START = ("auto",)


@dataclass(frozen=True)
class Bounded:
    """One search: the evaluations until a feasible candidate within the goal, and the proposals after the first LEARNT
    that were feasible, of those for which a feasible candidate was left."""

    reached: int | None
    first: int | None  # feasible one
    kept: int
    counted: int


def bound(recorded: Recorded) -> tuple[Limits, np.ndarray]:
    """The constraint, half way between the slowest that is fast enough and the next one, and who keeps it
    [candidates]."""
    shares = np.sort(recorded.latencies)
    enough = max(1, round(FAST_ENOUGH * len(shares)))
    limits = limits_of({"min_speedup": float(2 / (shares[enough - 1] + shares[enough]))}, None)
    return limits, recorded.latencies <= shares[enough - 1]


def search(name: str, recorded: Recorded, alpha: float, seed: int) -> Bounded:
    """LIMIT evaluations."""
    limits, feasible = bound(recorded)
    enough = int(feasible.sum())
    rewards = recorded.rewards(alpha)
    known = evaluate_from(recorded, rewards)
    fast = rewards[feasible]
    goal = float(fast.max() - GOAL * (fast.max() - np.median(fast)))
    order = seeds.generator(seed, seeds.Benchmark.SAMPLE).permutation(len(recorded.candidates))
    initial = [] if name in OWN_START else [recorded.candidates[i] for i in order[:INITIAL]]
    kept: list[bool] = []

    def violations(candidate: Any) -> Mapping[str, float]:
        found = limits.scaled(figures(latency_ms=known(candidate)[1], teacher_latency_ms=1.0))
        kept.append(max(found.values()) <= 0)
        return found

    spec = from_values({"seed": seed, "strategy": STRATEGIES[name], "budget": {"trials": LIMIT}})
    reached, counted = None, 0
    loop = strategy_loop(spec, recorded.space, known, initial, violations=violations)
    for done, value in enumerate(loop, start=1):
        if reached is None and kept[-1] and value >= goal:
            reached = done
        counted += done > LEARNT and sum(kept[:-1]) < enough
        if done == LIMIT or sum(kept) == enough:
            break
    first = kept.index(True) + 1 if any(kept) else None
    return Bounded(reached, first, sum(kept[LEARNT:]), counted)


def _job(path: Path, job: tuple[str, str, int]) -> Bounded:
    name, kind, seed = job
    return search(name, load(path), ALPHAS[kind], seed)


def measured(path: Path, names: Sequence[str], searches: int, gp_searches: int, pool: Any) -> Result:
    """A table for each α."""
    counts = {name: min(searches, gp_searches) if name.startswith("gp") else searches for name in names}
    jobs = [(name, kind, seed) for kind in ALPHAS for name in names for seed in range(counts[name])]
    found: dict[tuple[str, str], list[Bounded]] = {}
    for (name, kind, _), one in zip(jobs, pool.map(partial(_job, path), jobs, chunksize=2), strict=True):
        if (kind, name) not in found:
            say(f"{kind} {name} …")
        found.setdefault((kind, name), []).append(one)
    figures_of: dict[str, float] = {}
    tables = []
    for kind, alpha in ALPHAS.items():
        strict = "_strict" if "strict" in kind else ""
        rows: list[list[object]] = []
        for name in names:
            ones = found[kind, name]
            low, median, high = np.percentile([one.reached or LIMIT for one in ones], (25, 50, 75))
            first = float(np.median([one.first or LIMIT for one in ones]))
            counted = sum(one.counted for one in ones)
            figures_of[f"constraint_evaluations_median{strict}.{name}"] = float(median)
            share = "–"
            if counted:
                kept = sum(one.kept for one in ones) / counted
                figures_of[f"constraint_feasible_share{strict}.{name}"] = kept
                share = f"{kept:.0%}"
            missed = sum(one.reached is None for one in ones)
            rows.append([name, len(ones), float(median), f"{low:.0f} … {high:.0f}", missed, first, share, counted])
        tables.append(
            Table(
                f"α = {alpha}: evaluations to within 1 % of the best that is fast enough",
                ("strategy", "searches", "median", "quartiles", "missed", "first feasible", "feasible after 20", "of"),
                rows,
                (
                    f"{FAST_ENOUGH:.0%} of the candidates are fast enough; {LIMIT} evaluations, which also stand for "
                    "more. Proposals count while a feasible candidate is left.",
                ),
            )
        )
    return Result(tables, figures_of, {"table": path.name, "searches": counts})
