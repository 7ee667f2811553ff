"""What a search saves that ends when the advice says so, and what that costs: one part of benchmarks.search
(`--advice`).

The advice (kdnas.study.advice) is asked after each trial, as a worker with `--stop-when-done` does. Trains nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import Result, Table, say
from benchmarks.search_constraint import bound
from benchmarks.search_replay import ALPHAS, INITIAL, Recorded, evaluate_from, load, strategy_loop
from kdnas.study.advice import advice
from kdnas.study.constraints import NONE, figures
from kdnas.study.spec import from_values
from kdnas.system import seeds

BUDGETS = (60, 100)
STRATEGIES: dict[str, dict[str, Any]] = {
    "auto": {"name": "auto"},
    "auto_constrained": {"name": "auto"},  # by the constraint of benchmarks.search_constraint
    "tpe": {"name": "tpe"},
    "random": {"name": "random"},
}
OWN_START = ("auto", "auto_constrained")
CONSTRAINED = ("auto_constrained",)


@dataclass(frozen=True)
class Ended:
    """One search: when the advice ended it, and regrets in achievable ranges, from the table's median to its best."""

    after: int | None  # trials; None where it went on to the largest budget
    regrets: tuple[float, ...]  # after each trial, until the advice or the largest budget ended it


def search(name: str, recorded: Recorded, alpha: float, seed: int) -> Ended:
    rewards, known = recorded.rewards(alpha), evaluate_from(recorded, recorded.rewards(alpha))
    limits, feasible = bound(recorded) if name in CONSTRAINED else (NONE, np.ones(len(rewards), dtype=bool))
    best, middle = rewards[feasible].max(), np.median(rewards[feasible])
    order = seeds.generator(seed, seeds.Benchmark.SAMPLE).permutation(len(recorded.candidates))
    initial = [] if name in OWN_START else [recorded.candidates[i] for i in order[:INITIAL]]
    seen: list[tuple[Any, float]] = []
    missed: list[Mapping[str, float]] = []

    def evaluate(candidate: Any) -> tuple[float, float, float]:
        found = known(candidate)
        seen.append((candidate, found[2]))
        missed.append(limits.scaled(figures(latency_ms=found[1], teacher_latency_ms=1.0)))
        return found

    spec = from_values({"seed": seed, "strategy": STRATEGIES[name], "budget": {"trials": BUDGETS[-1]}})
    regrets: list[float] = []
    for value in strategy_loop(spec, recorded.space, evaluate, initial, violations=lambda _: missed[-1]):
        # Until something feasible is found, there is all of the range to regret.
        regret = float((best - value) / (best - middle)) if all(by <= 0 for by in missed[-1].values()) else np.inf
        regrets.append(min([regret, *regrets[-1:]]))
        told = advice(recorded.space, seen, [candidate for candidate, _ in seen], violations=missed if limits else ())
        if told is not None and told.done:
            return Ended(len(regrets), tuple(regrets))
        if len(regrets) == BUDGETS[-1]:
            break
    return Ended(None, tuple(regrets))


def _job(path: Path, job: tuple[str, str, int]) -> Ended:
    name, kind, seed = job
    return search(name, load(path), ALPHAS[kind], seed)


def measured(path: Path, names: Sequence[str], searches: int, gp_searches: int, pool: Any) -> Result:
    """A table for each α."""
    jobs = [(name, kind, seed) for kind in ALPHAS for name in names for seed in range(searches)]
    found: dict[tuple[str, str], list[Ended]] = {}
    for (name, kind, _), one in zip(jobs, pool.map(partial(_job, path), jobs, chunksize=2), strict=True):
        if (kind, name) not in found:
            say(f"{kind} {name} …")
        found.setdefault((kind, name), []).append(one)
    figures: dict[str, float] = {}
    tables = []
    for kind, alpha in ALPHAS.items():
        strict = "_strict" if "strict" in kind else ""
        rows: list[list[object]] = []
        for name in names:
            for budget in BUDGETS:
                ones = found[kind, name]
                after = np.asarray([min(one.after or budget, budget, len(one.regrets)) for one in ones])
                regrets = 100 * np.asarray([one.regrets[n - 1] for one, n in zip(ones, after, strict=True)])
                # Trials after the last one that was better than all before it.
                idle = [n - one.regrets.index(min(one.regrets[:n])) - 1 for one, n in zip(ones, after, strict=True)]
                saved = float(1 - after.mean() / budget)
                median, high = np.percentile(regrets, (50, 90))
                figures[f"advice_saved_{budget}{strict}.{name}"] = saved
                figures[f"advice_regret_{budget}{strict}.{name}"] = float(median)
                figures[f"advice_regret_p90_{budget}{strict}.{name}"] = float(high)
                cells = [
                    float(np.median(after)),
                    f"{saved:.0%}",
                    f"{median:.2f}",
                    f"{high:.2f}",
                    float(np.median(idle)),
                ]
                rows.append([name, budget, len(ones), *cells])
        columns = ("strategy", "budget", "searches", "ends after", "saved", "regret", "90th", "idle")
        tables.append(
            Table(
                f"α = {alpha}: trials until the advice ends a search, and its regret then in % of the achievable range",
                columns,
                rows,
                ("ends after, regret and idle are medians; idle: trials since the best was found.",),
            )
        )
    return Result(tables, figures, {"table": path.name, "searches": searches})
