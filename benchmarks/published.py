"""Students of KD-NAS as published (the preset `kd-nas`) beside ours: one teacher, one text, the same sizes and steps.

    python -m benchmarks.published [--quick] [--candidates N] [--fresh] [--json FILE]

all-MiniLM-L6-v2 and half the quickstart's text, in the quickstart's sizes, which the teacher has, where those of the
paper are of BERT base. The published student begins with fresh weights and has four epochs at 5e-5 on 30 % of the text.
Ours is fitted, and then has as many epochs on the same chunks at our step size. Processor time is of building and
training each, on one thread, without what is built once for all. Every finished candidate is written down at once, so
that a run that was interrupted goes on; `--fresh` forgets what is there.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch

from benchmarks.kept_rows import Row, kept, spread_over
from benchmarks.report import Result, Table, run, say
from kdnas.recipes import recipe
from kdnas.recipes.contract import Workbench
from kdnas.study.space import Candidate
from kdnas.study.spec import StudySpec, TrainingSpec, from_values
from kdnas.study.spec_flags import overlay
from kdnas.study.spec_toml import read_values
from kdnas.system.paths import presets
from kdnas.training.contract import Score

CPU = torch.device("cpu")


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--candidates", type=int, default=6, metavar="N", help="how many sizes of students (6)")
    parser.add_argument("--fresh", action="store_true", help="forget candidates evaluated by an earlier run")


def specs(quick: bool) -> tuple[StudySpec, StudySpec]:
    """As published, and ours."""
    newcomers = read_values(presets()["quickstart"])
    fields: list[tuple[str, Any]] = [
        ("teacher", newcomers["teacher"]),
        ("data", newcomers["data"]),
        ("data.limit", 160 if quick else 1500),
        ("space", newcomers["space"]),
    ]
    published = overlay(read_values(presets()["kd-nas"]), fields)
    step = TrainingSpec.model_fields["learning_rate"].default
    ours = [("recipe.init", "fitted"), ("training.learning_rate", step), ("budget.short_text", "train")]
    return from_values(published), from_values(overlay(published, ours))


def measure(chosen: argparse.Namespace) -> Result:
    torch.set_num_threads(1)
    published, ours = specs(chosen.quick)
    benches = [recipe(spec.recipe.name).prepare(spec, CPU, lambda what, share: None) for spec in (published, ours)]
    rows = kept(
        "published-",
        [spec.model_dump(mode="json") for spec in (published, ours)],
        benches[0].space,
        spread_over(benches[0].space, 2 if chosen.quick else chosen.candidates, published.seed),
        lambda candidate: evaluate(benches[0], benches[1], candidate),
        chosen.fresh,
    )
    facts = {"published": benches[0].provenance(), "ours": benches[1].provenance()}
    for bench in benches:
        bench.close()
    return _result(ours, rows, facts)


def evaluate(published: Workbench, ours: Workbench, candidate: Candidate) -> Row:
    """Of the published student, ours as fitted, and ours after as many epochs: loss, raw loss and CPU seconds."""
    theirs, seconds = _trained(published, candidate)[1:]
    fitted, trained, whole = _trained(ours, candidate)
    row = {
        "candidate": candidate,
        "published": [theirs.loss, theirs.raw_loss, seconds],
        "fitted": [fitted[0].loss, fitted[0].raw_loss, fitted[1]],
        "trained": [trained.loss, trained.raw_loss, whole],
    }
    say(str({name: row[name] for name in ("published", "fitted", "trained")}))
    return row


def _trained(bench: Workbench, candidate: Candidate) -> tuple[tuple[Score, float], Score, float]:
    """The score as built and the CPU seconds until then; the last score, and the seconds altogether."""
    began = time.process_time()
    epochs = bench.spec.budget.epochs
    training = bench.training(bench.build(candidate, bench.spec.seed), epochs=epochs, seed=bench.spec.seed)
    first = training.begin().score, time.process_time() - began
    for _ in range(epochs):
        last = training.run_epoch().score
    return first, last, time.process_time() - began


def _result(ours: StudySpec, rows: list[Row], facts: dict[str, Any]) -> Result:
    ways = ("published", "fitted", "trained")
    lines = [
        ("/".join(map(str, row["candidate"].values())), *(figure for way in ways for figure in row[way]))
        for row in sorted(rows, key=lambda row: row["trained"][0])
    ]
    columns = [
        f"{way}{what}" for way in ("published", "fitted", "fitted, trained") for what in ("", ", raw", ", CPU s")
    ]
    figures = {f"{way}_loss": statistics.median(row[way][0] for row in rows) for way in ways}
    figures |= {f"{way}_cpu_s": statistics.median(row[way][2] for row in rows) for way in ways}
    figures["fitted_for_one_published"] = statistics.median(row["published"][2] / row["fitted"][2] for row in rows)
    note = f"{ours.budget.epochs} epochs each; held-out losses: 0 is the teacher, 1 a constant; raw: KD-NAS's own error"
    return Result([Table("Students as published, and ours", ["student", *columns], lines, [note])], figures, facts)


if __name__ == "__main__":
    run("Students of KD-NAS as published beside ours, of the same sizes.", measure, options)
