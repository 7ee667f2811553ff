"""From search to a scored model on the embedded default, beside students made by hand with the same budget.

The teacher first learns the task, on its training sentences (`kdnas finetune`). Search on these sentences, finalize the
best student that is at least three times as fast as its teacher, evaluate it: as it is, beside the taught teacher, and
fine-tuned, beside the teacher as it ships. Then distil and evaluate, in the same way from the same teacher on the same
text, the students that a person would make, of whole teacher layers at full width: every third one, every second one,
and as many as the found student has (`--by-hand` names other depths). Goes on where an earlier run was cut off.
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

from benchmarks import report
from benchmarks.report import Result, Table, say
from kdnas.data.glue import OWN, TASKS, load
from kdnas.scores.finetuning import FineTuning
from kdnas.scores.score_folder import Wanted, score
from kdnas.store import queries
from kdnas.store.database import open_reader
from kdnas.students.distil import Telling, distil
from kdnas.students.finalize import finalize
from kdnas.students.from_config import given
from kdnas.study.spec import StudySpec, from_values
from kdnas.study.spec_flags import assigned, overlay
from kdnas.study.spec_toml import read_values
from kdnas.system import paths
from kdnas.system.files import write_atomically
from kdnas.system.paths import presets

FASTER = 3.0
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
    "space.choices.num_hidden_layers": [2, 3, 4, 5],
    "space.choices.hidden_size": [320, 384],
    "space.choices.head_size": [32],
    "space.choices.intermediate_size": [64, 96, 128, 192, 256, 384, 448, 768, 1280],
    "space.choices.hidden_act": ["gelu"],
    "full.epochs": 4,
    "latency.precision": 0.02,
    "latency.max_seconds": 5.0,
}
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
    parser.add_argument(
        "--by-hand", type=int, nargs="+", metavar="LAYERS", help="depths of the students made by hand, instead of three"
    )
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
        self.seconds[step] = self.seconds.get(step, 0.0) + time.monotonic() - began
        self.path.write_text(json.dumps(self.seconds))


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
    only = _fast(storage, spec)
    found = model("found", folder, clock, lambda out, t: finalize(storage, spec.name, out, t, only=only))
    sizes = _teacher_sizes(spec)
    made: dict[str, Mapping[str, Any]] = {"found": found}
    plain: dict[str, Mapping[str, Any]] = {}
    tuned: dict[str, Mapping[str, Any]] = {}

    def evaluate(name: str) -> None:
        asked, shipped = str(spec.teacher.checkpoint), spec.teacher.model
        plain[name] = evaluated(folder / name, asked, FineTuning(finetune=False), chosen, storage, clock)
        fine = FineTuning(seeds=tuple(range(1 if chosen.quick else chosen.seeds)))
        tuned[name] = evaluated(folder / name, shipped, fine, chosen, storage, clock)

    evaluate("found")
    layers = int(sizes["num_hidden_layers"])
    depths = chosen.by_hand or (layers // 3, layers // 2, int(found["config"]["num_hidden_layers"]))
    for depth in dict.fromkeys(depths):
        job = given(every_kth(spec), {**sizes, "num_hidden_layers": depth})
        name = f"by-hand-{depth}"
        made[name] = model(name, folder, clock, partial(distil, job, device=spec.device))
        evaluate(name)
    return tabled(spec, made, plain, tuned, clock)


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


def _fast(storage: str, spec: StudySpec) -> str | None:
    """The filter for students that are fast enough; none where the (quick) search found none."""
    wanted = f"speedup>={FASTER:g}"
    with open_reader(storage) as store:
        rows = queries.trial_rows(store, queries.study_row(store, spec.name).study_id)
    return wanted if any((row.speedup or 0) >= FASTER and row.state == "done" for row in rows) else None


def _teacher_sizes(spec: StudySpec) -> dict[str, Any]:
    from kdnas.recipes import recipe

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
    folder: Path, beside: str, protocol: FineTuning, chosen: argparse.Namespace, storage: str, clock: Clock
) -> Mapping[str, Any]:
    """The scores of a model on the task beside another's."""
    began = time.monotonic()
    protocol = replace(protocol, limit=192 if chosen.quick else None)
    on_progress = told(f"evaluating {folder.name}").on_progress
    result = score(folder, Wanted((OWN,), protocol, teacher=beside, device="cpu"), on_progress, storage)
    clock.time(f"evaluate {folder.name}", began)
    return dict(result["tasks"][OWN])


def tabled(
    spec: StudySpec,
    made: Mapping[str, Mapping[str, Any]],
    plain: Mapping[str, Mapping[str, Any]],
    scores: Mapping[str, Mapping[str, Any]],
    clock: Clock,
) -> Result:
    teacher, found = _teacher_sizes(spec), made["found"]
    teacher_score = scores["found"]["teacher"]
    sizes = (teacher["num_hidden_layers"], teacher["hidden_size"], teacher["intermediate_size"])
    rows: list[tuple[object, ...]] = [
        ("teacher", *sizes, None, found["latency"]["teacher_ms"], 1.0, 0.0, 100 * plain["found"]["teacher"]["score"],
         100 * teacher_score["score"], _range(teacher_score), 100.0)
    ]  # fmt: skip
    figures: dict[str, float] = {
        "score_teacher": 100 * teacher_score["score"],
        "as_it_is_teacher": 100 * plain["found"]["teacher"]["score"],
    }
    for name, facts in made.items():
        config, entry, latency = facts["config"], scores[name], facts["latency"]
        rows.append((
            name, config["num_hidden_layers"], config["hidden_size"], config["intermediate_size"], facts["parameters"],
            latency["student_ms"], latency["speedup"], facts["metrics"]["loss"],
            100 * plain[name]["student"]["score"], 100 * entry["student"]["score"],
            _range(entry["student"]), entry["kept"],
        ))  # fmt: skip
        figures |= {
            f"{name}_kept_percent": entry["kept"],
            f"{name}_as_it_is": 100 * plain[name]["student"]["score"],
            f"{name}_score": 100 * entry["student"]["score"],
            f"{name}_speedup": latency["speedup"],
            f"{name}_loss": facts["metrics"]["loss"],
        }
    seconds = {name: round(value) for name, value in clock.seconds.items()}
    figures["teach_search_finalize_evaluate_s"] = sum(
        value for name, value in clock.seconds.items() if "by-hand" not in name
    )
    table = Table(
        f"{spec.teacher.model} on the training text of {OWN}, scored on {OWN}",
        ("model", "layers", "width", "inner", "parameters", "latency ms", "× teacher", "held-out loss", "as it is %",
         "fine-tuned %", "seeds", "kept %"),
        rows,
        (
            "as it is: with the taught teacher's head, its last layer solved for it; the teacher as it was taught.",
            "by-hand-N: N evenly spaced teacher layers at full width, the same teacher, text, epochs and seed.",
            f"{spec.full.epochs} epochs of {found['metrics']['tokens'] // found['metrics']['epochs']:,} tokens; "
            f"seconds: {seconds}",
        ),
    )  # fmt: skip
    return Result((table,), figures, {"spec": spec.model_dump(mode="json"), "seconds": seconds})


def _range(entry: Mapping[str, Any]) -> str:
    each = sorted(100 * run["score"] for run in entry["seeds"])
    return f"{each[0]:.1f}…{each[-1]:.1f}"


if __name__ == "__main__":
    report.run("From a search to a scored model, beside one made by hand.", measure, options)
