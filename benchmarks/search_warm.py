"""How soon a search gets there that another study of the same teacher lends to: a part of benchmarks.search (`--warm`).

The study that lends is a finished search of another recorded table, made by the same replay, or of the same table as it
might be on another text. As unrelated studies that table's results are dealt out to its candidates anew: by chance, and
so that the best are the worst. Trains nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import Result, Table, say
from benchmarks.search_replay import ALPHAS, BETA, GOAL, Recorded, evaluate_from, load, strategy_loop
from kdnas.study.loan import Lender, LentTrial, Loan, within
from kdnas.study.spec import from_values
from kdnas.study.spec_strategies import GP_TRIALS
from kdnas.system import seeds

LENT = 20  # finished trials of the study that lends
LIMIT = 60  # evaluations; who has not reached the goal by then counts as that many
STRATEGIES = ("auto", "tpe", "gp", "lstm")
LENDERS = ("none", "other text", "by chance", "reversed")
OTHER = 0.3  # of the losses' standard deviation: by how much losses of the made-up text differ


def lender(recorded: Recorded, kind: str, alpha: float, seed: int) -> Recorded:
    """The table that the study that lends was searched on."""
    rewards = recorded.rewards(alpha)
    order = np.arange(len(rewards))
    if kind == "by chance":
        order = seeds.generator(seed, seeds.Benchmark.SAMPLE).permutation(len(rewards))
    elif kind == "reversed":
        ranked = np.argsort(rewards)
        order = np.empty_like(ranked)
        order[ranked] = ranked[::-1]
    return replace(recorded, losses=recorded.losses[order], latencies=recorded.latencies[order])


def made_up(recorded: Recorded, seed: int) -> Recorded:
    """The table as it might be on another text: every size has another effect on the loss, and every loss is bent."""
    rng = seeds.generator(seed, seeds.Benchmark.SAMPLE)
    effects = np.zeros(len(recorded.losses))
    for column in np.asarray([recorded.space.encode(c) for c in recorded.candidates], dtype=float).T:
        along = np.pi * column / max(1.0, column.max())
        effects += rng.normal() * np.cos(along) + 0.5 * rng.normal() * np.cos(2 * along)
    other = (effects - effects.mean()) / effects.std() * recorded.losses.std() * OTHER
    bent = 0.1 + 0.7 * np.maximum(recorded.losses + other, 0.01) ** 1.2
    return replace(recorded, losses=np.minimum(bent + rng.normal(0, recorded.noise, len(bent)), 1.0))


def loan(recorded: Recorded, target: Recorded, alpha: float, seed: int) -> Loan:
    """What the first `LENT` trials of a search with `auto` lend to a study of the target's space."""
    rows = {recorded.space.key(c): i for i, c in enumerate(recorded.candidates)}
    known, seen = evaluate_from(recorded, recorded.rewards(alpha)), []

    def evaluate(candidate: Any) -> tuple[float, float, float]:
        found = known(candidate)
        seen.append(
            LentTrial(candidate, found[0], found[1], int(recorded.parameters[rows[recorded.space.key(candidate)]]))
        )
        return found

    spec = from_values({"seed": 10_000 + seed, "budget": {"trials": LENT}})
    for _ in zip(range(LENT), strategy_loop(spec, recorded.space, evaluate, ()), strict=False):
        pass
    return Loan((Lender("lender", tuple(within(seen, target.space))),), alpha, BETA)


def evaluations(name: str, target: Recorded, source: Recorded | None, kind: str, alpha: float, seed: int) -> int:
    """Of one search, until a candidate within the goal, with the strategy's own first candidates."""
    rewards = target.rewards(alpha)
    goal = rewards.max() - GOAL * (rewards.max() - np.median(rewards))
    lent = None
    if kind != "none":
        source = made_up(target, seed) if source is None else source
        lent = loan(lender(source, kind, alpha, seed), target, alpha, seed)
    spec = from_values({"seed": seed, "strategy": {"name": name}, "budget": {"trials": GP_TRIALS}})
    found = strategy_loop(spec, target.space, evaluate_from(target, rewards), (), loan=lent)
    return next((n for n, value in zip(range(1, LIMIT), found, strict=False) if value >= goal), LIMIT)


def _job(paths: tuple[Path, Path | None], job: tuple[str, str, float, int]) -> int:
    name, kind, alpha, seed = job
    return evaluations(name, load(paths[0]), None if paths[1] is None else load(paths[1]), kind, alpha, seed)


def measured(
    table: Path, names: Sequence[str], searches: int, gp_searches: int, pool: Any, lender: Path | None = None
) -> Result:
    """The table of all strategies and lenders; `lender` is the recorded table that lends, where it is not made up."""
    counts = {name: min(searches, gp_searches) if name == "gp" else searches for name in names}
    jobs = [
        (name, kind, alpha, seed)
        for name in names
        for alpha in ALPHAS.values()
        for kind in LENDERS
        for seed in range(counts[name])
    ]
    found: dict[tuple[str, str, float], list[int]] = {}
    for position, (job, count) in enumerate(zip(jobs, pool.map(partial(_job, (table, lender)), jobs), strict=True), 1):
        found.setdefault(job[:3], []).append(count)
        if position % 50 == 0:
            say(f"{position} of {len(jobs)} searches")
    rows: list[list[object]] = []
    figures: dict[str, float] = {}
    for (name, kind, alpha), reached in found.items():
        low, median, high = np.percentile(reached, (25, 50, 75))
        figures[f"warm_evaluations_median.{name}.{kind.replace(' ', '_')}.{alpha}"] = float(median)
        missed = sum(count >= LIMIT for count in reached)
        rows.append([name, f"{alpha}", kind, len(reached), float(median), f"{low:.0f} … {high:.0f}", missed])
    target, lends = load(table), "a made-up text" if lender is None else lender.name
    told = Table(
        f"Evaluations of {table.name} to within 1 % of the achievable range; {LENT} trials of {lends} are lent",
        ("strategy", "α", "lender", "searches", "median", "quartiles", "missed"),
        rows,
        (f"Who had not reached it after {LIMIT - 1} evaluations counts as {LIMIT}.",),
    )
    facts = {"table": table.name, "lender": lends, "candidates": len(target.candidates), "lent": LENT}
    return Result([told], figures, facts)
