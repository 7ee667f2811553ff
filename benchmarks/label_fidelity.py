"""Whether a score that costs seconds ranks students as their accuracy after a full distillation does.

    python -m benchmarks.label_fidelity [--quick] [--candidates N] [--fresh] [--json FILE]

The candidates of benchmarks.fidelity, of a teacher that has learned the film reviews, on their training sentences. Each
is scored as it is fitted and after two epochs of mini-KD (fitted, and sliced), then distilled in full for three epochs
and scored on the sentences that nobody was trained on, as it is: with the teacher's head, solved for it. Every finished
candidate is written down at once, so that an interrupted run goes on; `--fresh` forgets what is there.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.fidelity import SPEC
from benchmarks.final import Clock, taught_teacher, text_of_the_task
from benchmarks.kendall import kendall
from benchmarks.kept_rows import Row, kept, spread_over
from benchmarks.report import Result, Table, run, say
from kdnas.data.glue import OWN
from kdnas.recipes import recipe
from kdnas.recipes.contract import Workbench
from kdnas.scores.finetuning import FineTuning
from kdnas.scores.score_folder import Wanted, score
from kdnas.students.distil import Job, Telling, distil
from kdnas.study.space import Candidate
from kdnas.study.spec import StudySpec, from_values
from kdnas.study.spec_flags import overlay
from kdnas.system import paths, seeds

CPU = torch.device("cpu")
EPOCHS, MINI = 3, 2
ORDERS = 10_000  # random ones, whose τ says what chance gives
PREDICTORS = ("fitted", "fitted, mini-KD", "sliced, mini-KD")


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--candidates", type=int, default=24, metavar="N", help="how many candidates (default 24)")
    parser.add_argument("--fresh", action="store_true", help="forget candidates evaluated by an earlier run")


def spec_of(quick: bool, folder: Path) -> StudySpec:
    """The films as benchmarks.final has them, on the default space."""
    text = text_of_the_task(folder.resolve())
    fields: list[tuple[str, Any]] = [
        ("name", "label-fidelity"),
        ("teacher.checkpoint", str(taught_teacher(text, Clock(folder / "seconds.json"), quick))),
        ("data.source", str(text)),
        ("data.length", 32),
        ("data.batch_size", 64),
        ("data.limit", 384 if quick else None),
        ("data.held_out", 0.1),
        ("data.max_held_out", 32 if quick else 128),
        ("budget.epochs", MINI),
        ("budget.proxy_fraction", 0.5 if quick else 0.15),
        ("budget.short_text", "train"),
        ("full.epochs", 1 if quick else EPOCHS),
    ]
    return from_values(overlay(SPEC, fields))


def measure(chosen: argparse.Namespace) -> Result:
    torch.set_num_threads(1)
    folder = paths.cache_folder() / "benchmarks" / ("label-fidelity-quick" if chosen.quick else "label-fidelity")
    folder.mkdir(parents=True, exist_ok=True)
    spec = spec_of(chosen.quick, folder)
    sliced = from_values(overlay(spec.model_dump(mode="json"), [("recipe.init", "inherit")]))
    benches = [recipe(spec.recipe.name).prepare(one, CPU, lambda what, share: None) for one in (spec, sliced)]
    space = benches[0].space
    flops = recipe(spec.recipe.name).describe(spec).flops_per_token
    assert flops is not None
    fingerprint = benches[0].provenance()["teacher_fingerprint"]
    values = spec.model_dump(mode="json")
    del values["teacher"]["checkpoint"], values["data"]["source"]  # where they lie; the fingerprint says what they are
    rows = kept(
        "label-",
        [values, fingerprint],
        space,
        spread_over(space, 3 if chosen.quick else chosen.candidates, spec.seed),
        lambda candidate: {**evaluate(spec, benches[0], benches[1], candidate), "flops": flops(candidate)},
        chosen.fresh,
    )
    facts = {"spec": values, "bench": benches[0].provenance()}
    for bench in benches:
        bench.close()
    return _result(spec, rows, facts)


def evaluate(spec: StudySpec, bench: Workbench, sliced: Workbench, candidate: Candidate) -> Row:
    """Losses as fitted, after mini-KD and in full, and the accuracy in percent."""
    fitting = bench.training(bench.build(candidate, spec.seed), epochs=MINI, seed=spec.seed)
    losses = [fitting.begin().score.loss]
    for training in (fitting, sliced.training(sliced.build(candidate, spec.seed), epochs=MINI, seed=spec.seed)):
        for _ in range(MINI):
            last = training.run_epoch().score.loss
        losses.append(last)
    with tempfile.TemporaryDirectory(prefix="kdnas-fidelity-") as scratch:
        student = Path(scratch) / "student"
        began = time.process_time()
        facts = distil(Job(spec, candidate), student, Telling(lambda words, share: None), device="cpu")
        cost = time.process_time() - began
        wanted = Wanted((OWN,), FineTuning(finetune=False), teacher="", device="cpu")
        entry = score(student, wanted, lambda words, share: None)["tasks"][OWN]
    accuracy = 100 * entry["student"]["score"]
    say(f"losses {losses}, in full {facts['metrics']['loss']:.4f}, accuracy {accuracy:.1f} %")
    return {
        "candidate": candidate,
        "losses": losses,
        "long": facts["metrics"]["loss"],
        "accuracy": accuracy,
        "speedup": facts["latency"]["speedup"],
        "parameters": facts["parameters"],
        "distilled_cpu_s": cost,
    }


def _result(spec: StudySpec, rows: list[Row], facts: dict[str, Any]) -> Result:
    accuracy = [row["accuracy"] for row in rows]
    depths = [row["candidate"]["num_hidden_layers"] for row in rows]
    ranked = {name: [-row["losses"][place] for row in rows] for place, name in enumerate(PREDICTORS)}
    ranked |= {
        "loss in full": [-row["long"] for row in rows],
        "parameters": [row["parameters"] for row in rows],
        "FLOPs": [row["flops"] for row in rows],
    }
    lines = [(name, kendall(values, accuracy), kendall(values, accuracy, depths)) for name, values in ranked.items()]
    rng = seeds.generator(spec.seed, seeds.Benchmark.ORDERS)
    by_chance = [kendall(list(rng.permutation(len(rows))), accuracy) for _ in range(ORDERS)]
    chance = float(np.quantile(by_chance, 0.975))
    names = ("fitted", "mini", "sliced_mini", "in_full", "parameters", "flops")
    figures = {f"tau_accuracy_{name}": line[1] for name, line in zip(names, lines, strict=True)}
    figures["tau_accuracy_chance"] = chance
    taus = Table(
        f"Kendall's τ to the accuracy of {len(rows)} students after {spec.full.epochs} epochs in full",
        ["ranked by", "τ", "within a depth"],
        [*lines, ("random order, 97.5 % of them below", chance, None)],
    )
    each = Table(
        "The candidates",
        ["candidate", *PREDICTORS, "in full", "accuracy %", "× teacher", "parameters"],
        [
            (
                "/".join(map(str, row["candidate"].values())),
                *row["losses"],
                row["long"],
                row["accuracy"],
                row["speedup"],
                row["parameters"],
            )
            for row in sorted(rows, key=lambda row: -row["accuracy"])
        ],
    )
    return Result([taus, each], figures, facts)


if __name__ == "__main__":
    run("Whether cheap scores rank students as their accuracy in full does.", measure, options)
