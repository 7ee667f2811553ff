"""Builds the table on which strategies are judged: every candidate of one real space, distilled and timed once.

The embedded default (all-MiniLM-L6-v2 on State of the Union addresses) with a short budget; a tenth of the
candidates a second time with another seed, to show the noise. Losses first, latencies after them, each row written
as soon as it is known: started again, it goes on where it was stopped. `python -m benchmarks.search` reads the result.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import json
import time
from collections.abc import Callable, Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import LIBRARIES, provenance, say
from kdnas.study.space import Candidate, SearchSpace
from kdnas.study.spec import StudySpec, from_values
from kdnas.system import paths, seeds

NAME = "minilm-sotu"
TABLES = Path(__file__).resolve().parent / "tables"
SPEC = {
    "name": NAME,
    "seed": 0,
    "device": "cpu",
    "recipe": {"name": "hidden-state", "init": "inherit"},
    "data": {"source": "sotu", "length": 64, "batch_size": 8, "limit": 420, "held_out": 0.15, "max_held_out": 64},
    "space": {
        "choices": {
            "num_hidden_layers": [2, 3, 4, 6],
            "hidden_size": [96, 128, 160, 192, 256],
            "head_size": [16, 32],
            "intermediate_size": [192, 576, 1152],
            "hidden_act": ["gelu", "relu", "silu"],
        }
    },
    "budget": {"epochs": 1, "proxy_fraction": 1.0},
    "latency": {"batch_size": 1, "length": 128, "threads": 1},
}
REPEATED = 10  # one candidate in this many is evaluated again with another seed
WHICH = ("candidate", "seed")
LOSSES = ("loss", "raw_loss", "parameters", "seconds")
LATENCIES = ("latency_ms", "teacher_latency_ms", "latency_rounds", "latency_spread")
ROUNDS = 20  # each the teacher once and the student as often as fits in the same time, at most BLOCK times
BLOCK = 6
PROTOCOL = (
    "median CPU time of the timing thread over rounds in which teacher and student take turns, one thread, "
    "batch and length of the spec; CPU time because the machine was shared, and waiting for a core is no latency; "
    "latency_ms is the median over rounds of student by teacher, times the teacher's median; "
    "latency_spread is the interquartile range of those quotients over their median"
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.record_table", description="Build the recorded table.")
    parser.add_argument("--only", choices=("losses", "latencies", "write"), help="do one of the three steps only")
    chosen = parser.parse_args()
    work = paths.state_folder() / "record_table" / NAME
    work.mkdir(parents=True, exist_ok=True)
    spec = from_values(SPEC)
    if chosen.only in (None, "losses", "latencies"):
        import torch

        from kdnas.recipes import recipe

        torch.set_num_threads(1)
        bench = recipe(spec.recipe.name).prepare(spec, torch.device("cpu"), lambda line, part: None)
        known = {"space": bench.space.to_json(), "bench": bench.provenance(), "begun": provenance(False, time.time())}
        if not (work / "bench.json").exists():
            (work / "bench.json").write_text(json.dumps(known))
        plan = order(bench.space)
        if chosen.only != "latencies":
            fill(work / "losses.csv", LOSSES, plan, lambda c, seed: loss(bench, c, seed))
        if chosen.only != "losses":
            fill(work / "latencies.csv", LATENCIES, plan, lambda c, seed: latency(bench, c))
    if chosen.only in (None, "write"):
        write(work, spec)


def order(space: SearchSpace) -> list[tuple[Candidate, int]]:
    """Every candidate with seed 0, in an order that a drifting machine cannot favour; then a tenth with seed 1."""
    rng = seeds.generator(0, seeds.Benchmark.SAMPLE)
    ordinals = rng.permutation([space.ordinal(c) for c in space.candidates()])
    again = ordinals[::REPEATED]
    return [(space.from_ordinal(int(o)), 0) for o in ordinals] + [(space.from_ordinal(int(o)), 1) for o in again]


def fill(
    path: Path,
    columns: Iterable[str],
    plan: list[tuple[Candidate, int]],
    evaluate: Callable[[Candidate, int], Mapping[str, Any]],
) -> None:
    """Append the missing rows, each flushed at once."""
    known = read(path)
    todo = [(c, s) for c, s in plan if (json.dumps(c), s) not in known]
    begin = time.monotonic()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, (*WHICH, *columns))
        if not known:
            writer.writeheader()
        for done, (candidate, seed) in enumerate(todo, start=1):
            found = evaluate(candidate, seed)
            writer.writerow({"candidate": json.dumps(candidate), "seed": seed, **found})
            file.flush()
            left = (time.monotonic() - begin) / done * (len(todo) - done) / 60
            say(f"{path.stem} {done}/{len(todo)} {candidate} {dict(found)}, {left:.0f} min left")


def read(path: Path) -> dict[tuple[str, int], dict[str, str]]:
    """(candidate as JSON, seed) → its row; a row that a kill has cut off lacks columns and is left out."""
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        return {(r["candidate"], int(r["seed"])): r for r in csv.DictReader(file) if None not in r.values()}


def loss(bench: Any, candidate: Candidate, seed: int) -> dict[str, Any]:
    begin = time.perf_counter()
    student = bench.build(candidate, seed)
    training = bench.training(student, epochs=bench.spec.budget.epochs, seed=seed)
    while training.done < training.epochs:
        epoch = training.run_epoch()
    seconds = time.perf_counter() - begin
    score = epoch.score
    return {
        "loss": round(score.loss, 6),
        "raw_loss": round(score.raw_loss, 7),
        "parameters": student.size,
        "seconds": round(seconds, 2),
    }


def latency(bench: Any, candidate: Candidate) -> dict[str, Any]:
    """See PROTOCOL."""
    student, teacher = bench.timed(bench.build(candidate, 0)), bench.timed(None)
    for _ in range(3):
        once = cpu_ms(student)
        theirs = cpu_ms(teacher)
    block = int(np.clip(theirs / once, 1, BLOCK))
    ours, teachers = [], []
    for _ in range(ROUNDS):
        before = cpu_ms(teacher)
        ours.append(float(np.median([cpu_ms(student) for _ in range(block)])))
        teachers.append((before + cpu_ms(teacher)) / 2)
    shares = np.asarray(ours) / np.asarray(teachers)
    low, middle, high = np.percentile(shares, (25, 50, 75))
    reference = float(np.median(teachers))
    return {
        "latency_ms": round(float(middle) * reference, 4),
        "teacher_latency_ms": round(reference, 4),
        "latency_rounds": ROUNDS,
        "latency_spread": round(float((high - low) / middle), 4),
    }


def cpu_ms(once: Callable[[], None]) -> float:
    begin = time.thread_time_ns()
    once()
    return (time.thread_time_ns() - begin) / 1e6


def write(work: Path, spec: StudySpec) -> None:
    """The table as CSV, compressed so that equal rows give equal bytes, and where it comes from as JSON beside it."""
    known = json.loads((work / "bench.json").read_text())
    space = SearchSpace.from_json(known["space"])
    losses, latencies = read(work / "losses.csv"), read(work / "latencies.csv")
    wanted = [(json.dumps(c), seed) for c, seed in order(space)]
    missing = [key for key in wanted if key not in losses or key not in latencies]
    if missing:
        raise SystemExit(f"{len(missing)} of {len(wanted)} rows are not complete; run it again without --only.")
    text = io.StringIO()
    names = [d.name for d in space.dimensions]
    writer = csv.DictWriter(text, [*names, "seed", *LOSSES, *LATENCIES], extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for key in sorted(wanted, key=lambda k: (k[1], space.ordinal(json.loads(k[0])))):
        writer.writerow({**json.loads(key[0]), **losses[key], **latencies[key]})
    TABLES.mkdir(exist_ok=True)
    with (TABLES / f"{NAME}.csv.gz").open("wb") as raw, gzip.GzipFile("", "wb", 9, raw, mtime=0) as packed:
        packed.write(text.getvalue().encode())
    facts = {
        "space": json.loads(known["space"]),
        "spec": spec.model_dump(mode="json"),
        "bench": known["bench"],
        "latency_protocol": PROTOCOL,
        "seeds": {"0": "every candidate", "1": f"one candidate in {REPEATED}"},
        "versions": {name: metadata.version(name) for name in LIBRARIES},
        "provenance": known["begun"],  # of the losses, which come first
    }
    (TABLES / f"{NAME}.json").write_text(json.dumps(facts, indent=2) + "\n")
    say(f"{len(wanted)} rows in {TABLES / NAME}.csv.gz")


if __name__ == "__main__":
    main()
