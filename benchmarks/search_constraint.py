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
from benchmarks.search_replay import ALPHAS, GOAL, INITIAL, Recorded, evaluate_from, load, strategy_loop
from kdnas.study.advice import Advice, advice
from kdnas.study.constraints import Limits, figures, limits_of
from kdnas.study.space import Candidate
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
    that were feasible, of those for which a feasible candidate was left; the same until it was said that no candidate
    left is likely to be feasible."""

    reached: int | None
    first: int | None  # feasible one
    kept: int
    counted: int
    kept_until: int
    counted_until: int
    said: int | None  # after so many evaluations; None where it never was
    ended: int | None  # after so many the advice would have ended it, since none left had more than a slim chance


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
    seen: list[Candidate] = []
    missed: list[Mapping[str, float]] = []

    def violations(candidate: Candidate) -> Mapping[str, float]:
        found = limits.scaled(figures(latency_ms=known(candidate)[1], teacher_latency_ms=1.0))
        kept.append(max(found.values()) <= 0)
        seen.append(candidate)
        missed.append(found)
        return found

    def told() -> Advice | None:
        finished = [(candidate, known(candidate)[2]) for candidate in seen]
        return advice(recorded.space, finished, seen, violations=missed)

    spec = from_values({"seed": seed, "strategy": STRATEGIES[name], "budget": {"trials": LIMIT}})
    reached, counted, said, ended = None, 0, None, None
    loop = strategy_loop(spec, recorded.space, known, initial, violations=violations)
    for done, value in enumerate(loop, start=1):
        if reached is None and kept[-1] and value >= goal:
            reached = done
        counted += done > LEARNT and sum(kept[:-1]) < enough
        if done == LIMIT or sum(kept) == enough:
            break
        if ended is None and done >= LEARNT and (now := told()) is not None:
            said = done if said is None and now.unlikely else said
            ended = done if now.doubtful else None
    first = kept.index(True) + 1 if any(kept) else None
    until = len(kept) if said is None else said
    return Bounded(
        reached,
        first,
        sum(kept[LEARNT:]),
        counted,
        sum(kept[LEARNT:until]),
        max(0, min(counted, until - LEARNT)),
        said,
        ended,
    )


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
            until = sum(one.counted_until for one in ones)
            share = share_until = "–"
            if counted:
                kept = sum(one.kept for one in ones) / counted
                figures_of[f"constraint_feasible_share{strict}.{name}"] = kept
                share = f"{kept:.0%}"
            if until:
                kept = sum(one.kept_until for one in ones) / until
                figures_of[f"constraint_feasible_until_said{strict}.{name}"] = kept
                share_until = f"{kept:.0%}"
            missed = sum(one.reached is None for one in ones)
            said = [one.said for one in ones if one.said is not None]
            ended = [one for one in ones if one.ended is not None]
            early = sum(one.reached is None or one.reached > (one.ended or 0) for one in ended)
            figures_of[f"constraint_ended_too_early{strict}.{name}"] = early
            cells = [float(median), f"{low:.0f} … {high:.0f}", missed, first, share, counted, share_until, until]
            cells += [len(said), float(np.median(said)) if said else "–", len(ended), early]
            rows.append([name, len(ones), *cells])
        tables.append(
            Table(
                f"α = {alpha}: evaluations to within 1 % of the best that is fast enough",
                (
                    *("strategy", "searches", "median", "quartiles", "missed", "first feasible"),
                    *("feasible after 20", "of", "until said", "of", "said in", "after", "ended in", "too early"),
                ),
                rows,
                (
                    f"{FAST_ENOUGH:.0%} of the candidates are fast enough; {LIMIT} evaluations, which also stand for "
                    "more. Proposals count while a feasible candidate is left. Said: that no candidate left is likely "
                    "to be fast enough. Ended: by the advice, since none left had more than a slim chance; too early "
                    "where none within the goal had been found by then.",
                ),
            )
        )
    return Result(tables, figures_of, {"table": path.name, "searches": counts})
