"""Whether students whose layers differ are better than students of equal layers that take as long.

    python -m benchmarks.per_layer [--quick] [--json FILE] [--budgets N] [--epochs N] [--seeds N] [--cpu-time]

The quickstart's text and sizes, heads of 32, one thread. Every student of equal layers is fitted. Of those on their
front, four give a latency budget each. For each, the students of layers that differ that the block library puts first
at that latency are fitted, and the best of them stands beside the best of equal layers. Both are measured, and both
distilled in full, with the same seeds. Each fitted score, the students of each budget and each distillation are kept,
so that a run that was interrupted goes on; `--fresh` forgets them.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from benchmarks.report import Result, Table, run, say
from kdnas.measuring import devices, latency
from kdnas.models.encoder_sizes import Sizes
from kdnas.recipes import layer_solver, recipe
from kdnas.recipes.contract import Proposal, Workbench
from kdnas.recipes.spaces.encoder import sizes_of
from kdnas.search.candidate import Measure, Timed
from kdnas.search.layer_latency import layer_times
from kdnas.study.space import Candidate
from kdnas.study.spec import StudySpec, from_values
from kdnas.study.spec_toml import read_toml
from kdnas.system import paths
from kdnas.system.files import write_atomically
from kdnas.training.contract import Student

T = TypeVar("T")
CPU = torch.device("cpu")
BUDGETS, EPOCHS, SEEDS = 4, 3, 3
FITTED = 4  # students of each depth whose layers differ that are fitted for a budget
ROUNDS = 31  # passes of student and teacher, by processor time
SLACK = 1.002  # of a budget: figures of one table differ in their last digits


@dataclass(frozen=True)
class Passes:
    """Processor time of a student's passes and of the teacher's, in turn, in ms."""

    p50: float
    teacher_p50: float
    low: float
    high: float
    flag: str | None = None
    p90: float | None = None
    count: int = ROUNDS


@dataclass(frozen=True)
class Found:
    """A student with its fitted score and its predicted latency over the teacher's."""

    candidate: Candidate
    loss: float
    ratio: float


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--budgets", type=int, default=BUDGETS, help="latency budgets, from the front's middle outwards"
    )
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="epochs of full distillation; 0: none")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="distillations of each student")
    parser.add_argument("--fresh", action="store_true", help="forget what an earlier run has kept")
    parser.add_argument("--cpu-time", action="store_true", help="time passes by the processor: for a busy machine")


def measure(chosen: argparse.Namespace) -> Result:
    torch.set_num_threads(1)
    epochs, seeds, budgets = (1, 1, 1) if chosen.quick else (chosen.epochs, chosen.seeds, chosen.budgets)
    equal, differ = (_bench(per_layer, chosen.quick) for per_layer in (False, True))
    timed = _by_processor if chosen.cpu_time else _protocol
    if chosen.fresh:
        _file(equal).unlink(missing_ok=True)
    way = "processor time" if chosen.cpu_time else "protocol"
    pairs = _kept(equal, f"students by {way}", lambda: _pairs(equal, differ, timed))
    rows: list[tuple[Any, ...]] = []
    figures: dict[str, float] = {}
    for number, pair in list(enumerate(pairs, start=1))[:: max(1, BUDGETS // budgets)][:budgets]:
        best, own = (Found(*one) for one in pair)
        figures[f"fitted_{number}"] = own.loss / best.loss
        distilled: dict[str, list[float]] = {}
        for kind, bench, student in (("equal", equal, best), ("differ", differ, own)):
            taken = timed(bench, bench.probe(student.candidate), student.candidate)
            distilled[kind] = [
                _distilled(bench, student.candidate, epochs, seed) for seed in range(seeds if epochs else 0)
            ]
            ended = float(np.median(distilled[kind])) if epochs else None
            spread = float(np.ptp(distilled[kind])) if len(distilled[kind]) > 1 else None
            real = taken.p50 / taken.teacher_p50
            rows.append(
                (number, kind, _words(sizes_of(student.candidate)), student.ratio, real, student.loss, ended, spread)
            )
            figures[f"ratio_{kind}_{number}"] = real
        if epochs:
            figures[f"distilled_{number}"] = float(np.median(distilled["differ"]) / np.median(distilled["equal"]))
    names = ["budget", "layers", "student", "predicted", "measured", "fitted", f"after {epochs} epochs", "spread"]
    note = "predicted and measured: latency over the teacher's; figures fitted_N and distilled_N: differ over equal"
    facts = {"bench": differ.provenance(), "space": differ.space.size, "device": devices.device_name(CPU)}
    for bench in (equal, differ):
        bench.close()
    return Result(
        [Table("The best students of equal layers, and of layers that differ", names, rows, [note])], figures, facts
    )


def _pairs(equal: Workbench, differ: Workbench, timed: Measure) -> list[list[tuple[Candidate, float, float]]]:
    """For each latency budget the best student of equal layers and of layers that differ, as parts of Found."""
    times = layer_times(differ, timed, lambda words, _: say(words))
    uniform = [Found(c, _fitted(equal, c), times.whole(sizes_of(c))) for c in equal.space.candidates()]
    proposals = differ.proposals(times.block, times.around, lambda words, _: say(words))
    losses, ratios = (np.array([getattr(one, name) for one in uniform]) for name in ("loss", "ratio"))
    front = layer_solver.thinned(losses, ratios, len(losses))
    pairs = []
    for mark in (front[round((i + 0.5) * (len(front) - 1) / BUDGETS)] for i in range(BUDGETS)):
        budget = float(ratios[mark]) * SLACK
        best = min((one for one in uniform if one.ratio <= budget), key=lambda one: one.loss)
        own = min(_tried(differ, proposals, budget), key=lambda one: one.loss)
        pairs.append([(one.candidate, one.loss, one.ratio) for one in (best, own)])
    return pairs


def _bench(per_layer: bool, quick: bool) -> Workbench:
    return recipe("hidden-state").prepare(_spec(per_layer, quick), CPU, lambda words, _: None)


def _spec(per_layer: bool, quick: bool) -> StudySpec:
    values = read_toml(paths.presets()["quickstart"]).model_dump(mode="json")
    choices = {**values["space"]["choices"], "head_size": [32], "hidden_act": ["gelu"]}
    if quick:
        choices |= {"num_hidden_layers": [2], "hidden_size": [256, 384], "intermediate_size": [384, 1536]}
        values["data"]["limit"] = 200
        values["budget"]["proxy_fraction"] = 0.5
    return from_values({**values, "space": {"choices": choices, "per_layer": per_layer}})


def _protocol(bench: Workbench, student: Student, candidate: Candidate) -> Timed:
    return latency.measure(bench.timed(student), bench.timed(None), bench.spec.latency, CPU)


def _by_processor(bench: Workbench, student: Student, candidate: Candidate) -> Timed:
    """The same on a busy machine: what other jobs take is left out, if not what they do to caches."""
    spent: tuple[list[float], list[float]] = [], []
    for _ in range(ROUNDS):
        for once, times in zip((bench.timed(student), bench.timed(None)), spent, strict=True):
            began = time.thread_time()
            once()
            times.append((time.thread_time() - began) * 1000)
    own, teacher = map(sorted, spent)
    middle = ROUNDS // 2
    return Passes(own[middle], teacher[middle], own[ROUNDS // 3], own[-ROUNDS // 3])


def _file(bench: Workbench) -> Path:
    """What earlier runs found on this bench's teacher and text, JSON values by name."""
    facts = bench.provenance()
    ground = f"{facts['teacher_fingerprint'][:16]}-{facts['data_fingerprint'][:16]}-{facts['proxy_tokens']}.json"
    return paths.state_folder() / "per_layer" / ground


def _kept(bench: Workbench, name: str, measured: Callable[[], T]) -> T:
    """What has that name on this bench's teacher and text, from an earlier run where there is one."""
    file = _file(bench)
    known = json.loads(file.read_text()) if file.exists() else {}
    if name in known:
        return known[name]
    found = measured()
    file.parent.mkdir(parents=True, exist_ok=True)
    known = json.loads(file.read_text()) if file.exists() else {}
    write_atomically(file, json.dumps({**known, name: found}))
    return found


def _fitted(bench: Workbench, candidate: Candidate) -> float:
    own = _words(sizes_of(candidate))

    def fit() -> float:
        say(f"fitting {own}")
        return bench.training(bench.build(candidate, 0), epochs=0, seed=0).begin().score.loss

    return _kept(bench, own, fit)


def _tried(bench: Workbench, proposals: list[Proposal], budget: float) -> list[Found]:
    """The slowest of each depth's proposals within the budget, fitted: a depth's proposals lose less the slower they
    are."""
    found = []
    for depth in sorted({int(one.candidate["num_hidden_layers"]) for one in proposals}):
        within = [one for one in proposals if one.candidate["num_hidden_layers"] == depth and one.time <= budget]
        found += [Found(one.candidate, _fitted(bench, one.candidate), one.time) for one in within[-FITTED:]]
    return found


def _distilled(bench: Workbench, candidate: Candidate, epochs: int, seed: int) -> float:
    """The held-out loss of the best epoch of a full distillation."""
    own = f"{_words(sizes_of(candidate))}, seed {seed}"

    def train() -> float:
        training = bench.training(bench.build(candidate, seed), epochs=epochs, seed=seed, full=True)
        losses = []
        for epoch in range(epochs):
            losses.append(training.run_epoch().score.loss)
            say(f"{own}: epoch {epoch + 1} of {epochs}, loss {losses[-1]:.4f}")
        return min(losses)

    return _kept(bench, f"{own}, {epochs} epochs of {bench.provenance()['training_tokens']} tokens", train)


def _words(sizes: Sizes) -> str:
    """`3 × 320, heads 10, neurons 768`, or a number for each layer."""
    layers = [sizes.layer(i) for i in range(sizes.layers)] if sizes.each else [sizes.layer(0)]
    heads, inner = (" ".join(str(getattr(layer, name)) for layer in layers) for name in ("heads", "inner"))
    return f"{sizes.layers} × {sizes.width}, heads {heads}, neurons {inner}"


if __name__ == "__main__":
    run("Students whose layers differ beside students of equal layers that take as long.", measure, options)
