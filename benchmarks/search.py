"""Which strategy finds a good student soonest: each is replayed on a recorded table, with a search's own samplers.

Every candidate of one real space was distilled and timed once (`python -m benchmarks.record_table`), so a hundred
searches take minutes. Nothing in the strategies knows the table. Trains nothing.
"""

from __future__ import annotations

import argparse
import importlib
import os
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import report
from benchmarks.report import Result, Table, say
from benchmarks.search_replay import (
    ALPHAS,
    AT,
    BASELINES,
    DEFAULT,
    GOAL,
    INITIAL,
    STRATEGIES,
    Recorded,
    Replay,
    load,
    replay,
)
from kdnas.study.space import Dimension, SearchSpace
from kdnas.study.spec import from_values
from kdnas.study.spec_strategies import GP_TRIALS
from kdnas.system import seeds

FINISHED = 1000  # trials, when a proposal is timed


def main() -> None:
    report.run("Replay every strategy on a recorded table.", measure, options)


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--table", type=Path, default=DEFAULT, metavar="FILE", help="another recorded table")
    parser.add_argument("--seeds", type=int, default=100, help="searches of each strategy (100)")
    parser.add_argument("--gp-seeds", type=int, default=20, help="searches of gp, which is slow (20)")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="only these strategies")
    parts = parser.add_mutually_exclusive_group()
    parts.add_argument("--fronts", action="store_true", help="searches for the front instead, by their hypervolume")
    parts.add_argument("--constraint", action="store_true", help="searches under a constraint known after a trial")
    parts.add_argument("--advice", action="store_true", help="searches that end when the advice says so")
    parts.add_argument("--warm", action="store_true", help="searches that another study of the same teacher lends to")
    parts.add_argument("--parallel", action="store_true", help="searches with 1, 4 and 16 trials in flight")
    parser.add_argument("--lender", type=Path, metavar="FILE", help="with --warm: the table that lends")
    parser.add_argument("--workers", type=int, default=1, help="trials in flight (1)")
    parser.add_argument("--untimed", action="store_true", help="do not time proposals")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw the regrets (needs matplotlib)")


def measure(chosen: argparse.Namespace) -> Result:
    parts = ("fronts", "constraint", "advice", "warm", "parallel")
    if part := next((name for name in parts if getattr(chosen, name)), None):
        return _part(part, chosen)
    names = chosen.only or [*STRATEGIES, *BASELINES]
    unknown = [name for name in names if name not in STRATEGIES and name not in BASELINES]
    if unknown:
        raise SystemExit(f"There is no strategy {unknown[0]!r}. Known: {', '.join([*STRATEGIES, *BASELINES])}.")
    recorded = load(chosen.table)
    jobs = []
    for name in names:
        seeds = min(chosen.gp_seeds, chosen.seeds) if name == "gp" else chosen.seeds
        if chosen.quick:
            seeds = 2 if name == "gp" else 4
        jobs += [(name, kind, seed) for kind in ALPHAS for seed in range(seeds)]
    found: dict[tuple[str, str], list[Replay]] = {}
    begin = time.monotonic()
    with ProcessPoolExecutor(_cores(), initializer=_one_thread) as pool:
        done = pool.map(partial(_replay_job, chosen.table, chosen.workers), jobs, chunksize=4)
        for position, ((name, kind, _), replay) in enumerate(zip(jobs, done, strict=True), start=1):
            found.setdefault((name, kind), []).append(replay)
            if position % 100 == 0:
                say(f"{position} of {len(jobs)} searches, {time.monotonic() - begin:.0f} s")
        timed = [name for name in names if name in STRATEGIES]
        costs = {} if chosen.untimed else dict(zip(timed, pool.map(proposal_ms, timed), strict=True))
    if chosen.picture is not None:
        draw_picture(found, chosen.picture)
    return _result(recorded, names, found, costs, chosen.table, chosen.workers)


def _part(part: str, chosen: argparse.Namespace) -> Result:
    """A part of this benchmark with a file and strategies of its own."""
    files = {"fronts": "search_front", "parallel": "search_workers"}
    module = importlib.import_module(f"benchmarks.{files.get(part, f'search_{part}')}")
    names = chosen.only or [*module.STRATEGIES]
    if unknown := [name for name in names if name not in module.STRATEGIES]:
        raise SystemExit(f"{unknown[0]!r} has no part in --{part}. Known: {', '.join(module.STRATEGIES)}.")
    searches, of_gp = (4, 2) if chosen.quick else (chosen.seeds, chosen.gp_seeds)
    with ProcessPoolExecutor(_cores(), initializer=_one_thread) as pool:
        lender = {"lender": chosen.lender} if part == "warm" else {}
        found: Result = module.measured(chosen.table, names, searches, of_gp, pool, **lender)
    return found


@cache
def _replay_job(path: Path, workers: int, job: tuple[str, str, int]) -> Replay:
    name, kind, seed = job
    return replay(name, load(path), ALPHAS[kind], seed, workers)


# ---------------------------------------------------------------------------- what a proposal costs


def proposal_ms(name: str) -> float:
    """Median CPU milliseconds of one proposal with FINISHED trials behind it (gp: as many as it is offered for), on a
    made-up landscape of 5,184 candidates, storage in memory."""
    import optuna

    from kdnas.strategies import candidate, directions, lstm, parameters, sampler
    from kdnas.strategies.optuna_space import distributions

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space = SearchSpace(
        (
            *(Dimension(f"size_{i}", tuple(range(1, 7))) for i in range(3)),
            Dimension("inner", tuple(range(8))),
            Dimension("act", ("gelu", "relu", "silu"), ordered=False),
        )
    )
    spec = from_values({"strategy": STRATEGIES[name]})
    finished = GP_TRIALS if name == "gp" else FINISHED
    rng = seeds.generator(0, seeds.Benchmark.SAMPLE)
    known = [space.from_ordinal(int(o)) for o in rng.permutation(space.size)[:finished]]
    value = [float(1 - 0.1 * ((space.encode(c) - 2) ** 2).mean() + 0.01 * rng.normal()) for c in known]
    taken = {space.key(c) for c in known}
    if name.startswith("lstm"):
        options: Any = spec.strategy
        history = [lstm.Rewarded(c, w, i // options.samples) for i, (c, w) in enumerate(zip(known, value, strict=True))]
        episode, times = finished // options.samples, []
        state: bytes | None = None
        for _ in range(4):
            begin = time.process_time()
            state = lstm.plan(options, space, 0, episode, history, taken, state, options.samples).state
            times.append((time.process_time() - begin) * 1000 / options.samples)
        return float(np.median(times[1:]))  # the first one warms torch up
    study = optuna.create_study(directions=directions(spec))
    for number, (c, w) in enumerate(zip(known, value, strict=True)):
        attributes = {"NSGAIISampler:generation": number // 20} if name == "nsga2" else {}
        study.add_trial(
            optuna.trial.create_trial(
                params=parameters(space, c),
                distributions=distributions(space),
                values=[1 - w, float(space.encode(c).sum())] if spec.two_objectives else [w],
                system_attrs=attributes,
            )
        )
    costs = []
    kept: dict[int, Any] = {}
    for slot in range(finished, finished + (3 if name == "gp" else 10)):
        begin = time.process_time()
        study.sampler = sampler(spec, space, slot, taken, kept=kept)
        trial = study.ask()
        candidate(trial, space)
        costs.append((time.process_time() - begin) * 1000)
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
    return float(np.median(costs[1:]))


# ---------------------------------------------------------------------------- telling


def _result(
    recorded: Recorded,
    names: Sequence[str],
    found: dict[tuple[str, str], list[Replay]],
    costs: dict[str, float],
    path: Path,
    workers: int,
) -> Result:
    figures: dict[str, float] = {f"proposal_ms.{name}": cost for name, cost in costs.items()}
    tables = []
    for kind, alpha in ALPHAS.items():
        rewards = recorded.rewards(alpha)
        near = int((rewards >= rewards.max() - GOAL * (rewards.max() - np.median(rewards))).sum())
        rows: list[list[object]] = []
        for name in names:
            replays = found[name, kind]
            counts = [r.reached if r.reached is not None else recorded.space.size for r in replays]
            low, median, high = np.percentile(counts, (25, 50, 75))
            figures[f"{kind}.{name}"] = float(median)
            regrets = np.asarray([r.regrets for r in replays])
            cells = []
            for position, at in enumerate(AT):
                q = np.percentile(regrets[:, position], (25, 50, 75)) * 100
                cells.append(f"{q[1]:.1f} ({q[0]:.1f} … {q[2]:.1f})")
                figures[f"regret_{at}{'_strict' if 'strict' in kind else ''}.{name}"] = float(q[1])
            missed = sum(r.reached is None for r in replays)
            rows.append([name, len(replays), float(median), f"{low:.0f} … {high:.0f}", missed, *cells, costs.get(name)])
        tables.append(
            Table(
                f"α = {alpha}: evaluations to within 1 % of the achievable range, and regret in % of it",
                ("strategy", "searches", "median", "quartiles", "missed", *(f"regret at {n}" for n in AT), "ms each"),
                rows,
                (
                    f"{near} of {len(rewards)} candidates are within the goal; best {rewards.max():.4f}, "
                    f"median {np.median(rewards):.4f}; {recorded.candidates[int(rewards.argmax())]}",
                ),
            )
        )
    facts = {
        "table": path.name,
        "candidates": len(recorded.candidates),
        "loss_noise": recorded.noise,
        "latency_noise": recorded.latency_noise,
        "initial": INITIAL,
        "workers": workers,
        "finished_when_timed": {"others": FINISHED, "gp": GP_TRIALS},
        "searches": {f"{name} {kind}": len(replays) for (name, kind), replays in found.items()},
    }
    notes = f"Losses differ by {recorded.noise:.4f} between seeds, latencies by {recorded.latency_noise:.1%} (one σ)."
    say(notes)
    return Result(tables, figures, facts)


def draw_picture(found: dict[tuple[str, str], list[Replay]], path: Path) -> None:
    """Median regret after each evaluation with the band between the quartiles, one panel per α."""
    try:
        import matplotlib
    except ImportError:
        raise SystemExit("The picture needs matplotlib: pip install 'kdnas[report]'.") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    colours = {
        "auto": "#000000",
        "lstm": "#d6336c",
        "tpe": "#1971c2",
        "random": "#868e96",
        "lstm_paper": "#f08c00",
        "gp": "#2f9e44",
    }
    others = iter(("#7048e8", "#0c8599", "#a61e4d", "#5c940d", "#495057", "#adb5bd", "#e8590c"))
    figure, axes = pyplot.subplots(1, len(ALPHAS), figsize=(12, 5.6), sharey=True, layout="constrained")
    for axis, (kind, alpha) in zip(axes, ALPHAS.items(), strict=True):
        for name in [n for n, k in found if k == kind]:
            curves = np.asarray([_padded(r.best) for r in found[name, kind]]) * 100
            low, middle, high = np.percentile(curves, (25, 50, 75), axis=0)
            main = name in colours
            colour = colours[name] if main else next(others, "#ced4da")
            steps = np.arange(1, curves.shape[1] + 1)
            axis.plot(steps, np.maximum(middle, 0.1), color=colour, label=name, lw=2 if main else 1)
            if main:
                axis.fill_between(steps, np.maximum(low, 0.1), np.maximum(high, 0.1), color=colour, alpha=0.12, lw=0)
        others = iter(("#7048e8", "#0c8599", "#a61e4d", "#5c940d", "#495057", "#adb5bd", "#e8590c"))
        axis.axhline(GOAL * 100, color="black", lw=0.8, ls=":")
        axis.set(yscale="log", xlabel="candidates evaluated", title=f"α = {alpha}", xlim=(1, AT[-1]))
    axes[0].set_ylabel("regret, % of the achievable range (median, quartiles)")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=6, frameon=False, fontsize=9)
    figure.savefig(path, dpi=110)


def _padded(values: Iterable[float]) -> np.ndarray:
    known = list(values)
    return np.asarray(known + known[-1:] * (AT[-1] - len(known)))


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _one_thread() -> None:
    import warnings

    import torch

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)


if __name__ == "__main__":
    main()
