"""Task scores of a saved model beside its teacher's, by one fixed protocol.

Every fine-tuning is cached under a fingerprint of model, data, protocol and seed, so that an evaluation that was cut
off goes on where it was, and a teacher is fine-tuned once for all its students. Knows no store and no screen.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from kdnas.data import glue
from kdnas.data.glue import Seen, Split, Task
from kdnas.models import lora_adapters, static_encoder
from kdnas.models.open import files_fingerprint
from kdnas.scores.finetuning import FineTuning, score_once
from kdnas.scores.kept_scores import kept
from kdnas.scores.results import FORMAT, VERSION, share_of_teacher
from kdnas.scores.training_texts import seen_by
from kdnas.students.model_folder import require_model
from kdnas.system.progress import Note, Progress
from kdnas.system.versions import versions

Step = Callable[[float], None]
"""Hears the share of one fine-tuning that is done."""


def evaluate(
    model: Path,
    teacher: Path | None,
    tasks: Sequence[Task],
    protocol: FineTuning,
    device: torch.device,
    on_progress: Progress,
    data_dir: Path | None = None,
) -> dict[str, Any]:
    """Scores of a model and, where given, of its teacher, side by side, as `results.json` holds them.

    No example is scored whose text one of the two was trained on, or is trained on here. `on_progress` hears what is
    being done and the share of all fine-tunings that is done. Raises UsageError for a folder that is not a model, for
    labels that do not fit, and, without fine-tuning, for a model without the head.
    """
    subjects = {"student": model} | ({} if teacher is None else {"teacher": teacher})
    prints = {who: _fingerprint(folder) for who, folder in subjects.items()}
    seen = seen_by(list(subjects.values()), on_progress) if tasks else Seen()
    shares = _Shares(on_progress, len(subjects) * len(tasks) * len(_seeds(protocol)))
    found: dict[str, Any] = {}
    for task in tasks:
        shares.say(f"reading {task.name}")
        splits = _examples(task, data_dir, protocol, seen, on_progress)
        entry = _record(splits)
        for who, folder in subjects.items():
            entry[who] = _runs(who, prints[who], folder, task, splits, protocol, device, shares)
        entry["kept"] = share_of_teacher(entry)
        found[task.name] = entry
    on_progress("scores done", 1.0)
    return {
        "format": FORMAT,
        "version": VERSION,
        "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "model": {"name": model.resolve().name, "fingerprint": prints["student"]},
        "teacher": None if teacher is None else {"name": teacher.name, "fingerprint": prints["teacher"]},
        "protocol": protocol.values(),
        "device": str(device),
        "versions": versions(),
        "tasks": found,
    }


def score_on(
    folder: Path,
    task: Task,
    splits: Mapping[str, Split],
    protocol: FineTuning,
    device: torch.device,
    on_progress: Progress,
) -> dict[str, Any]:
    """One model on a task whose examples are given: `score`, the median over the seeds, and what `evaluate` has of it.
    Cached as there. Raises UsageError for a folder that is no model, and for one without the head that it needs."""
    shares = _Shares(on_progress, len(_seeds(protocol)))
    return _runs(folder.name, _fingerprint(folder), folder, task, splits, protocol, device, shares)


# ---------------------------------------------------------------------------- the parts of an evaluation


class _Shares:
    """The share of all fine-tunings that is done."""

    def __init__(self, on_progress: Progress, total: int) -> None:
        self.on_progress, self.total, self.done = on_progress, max(1, total), 0

    def say(self, words: str, share: float = 0.0) -> None:
        self.on_progress(words, (self.done + share) / self.total)


def _fingerprint(folder: Path) -> str:
    """Of a whole model, of an adapter and its base, or of a static encoder. Raises UsageError for anything else."""
    if static_encoder.is_static(folder):
        return files_fingerprint(folder)
    if not lora_adapters.is_adapter(folder):
        require_model(folder)
        return files_fingerprint(folder)
    return f"{files_fingerprint(folder)}-{files_fingerprint(lora_adapters.base_of(folder))}"


def _seeds(protocol: FineTuning) -> tuple[int, ...]:
    return protocol.seeds if protocol.finetune else (0,)


def _examples(
    task: Task, data_dir: Path | None, protocol: FineTuning, seen: Seen, on_progress: Progress
) -> dict[str, Split]:
    """The task's splits, with a word on the examples that are left out."""
    splits = glue.load(task, data_dir, train=protocol.finetune, seen=seen)
    for name, split in splits.items():
        if split.left_out:
            why = "their texts are scored" if name == "train" else "a model was trained on their texts"
            on_progress(Note(f"{task.name}: {split.left_out:,} example(s) of {name} are left out: {why}."), None)
    if protocol.limit is None:
        return splits
    return {name: glue.only(split, protocol.limit) for name, split in splits.items()}


def _record(splits: Mapping[str, Split]) -> dict[str, Any]:
    """What was scored and trained on, for `results.json`."""
    return {
        "data": {name: split.fingerprint for name, split in splits.items()},
        "examples": {name: len(split) for name, split in splits.items()},
        "left_out": {name: split.left_out for name, split in splits.items()},
    }


def _runs(
    who: str,
    model_print: str,
    folder: Path,
    task: Task,
    splits: Mapping[str, Split],
    protocol: FineTuning,
    device: torch.device,
    shares: _Shares,
) -> dict[str, Any]:
    """One model on one task with every seed, and the median."""
    runs = []
    for seed in _seeds(protocol):
        words = f"{task.name}: {who}" + (f", seed {seed}" if protocol.finetune else "")

        def step(share: float, words: str = words) -> None:
            shares.say(words, share)

        step(0.0)
        runs.append(_cached(model_print, folder, task, splits, seed, protocol, device, step))
        shares.done += 1
    names = runs[0]["metrics"]
    return {
        "seeds": runs,
        "score": statistics.median(run["score"] for run in runs),
        "metrics": {name: statistics.median(run["metrics"][name] for run in runs) for name in names},
    }


def _cached(
    model_print: str,
    folder: Path,
    task: Task,
    splits: Mapping[str, Split],
    seed: int,
    protocol: FineTuning,
    device: torch.device,
    step: Step,
) -> dict[str, Any]:
    """The outcome of one fine-tuning, from the disk where it was done before."""
    versions_that_count = {name: versions().get(name) for name in ("torch", "transformers")}
    settings = {key: value for key, value in protocol.values().items() if key != "seeds"}
    identity = {
        "format": 1,
        "model": model_print,
        "task": [task.name, task.epochs],
        "data": {name: split.fingerprint for name, split in splits.items()},
        "seed": seed,
        "protocol": settings,
        "device": device.type,
        **versions_that_count,
    }

    def fine_tuned() -> dict[str, Any]:
        began = time.monotonic()
        metrics = score_once(folder, task, splits, seed, protocol, device, step)
        score = statistics.fmean(metrics.values())
        return {"seed": seed, "score": score, "metrics": metrics, "seconds": round(time.monotonic() - began, 1)}

    return kept(identity, fine_tuned)
