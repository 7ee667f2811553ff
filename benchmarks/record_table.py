"""Builds the tables on which strategies are judged: every candidate of one real space, scored and timed once.

`quickstart-fitted` is the quickstart's space under one activation with the score that it has today: students as they
are fitted, without training, and latencies added up from measured blocks; `quickstart-films` is the same of the same
teacher on other text. `minilm-sotu` is a space of students that inherit slices, distilled for an epoch and each
measured whole. `news-recurrent` is of another recipe: small recurrent networks that learn to tell five kinds of news
apart, four epochs each. A part of the candidates is evaluated a second time with another seed, to show the noise. Each
row is written as soon as it is known: started again, it goes on where it was stopped.
`python -m benchmarks.search` reads the result.
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
from kdnas.study.spec_toml import read_toml
from kdnas.system import paths, seeds

TABLES = Path(__file__).resolve().parent / "tables"
INHERITED = {
    "name": "minilm-sotu",
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
FITTED = {"quickstart-fitted": {}, "quickstart-films": {"source": "rotten-tomatoes"}}  # what differs in the data
RECURRENT = {
    "name": "news-recurrent",
    "seed": 0,
    "device": "cpu",
    "recipe": {
        "name": "rnn-hybrid",
        "embeddings": "teacher",
        "teacher_epochs": 1,
        "soft": 0.8,
        "hard": 0.2,
        "sequence": 0,
    },
    "data": {
        "source": "bbc-news",
        "label_column": "label",
        "length": 48,
        "batch_size": 16,
        "limit": 1200,
        "held_out": 0.4,
        "max_held_out": 480,
    },
    "space": {
        "choices": {
            "cell": ["lstm", "gru", "convolution"],
            "num_hidden_layers": [1, 2],
            "hidden_size": [16, 32, 64, 128],
            "embedding_size": [64, 256],
            "bidirectional": [False, True],
            "dropout": [0.1],
            "pruned": [0.0],
        }
    },
    "training": {"learning_rate": 2e-3, "warmup": 0.1},
    "budget": {"epochs": 4, "proxy_fraction": 1.0},
    "latency": {"batch_size": 1, "length": 48, "threads": 1},
}
REPEATED = {
    **dict.fromkeys(FITTED, 32),
    "minilm-sotu": 10,
    "news-recurrent": 8,
}  # one in so many is evaluated again with another seed
WHICH = ("candidate", "seed")
LOSSES = ("loss", "raw_loss", "parameters", "seconds")
LATENCIES = ("latency_ms", "teacher_latency_ms", "latency_rounds", "latency_spread")
DEPTH = "num_hidden_layers"
ROUNDS = 20  # each the teacher once and the student as often as fits in the same time, at most BLOCK times
BLOCK_ROUNDS = 8  # of a student that stands for all depths of its block
BLOCK = 6
PROTOCOL = (
    "median CPU time of the timing thread over rounds in which teacher and student take turns, one thread, "
    "batch and length of the spec; CPU time because the machine was shared, and waiting for a core is no latency; "
    "latency_ms is the median over rounds of student by teacher, times the teacher's median; "
    "latency_spread is the interquartile range of those quotients over their median"
)
BY_BLOCKS = (
    "predicted as a sum of blocks: each width, head size, feed-forward width and activation measured in its shallowest "
    "and in its deepest student, a straight line through the two in between; those two by this protocol: "
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.record_table", description="Build the recorded table.")
    parser.add_argument("table", choices=REPEATED, nargs="?", default=next(iter(REPEATED)), help="which one")
    parser.add_argument("--only", choices=("losses", "latencies", "write"), help="do one of the three steps only")
    chosen = parser.parse_args()
    work = paths.state_folder() / "record_table" / chosen.table
    work.mkdir(parents=True, exist_ok=True)
    spec = spec_of(chosen.table)
    if chosen.only in (None, "losses", "latencies"):
        import torch

        from kdnas.recipes import recipe

        torch.set_num_threads(1)
        bench = recipe(spec.recipe.name).prepare(spec, torch.device("cpu"), lambda line, part: None)
        known = {"space": bench.space.to_json(), "bench": bench.provenance(), "begun": provenance(False, time.time())}
        if not (work / "bench.json").exists():
            (work / "bench.json").write_text(json.dumps(known))
        plan = order(bench.space, REPEATED[chosen.table])
        if chosen.only != "latencies":
            fill(work / "losses.csv", LOSSES, plan, lambda c, seed: loss(bench, c, seed))
        if chosen.only != "losses":
            by_blocks = spec.latency.by == "blocks"
            measured, rounds = (ends(bench.space, plan), BLOCK_ROUNDS) if by_blocks else (plan, ROUNDS)
            fill(work / "latencies.csv", LATENCIES, measured, lambda c, seed: latency(bench, c, rounds))
    if chosen.only in (None, "write"):
        write(work, chosen.table, spec)


def spec_of(table: str) -> StudySpec:
    whole = next((values for values in (INHERITED, RECURRENT) if values["name"] == table), None)
    if whole is not None:
        return from_values(whole)
    values = read_toml(paths.presets()["quickstart"]).model_dump(mode="json")
    choices = {**values["space"]["choices"], "hidden_act": ["gelu"]}  # 128 students: half an hour of one core
    changed = {
        "data": {**values["data"], **FITTED[table]},
        "space": {"choices": choices},
        "latency": {**values["latency"], "by": "blocks"},
    }
    return from_values({**values, **changed, "name": table, "device": "cpu"})


def ends(space: SearchSpace, plan: list[tuple[Candidate, int]]) -> list[tuple[Candidate, int]]:
    """What is measured where latencies are sums of blocks: each block's shallowest and deepest student, per seed."""
    found = {}
    for candidate, seed in plan:
        for depth in _outer(space):
            one = {**candidate, DEPTH: depth}
            found[space.key(one), seed] = (one, seed)
    return list(found.values())


def _outer(space: SearchSpace) -> tuple[int, int]:
    depths = [int(choice) for d in space.dimensions if d.name == DEPTH for choice in d.choices]
    return depths[0], depths[-1]


def added_up(
    space: SearchSpace, candidate: Candidate, seed: int, measured: Mapping[tuple[str, int], Mapping[str, str]]
) -> dict[str, Any]:
    """The latency columns of a candidate between the two depths that were measured of its blocks."""
    outer = _outer(space)
    rows = [measured[json.dumps({**candidate, DEPTH: depth}), seed] for depth in outer]
    shares = [float(row["latency_ms"]) / float(row["teacher_latency_ms"]) for row in rows]
    share = float(np.interp(int(candidate[DEPTH]), outer, shares))
    reference = float(rows[-1]["teacher_latency_ms"])
    return {
        "latency_ms": round(share * reference, 4),
        "teacher_latency_ms": round(reference, 4),
        "latency_rounds": BLOCK_ROUNDS,
        "latency_spread": max(float(row["latency_spread"]) for row in rows),
    }


def order(space: SearchSpace, repeated: int) -> list[tuple[Candidate, int]]:
    """Every candidate with seed 0, in an order that a drifting machine cannot favour; then one in `repeated` with seed
    1."""
    rng = seeds.generator(0, seeds.Benchmark.SAMPLE)
    ordinals = rng.permutation([space.ordinal(c) for c in space.candidates()])
    again = ordinals[::repeated]
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
    epoch = None if training.epochs else training.begin()
    while training.done < training.epochs:
        epoch = training.run_epoch()
    assert epoch is not None
    seconds = time.perf_counter() - begin
    score = epoch.score
    return {
        "loss": round(score.loss, 6),
        "raw_loss": round(score.raw_loss, 7),
        "parameters": student.size,
        "seconds": round(seconds, 2),
    }


def latency(bench: Any, candidate: Candidate, rounds: int) -> dict[str, Any]:
    """See PROTOCOL."""
    # A sum of blocks takes models of whatever weights, as a search does.
    model = bench.probe(candidate) if bench.spec.latency.by == "blocks" else bench.build(candidate, 0)
    student, teacher = bench.timed(model), bench.timed(None)
    for _ in range(3):
        once = cpu_ms(student)
        theirs = cpu_ms(teacher)
    block = int(np.clip(theirs / once, 1, BLOCK))
    ours, teachers = [], []
    for _ in range(rounds):
        before = cpu_ms(teacher)
        ours.append(float(np.median([cpu_ms(student) for _ in range(block)])))
        teachers.append((before + cpu_ms(teacher)) / 2)
    shares = np.asarray(ours) / np.asarray(teachers)
    low, middle, high = np.percentile(shares, (25, 50, 75))
    reference = float(np.median(teachers))
    return {
        "latency_ms": round(float(middle) * reference, 4),
        "teacher_latency_ms": round(reference, 4),
        "latency_rounds": rounds,
        "latency_spread": round(float((high - low) / middle), 4),
    }


def cpu_ms(once: Callable[[], None]) -> float:
    begin = time.thread_time_ns()
    once()
    return (time.thread_time_ns() - begin) / 1e6


def write(work: Path, table: str, spec: StudySpec) -> None:
    """The table as CSV, compressed so that equal rows give equal bytes, and where it comes from as JSON beside it."""
    known = json.loads((work / "bench.json").read_text())
    space = SearchSpace.from_json(known["space"])
    losses, latencies = read(work / "losses.csv"), read(work / "latencies.csv")
    plan = order(space, REPEATED[table])
    wanted = [(json.dumps(c), seed) for c, seed in plan]
    by_blocks = spec.latency.by == "blocks"
    if by_blocks and all((json.dumps(c), seed) in latencies for c, seed in ends(space, plan)):
        latencies = {(json.dumps(c), seed): added_up(space, c, seed, latencies) for c, seed in plan}
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
    with (TABLES / f"{table}.csv.gz").open("wb") as raw, gzip.GzipFile("", "wb", 9, raw, mtime=0) as packed:
        packed.write(text.getvalue().encode())
    facts = {
        "space": json.loads(known["space"]),
        "spec": spec.model_dump(mode="json"),
        "bench": known["bench"],
        "latency_protocol": BY_BLOCKS + PROTOCOL if by_blocks else PROTOCOL,
        "seeds": {"0": "every candidate", "1": f"one candidate in {REPEATED[table]}"},
        "versions": {name: metadata.version(name) for name in LIBRARIES},
        "provenance": known["begun"],  # of the losses, which come first
    }
    (TABLES / f"{table}.json").write_text(json.dumps(facts, indent=2) + "\n")
    say(f"{len(wanted)} rows in {TABLES / table}.csv.gz")


if __name__ == "__main__":
    main()
