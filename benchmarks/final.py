"""From search to scored models on the embedded default, beside students made by hand with the same budget.

    python -m benchmarks.final [--quick] [--json FILE] [--folder DIR] [--speeds N …] [--seeds N] [--fresh]

The teacher first learns the task, on its training sentences (`kdnas finetune`). Search on these sentences for the front
of loss and latency, finalize the best student that is so many times as fast as its teacher, evaluate it: as it is,
beside the taught teacher, and fine-tuned, beside the teacher as it ships. Then do the same at the other speeds, and
distil and evaluate, in the same way from the same teacher on the same text, what a person would make by hand at each:
whole teacher layers at full width where some number of them is about as fast, else the teacher's proportions at a
smaller width. Goes on where an earlier run was cut off.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import report
from benchmarks.report import Result, Table, say
from kdnas.data.glue import OWN, TASKS, load
from kdnas.measuring import latency
from kdnas.recipes import recipe
from kdnas.scores.finetuning import FineTuning
from kdnas.scores.score_folder import Wanted, score
from kdnas.store import queries
from kdnas.store.database import open_reader
from kdnas.students.distil import Job, Telling, distil
from kdnas.students.finalize import finalize
from kdnas.students.from_config import given
from kdnas.study.spec import StudySpec, from_values
from kdnas.study.spec_flags import assigned, overlay
from kdnas.study.spec_toml import read_values
from kdnas.system import paths
from kdnas.system.files import write_atomically
from kdnas.system.paths import presets

CPU = torch.device("cpu")
SPEEDS = (5.0, 3.0, 8.0, 12.0)  # times the teacher's; the first one's students are finished first
# The quickstart's study around what can be so fast: from few whole layers to many thin ones. Chunks are as short as the
# task's sentences: the first token, which a classifier reads, is learned from as often.
NARROWED = {
    "data.length": 32,
    "data.batch_size": 64,
    "data.limit": None,
    "data.max_held_out": 128,
    "budget.trials": 24,
    "budget.epochs": 0,
    "budget.proxy_fraction": 0.15,
    "strategy.two_objectives": True,
    "space.choices.num_hidden_layers": [1, 2, 3, 4, 5],
    "space.choices.hidden_size": [192, 256, 320, 384],
    "space.choices.head_size": [32],
    "space.choices.intermediate_size": [64, 128, 192, 256, 384, 448, 768, 1280],
    "space.choices.hidden_act": ["gelu"],
    "full.epochs": 4,
    "latency.precision": 0.02,
    "latency.max_seconds": 5.0,
}
BY_HAND = [(layers, width) for width in (384, 256, 192, 128) for layers in (1, 2, 3, 4)]  # four neurons a dimension
AS_FAST = 0.15  # whole layers are taken where they are as fast to within this
QUICK = {
    **NARROWED,
    "data.limit": 384,
    "data.max_held_out": 32,
    "budget.trials": 3,
    "full.epochs": 2,
    "latency.max_seconds": 2.0,
}


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--folder", type=Path, help="where studies and models are kept, to go on from them")
    parser.add_argument("--seeds", type=int, default=3, help="fine-tunings of each model (3)")
    parser.add_argument("--speeds", type=float, nargs="+", default=SPEEDS, help="of the students (5 3 8 12)")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="another value of the spec")
    parser.add_argument("--fresh", action="store_true", help="begin anew")


def spec_of(chosen: argparse.Namespace, text: Path, taught: Path) -> StudySpec:
    fields: list[tuple[str, Any]] = [("name", "final-quick" if chosen.quick else "final")]
    fields += [("data.source", str(text)), ("teacher.checkpoint", str(taught))]
    fields += list((QUICK if chosen.quick else NARROWED).items())
    fields += [assigned(setting) for setting in chosen.set]
    return from_values(overlay(read_values(presets()["quickstart"]), fields))


def text_of_the_task(folder: Path) -> Path:
    """The sentences that the task trains on, with their labels, as a JSONL file in `folder`."""
    path = folder / "films.jsonl"
    if not path.is_file():
        task = TASKS[OWN]
        train = load(task)["train"]
        rows = zip(train.texts[0], train.labels, strict=True)
        lines = [json.dumps({"text": text, "label": task.labels[int(label)]}) for text, label in rows]
        write_atomically(path, "\n".join(lines) + "\n")
    return path


def taught_teacher(text: Path, clock: Clock, quick: bool) -> Path:
    """The folder of the quickstart's teacher once it has learned the task, as the command makes it."""
    output = text.parent / "teacher"
    if not output.is_dir():
        say("teaching the teacher the task")
        began = time.monotonic()
        model = read_values(presets()["quickstart"])["teacher"]["model"]
        command = [sys.executable, "-m", "kdnas", "finetune", model, "--task", "classification", "--data", str(text)]
        command += ["--label-column", "label", "--length", "64", "--batch-size", "32", "--output", str(output)]
        command += ["--epochs", "1", "--limit", "192"] if quick else ["--epochs", "2"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        clock.time("teacher", began)
    return output


def every_kth(spec: StudySpec) -> StudySpec:
    """The spec by which a person cuts whole layers: weights as they are, nothing solved."""
    return from_values(overlay(spec.model_dump(mode="json"), [("recipe.cut", "every-kth"), ("recipe.init", "inherit")]))


class Clock:
    """Seconds of each step, kept over several runs of this process's folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seconds: dict[str, float] = json.loads(path.read_text()) if path.is_file() else {}

    def time(self, step: str, began: float) -> None:
        if self.path.is_file():  # another process may make other students in the same folder
            self.seconds = json.loads(self.path.read_text())
        self.seconds[step] = self.seconds.get(step, 0.0) + time.monotonic() - began
        write_atomically(self.path, json.dumps(self.seconds))


def told(title: str) -> Telling:
    last = -math.inf

    def on_progress(words: str, share: float | None) -> None:
        nonlocal last
        if time.monotonic() - last > 15:
            last = time.monotonic()
            say(f"{title}: {words}" + ("" if share is None else f" ({share:.0%})"))

    return Telling(on_progress, lambda e: say(f"{title}: epoch {e.epoch}, held-out loss {e.score.loss:.4f}"))


def measure(chosen: argparse.Namespace) -> Result:
    folder = chosen.folder or paths.cache_folder() / "benchmarks" / ("final-quick" if chosen.quick else "final")
    if chosen.fresh:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    clock = Clock(folder / "seconds.json")
    text = text_of_the_task(folder.resolve())
    spec = spec_of(chosen, text, taught_teacher(text, clock, chosen.quick))
    storage = f"sqlite:///{folder / 'studies.db'}"

    search(spec, storage, clock)
    made: dict[str, Mapping[str, Any]] = {}
    plain: dict[str, Mapping[str, Any]] = {}
    tuned: dict[str, Mapping[str, Any]] = {}
    fine = FineTuning(seeds=tuple(range(1 if chosen.quick else chosen.seeds)))

    def evaluate(name: str) -> None:
        """The student first, so that its own time is told apart from the teacher's."""
        teachers = str(spec.teacher.checkpoint), spec.teacher.model
        for step, (taught, shipped) in (("evaluate", ("", "")), ("evaluate teacher beside", teachers)):
            began = time.monotonic()
            plain[name] = evaluated(folder / name, taught, FineTuning(finetune=False), chosen, storage)
            tuned[name] = evaluated(folder / name, shipped, fine, chosen, storage)
            clock.time(f"{step} {name}", began)

    for speed in chosen.speeds:
        name = f"found-{speed:g}"
        only = _fast(storage, spec, speed)
        if only is None:
            say(f"The search found no student {speed:g} times as fast.")
            continue
        made[name] = model(
            name, folder, clock, lambda out, t, only=only: finalize(storage, spec.name, out, t, only=only)
        )
        evaluate(name)
    latencies = by_hand_latencies(spec, folder)
    for found in list(made.values()):
        layers, width = as_fast(latencies, found["latency"]["speedup"])
        name = f"by-hand-{layers}x{width}"
        made[name] = model(name, folder, clock, partial(distil, by_hand(spec, layers, width), device=spec.device))
        evaluate(name)
    return tabled(spec, made, plain, tuned, clock)


def by_hand(spec: StudySpec, layers: int, width: int) -> Job:
    """The teacher's proportions at that width: heads of its size, four neurons a dimension; cut, not solved."""
    sizes = {
        "num_hidden_layers": layers,
        "hidden_size": width,
        "num_attention_heads": width // 32,
        "intermediate_size": 4 * width,
        "hidden_act": "gelu",
    }
    return given(every_kth(spec), sizes)


def by_hand_latencies(spec: StudySpec, folder: Path) -> dict[tuple[int, int], float]:
    """Of BY_HAND, how many times as fast as the teacher each is; measured once for a folder."""
    file = folder / "by-hand.json"
    if not file.is_file():
        say(f"measuring {len(BY_HAND)} students made by hand")
        jobs = [by_hand(spec, layers, width) for layers, width in BY_HAND]
        bench = recipe(spec.recipe.name).prepare(jobs[0].spec, CPU, lambda words, share: None)
        speeds = []
        for job in jobs:
            timed = latency.measure(bench.timed(bench.probe(job.candidate)), bench.timed(None), bench.spec.latency, CPU)
            speeds.append(timed.teacher_p50 / timed.p50)
        bench.close()
        write_atomically(file, json.dumps(speeds))
    return dict(zip(BY_HAND, json.loads(file.read_text()), strict=True))


def as_fast(speeds: Mapping[tuple[int, int], float], wanted: float) -> tuple[int, int]:
    """Layers and width of the student by hand that is nearest in speed: of whole layers, where AS_FAST lets them."""

    def off(shape: tuple[int, int]) -> float:
        return abs(math.log(speeds[shape] / wanted))

    whole = min((shape for shape in speeds if shape[1] == BY_HAND[0][1]), key=off)
    return whole if off(whole) <= math.log1p(AS_FAST) else min(speeds, key=off)


def search(spec: StudySpec, storage: str, clock: Clock) -> None:
    from kdnas.search.begin import begin
    from kdnas.search.worker import run_worker

    begin(spec, storage)
    with open_reader(storage) as store:
        row = queries.study_row(store, spec.name)
    if row.done < row.trials:
        say(f"searching: {row.done} of {row.trials} trials are done")
        began = time.monotonic()
        code = run_worker(storage, spec.name)
        clock.time("search", began)
        if code:
            raise SystemExit(code)


def _fast(storage: str, spec: StudySpec, speed: float) -> str | None:
    """The filter for students that are fast enough; None where the search found none."""
    with open_reader(storage) as store:
        rows = queries.trial_rows(store, queries.study_row(store, spec.name).study_id)
    return f"speedup>={speed:g}" if any((row.speedup or 0) >= speed and row.state == "done" for row in rows) else None


def _teacher_sizes(spec: StudySpec) -> dict[str, Any]:
    facts = recipe(spec.recipe.name).describe(spec).teacher
    return {
        "num_hidden_layers": facts["layers"],
        "hidden_size": facts["width"],
        "num_attention_heads": facts["heads"],
        "intermediate_size": facts["intermediate"],
        "hidden_act": facts["activation"],
    }


def model(name: str, folder: Path, clock: Clock, make: Any) -> Mapping[str, Any]:
    began = time.monotonic()
    finished = (folder / name / "kdnas.json").is_file()
    facts: Mapping[str, Any] = make(folder / name, told(name))
    if not finished:
        clock.time(name, began)
    return facts


def evaluated(
    folder: Path, beside: str, protocol: FineTuning, chosen: argparse.Namespace, storage: str
) -> Mapping[str, Any]:
    """The scores of a model on the task beside another's, or alone for ""."""
    protocol = replace(protocol, limit=192 if chosen.quick else None)
    on_progress = told(f"evaluating {folder.name}").on_progress
    result = score(folder, Wanted((OWN,), protocol, teacher=beside, device="cpu"), on_progress, storage)
    return dict(result["tasks"][OWN])


def tabled(
    spec: StudySpec,
    made: Mapping[str, Mapping[str, Any]],
    plain: Mapping[str, Mapping[str, Any]],
    scores: Mapping[str, Mapping[str, Any]],
    clock: Clock,
) -> Result:
    teacher, first = _teacher_sizes(spec), next(iter(made))
    taught, shipped = plain[first]["teacher"], scores[first]["teacher"]
    sizes = (teacher["num_hidden_layers"], teacher["hidden_size"], teacher["intermediate_size"])
    rows: list[tuple[object, ...]] = [
        ("teacher", *sizes, None, made[first]["latency"]["teacher_ms"], 1.0, 0.0, 100 * taught["score"], 100.0,
         100 * shipped["score"], _range(shipped), 100.0)
    ]  # fmt: skip
    figures: dict[str, float] = {
        "score_teacher": 100 * shipped["score"],
        "as_it_is_teacher": 100 * taught["score"],
    }
    for name, facts in made.items():
        config, entry, timed = facts["config"], scores[name], facts["latency"]
        rows.append((
            name, config["num_hidden_layers"], config["hidden_size"], config["intermediate_size"], facts["parameters"],
            timed["student_ms"], timed["speedup"], facts["metrics"]["loss"],
            100 * plain[name]["student"]["score"], plain[name]["kept"], 100 * entry["student"]["score"],
            _range(entry["student"]), entry["kept"],
        ))  # fmt: skip
        figures |= {
            f"{name}_kept_percent": entry["kept"],
            f"{name}_as_it_is": 100 * plain[name]["student"]["score"],
            f"{name}_score": 100 * entry["student"]["score"],
            f"{name}_speedup": timed["speedup"],
            f"{name}_loss": facts["metrics"]["loss"],
        }
    metrics = made[first]["metrics"]
    seconds = {name: round(value) for name, value in clock.seconds.items()}
    to_scores = ("teacher", "search", first, f"evaluate {first}")
    figures["to_scores_s"] = sum(clock.seconds.get(step, 0.0) for step in to_scores)
    figures["with_teacher_s"] = figures["to_scores_s"] + clock.seconds.get(f"evaluate teacher beside {first}", 0.0)
    table = Table(
        f"{spec.teacher.model} on the training text of {OWN}, scored on {OWN}",
        ("model", "layers", "width", "inner", "parameters", "latency ms", "× teacher", "held-out loss", "as it is %",
         "kept %", "fine-tuned %", "seeds", "kept %"),
        rows,
        (
            "as it is: with the taught teacher's head, its last layer solved for it; the teacher as it was taught.",
            "by-hand-LxW: L teacher layers (every k-th) cut to width W; the same teacher, text, epochs and seed.",
            f"to_scores_s: until {first} is scored, teaching and search included; with_teacher_s: and its teacher.",
            f"{spec.full.epochs} epochs of {metrics['tokens'] // metrics['epochs']:,} tokens; "
            f"seconds: {seconds}",
        ),
    )  # fmt: skip
    return Result((table,), figures, {"spec": spec.model_dump(mode="json"), "seconds": seconds})


def _range(entry: Mapping[str, Any]) -> str:
    each = sorted(100 * run["score"] for run in entry["seeds"])
    return f"{each[0]:.1f}…{each[-1]:.1f}"


if __name__ == "__main__":
    report.run("From a search to a scored model, beside one made by hand.", measure, options)
