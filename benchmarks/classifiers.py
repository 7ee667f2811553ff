"""Searches of text classifiers on the embedded default, and what distillation is worth there.

The recurrent half: search, finalize the best student that is at least ten times as fast as its teacher, then train the
same network on labels alone and by distillation, three seeds of each. The half of the adapters: search, finalize the
best student, and distil the same adapters on a base that is not cut. Everything is kept in a folder, and a run that was
cut off goes on. Scores are of the test part, which neither search nor early stopping looks at.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.final import Clock, model, search, told
from benchmarks.report import Result, Table, say
from kdnas.measuring.devices import resolve_device
from kdnas.recipes import recipe
from kdnas.recipes.rnn_hybrid import RnnBench
from kdnas.store import queries
from kdnas.store.database import open_reader
from kdnas.students.distil import distil
from kdnas.students.finalize import finalize
from kdnas.students.from_config import given
from kdnas.study.space import Candidate
from kdnas.study.spec import StudySpec, from_values
from kdnas.study.spec_flags import assigned, overlay
from kdnas.study.spec_recipes import LoraRecipe
from kdnas.study.spec_toml import read_values
from kdnas.system import paths
from kdnas.system.files import write_atomically
from kdnas.system.paths import presets
from kdnas.system.seeds import Purpose, number
from kdnas.teachers import classifier as classifiers

FASTER = 10.0
SEEDS = (0, 1, 2)
LABELS = {"recipe.soft": 0.0, "recipe.hard": 1.0, "recipe.sequence": 0.0}
QUICK = {
    "data.limit": 400,
    "data.max_held_out": 40,
    "budget.trials": 3,
    "budget.epochs": 1,
    "full.epochs": 2,
    "recipe.teacher_epochs": 2,
    "recipe.teacher_rate": 5e-4,
}


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--half", choices=tuple(HALVES), default="rnn", help="which recipe  [default: rnn]")
    parser.add_argument("--folder", type=Path, help="where studies and models are kept, to go on from them")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="another value of the spec")
    parser.add_argument("--fresh", action="store_true", help="begin anew")


def spec_of(chosen: argparse.Namespace, preset: str) -> StudySpec:
    name = f"{preset}-quick" if chosen.quick else preset
    fields: list[tuple[str, Any]] = [("name", name), *(QUICK.items() if chosen.quick else ())]
    return from_values(overlay(read_values(presets()[preset]), [*fields, *map(assigned, chosen.set)]))


def place_of(chosen: argparse.Namespace, spec: StudySpec) -> Path:
    folder: Path = chosen.folder or paths.cache_folder() / "benchmarks" / spec.name
    if chosen.fresh:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def measure(chosen: argparse.Namespace) -> Result:
    preset, half = HALVES[chosen.half]
    spec = spec_of(chosen, preset)
    folder = place_of(chosen, spec)
    storage = f"sqlite:///{folder / 'studies.db'}"
    clock = Clock(folder / "seconds.json")
    search(spec, storage, clock)
    return half(spec, folder, storage, clock)


# ---------------------------------------------------------------------------- recurrent students


def rnn(spec: StudySpec, folder: Path, storage: str, clock: Clock) -> Result:
    only = _fast(storage, spec)
    found = model("found", folder, clock, lambda out, t: finalize(storage, spec.name, out, t, only=only))
    alone = from_values(overlay(spec.model_dump(mode="json"), LABELS.items()))
    distilled = learned("distilled", spec, found["candidate"], folder, clock, "loss")
    by_labels = learned("labels", alone, found["candidate"], folder, clock, "cross_entropy")
    return tabled(spec, found, distilled, by_labels, clock)


def _fast(storage: str, spec: StudySpec) -> str | None:
    """The filter for students that are fast enough; none where the (quick) search found none."""
    with open_reader(storage) as store:
        rows = queries.trial_rows(store, queries.study_row(store, spec.name).study_id)
    fast = any((row.speedup or 0) >= FASTER and row.state == "done" for row in rows)
    return f"speedup>={FASTER:g}" if fast else None


def learned(
    kind: str, spec: StudySpec, candidate: Candidate, folder: Path, clock: Clock, by: str
) -> list[dict[str, Any]]:
    """The candidate trained on the whole training part, once a seed: figures of its best epoch (`by` the held-out
    loss, or the held-out cross-entropy, which asks no teacher) on both parts."""
    bench: RnnBench | None = None
    runs = []
    for seed in SEEDS:
        path = folder / f"{kind}-{seed}.json"
        if not path.is_file():
            if bench is None:
                device = resolve_device(spec.device)
                made = recipe(spec.recipe.name).prepare(spec, device, told(kind).on_progress)
                assert isinstance(made, RnnBench)
                bench = made
            began = time.monotonic()
            write_atomically(path, json.dumps(_learn(bench, candidate, seed, by)))
            clock.time(kind, began)
        runs.append(json.loads(path.read_text(encoding="utf-8")))
        say(f"{kind}, seed {seed}: test accuracy {100 * runs[-1]['test']['accuracy']:.1f} %")
    return runs


def _learn(bench: RnnBench, candidate: Candidate, seed: int, by: str) -> dict[str, Any]:
    drawn = number(seed, Purpose.STUDENT, 0)
    student = bench.build(candidate, drawn)
    training = bench.training(student, epochs=bench.spec.full.epochs, seed=drawn, full=True)
    best, least, since = {}, float("inf"), 0
    for _ in range(training.epochs):
        epoch = training.run_epoch()
        value = epoch.score.loss if by == "loss" else epoch.score.extra[by]
        since += 1
        if value < least:
            best = {name: t.detach().clone() for name, t in student.body.state_dict().items()}
            least, since = value, 0
        if since >= bench.spec.full.patience:
            break
    student.body.load_state_dict(best)
    text = bench.text
    parts = {"held_out": text.held_out, "test": text.test if len(text.test) else text.held_out}
    return {
        "seed": seed,
        "epochs": training.done,
        **{
            name: classifiers.figures(bench.student_logits(student.body, examples), examples.labels)
            for name, examples in parts.items()
        },
    }


def tabled(
    spec: StudySpec,
    found: Mapping[str, Any],
    distilled: list[dict[str, Any]],
    by_labels: list[dict[str, Any]],
    clock: Clock,
) -> Result:
    scores = found["classification"]
    part = "test" if "test" in scores else "held_out"
    teacher = scores[part]["teacher"]["accuracy"]
    sizes = found["efficiency"]
    latency = found["latency"]
    rows: list[tuple[object, ...]] = [
        ("teacher", sizes["teacher"]["parameters"], sizes["teacher"]["mib"], latency["teacher_ms"], 1.0,
         100 * teacher, 100 * scores[part]["teacher"]["macro_f1"], None, 100.0)
    ]  # fmt: skip
    medians = {}
    for name, runs in (("distilled", distilled), ("on labels alone", by_labels)):
        accuracies = sorted(100 * run["test"]["accuracy"] for run in runs)
        medians[name] = statistics.median(accuracies)
        f1 = statistics.median(100 * run["test"]["macro_f1"] for run in runs)
        rows.append((
            f"found by the search, {name}", sizes["student"]["parameters"], sizes["student"]["mib"],
            latency["student_ms"], latency["speedup"], medians[name], f1,
            f"{accuracies[0]:.1f}…{accuracies[-1]:.1f}", medians[name] / teacher,
        ))  # fmt: skip
    forms = [
        (form["form"], form["parameters"], 100 * form["zeros"], form["mib"], form["latency_ms"], form["speedup"],
         100 * form[part]["accuracy"], 100 * form[part]["macro_f1"])
        for form in found["forms"]
    ]  # fmt: skip
    efficiency = [
        (who, own["parameters"], own["nonzero"], own["mib"], own["cpu_ms"], own["cuda_ms"], own["memory_mib"])
        for who, own in sizes.items()
    ]
    seconds = {name: round(value) for name, value in clock.seconds.items()}
    shape = ", ".join(f"{name} {value}" for name, value in found["candidate"].items())
    tables = [
        Table(
            f"{spec.teacher.model} on {spec.data.source}: {scores[part]['examples']:,} test sentences",
            ("model", "parameters", "MiB", "latency ms", "× teacher", "accuracy %", "macro F1 %", "seeds", "kept %"),
            rows,
            (f"The student: {shape}.", f"Medians of {len(SEEDS)} seeds. Seconds: {seconds}."),
        ),
        Table(
            "The same student made smaller",
            ("form", "parameters", "zeros %", "MiB", "latency ms", "× teacher", "accuracy %", "macro F1 %"),
            forms,
        ),
        Table(
            "One pass under torch's profiler",
            ("model", "parameters", "not zero", "MiB", "CPU ms", "CUDA ms", "memory asked for, MiB"),
            efficiency,
        ),
    ]
    figures = {
        "accuracy": medians["distilled"],
        "accuracy_labels_alone": medians["on labels alone"],
        "accuracy_teacher": 100 * teacher,
        "kept_percent": medians["distilled"] / teacher,
        "speedup": latency["speedup"],
        **{f"seconds_{name}": value for name, value in clock.seconds.items()},
    }
    about = {"spec": spec.model_dump(mode="json"), "candidate": found["candidate"], "forms": found["forms"]}
    return Result(tables, figures, {**about, "distilled": distilled, "labels": by_labels})


# ---------------------------------------------------------------------------- pairs of adapters


def lora(spec: StudySpec, folder: Path, storage: str, clock: Clock) -> Result:
    """The best student by its reward, distilled in full; and the same adapters without the cut, for the latency."""
    cut = model("cut", folder, clock, lambda out, t: finalize(storage, spec.name, out, t))
    uncut = from_values(overlay(spec.model_dump(mode="json"), [("recipe.truncate", False)]))
    job = given(uncut, cut["candidate"])
    whole = model("whole", folder, clock, lambda out, t: distil(job, out, t, device=spec.device))
    return tabled_pairs(spec, {"found by the search": cut, "the same, not cut": whole}, clock)


def tabled_pairs(spec: StudySpec, students: Mapping[str, Mapping[str, Any]], clock: Clock) -> Result:
    assert isinstance(spec.recipe, LoraRecipe)
    first = next(iter(students.values()))
    part = "test" if "test" in first["classification"] else "held_out"
    scores, latency = first["classification"], first["latency"]
    teacher, size = scores[part]["teacher"], scores["size"]["teacher"]
    rows: list[tuple[object, ...]] = [
        ("teacher", size["trainable"], size["parameters"], size["mib"], latency["teacher_ms"], 1.0,
         100 * teacher["accuracy"], 100 * teacher["macro_f1"], 0.0)
    ]  # fmt: skip
    for name, facts in students.items():
        own, size = facts["classification"][part]["student"], facts["classification"]["size"]["student"]
        rows.append((
            name, size["trainable"], size["parameters"], size["mib"], facts["latency"]["student_ms"],
            facts["latency"]["speedup"], 100 * own["accuracy"], 100 * own["macro_f1"],
            100 * (own["accuracy"] - teacher["accuracy"]),
        ))  # fmt: skip
    shape = ", ".join(f"{name} {value}" for name, value in first["candidate"].items())
    seconds = {name: round(value) for name, value in clock.seconds.items()}
    table = Table(
        f"LoRA pairs, {spec.teacher.model} on {spec.data.source}: {scores[part]['examples']:,} test sentences",
        ("model", "trainable", "parameters", "MiB", "latency ms", "× teacher", "accuracy %", "macro F1 %", "points"),
        rows,
        (
            f"The student: {shape}. Its limit: {spec.recipe.max_parameters:,} trainable parameters.",
            f"Points of accuracy from the teacher. MiB: of a student's folder, without a base that others have. "
            f"Seconds: {seconds}.",
        ),
    )
    found = scores[part]["student"]["accuracy"]
    figures = {
        "accuracy": 100 * found,
        "accuracy_teacher": 100 * teacher["accuracy"],
        "points": 100 * (found - teacher["accuracy"]),
        "trainable": scores["size"]["student"]["trainable"],
        "speedup": latency["speedup"],
        **{f"seconds_{name}": value for name, value in clock.seconds.items()},
    }
    about = {"spec": spec.model_dump(mode="json"), "candidate": first["candidate"]}
    return Result([table], figures, {**about, "students": {n: f["classification"] for n, f in students.items()}})


HALVES: dict[str, tuple[str, Callable[[StudySpec, Path, str, Clock], Result]]] = {
    "rnn": ("films", rnn),
    "lora": ("lora-films", lora),
}

if __name__ == "__main__":
    report.run("Text classifiers: what a search finds, beside its teacher and training without one.", measure, options)
