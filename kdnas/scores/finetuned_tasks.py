"""Task scores of a saved model beside its teacher's, by one fixed protocol on transformers' Trainer.

Every fine-tuning is kept under a fingerprint of model, data, protocol and seed, so that an evaluation that was cut
off goes on where it was, and a teacher is fine-tuned once for all its students. Knows no store and no screen.
"""

from __future__ import annotations

import gc
import hashlib
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdnas.data import hub
from kdnas.data.glue import Split, Task, load
from kdnas.measuring.device_lock import Turn
from kdnas.measuring.metrics import METRICS
from kdnas.models.open import files_fingerprint, longest
from kdnas.students.model_folder import RESULTS, require_model
from kdnas.system import disk_cache, paths
from kdnas.system.errors import KdnasError, UsageError, first_line
from kdnas.system.files import write_atomically
from kdnas.system.progress import Progress
from kdnas.system.versions import versions

FORMAT = "kdnas-results"
VERSION = 1


@dataclass(frozen=True)
class Protocol:
    """How every model is fine-tuned on every task: AdamW, linear decay after warm-up, the last weights scored on
    the validation split, the median over the seeds. Nothing is chosen by looking at the validation split."""

    learning_rate: float = 5e-5
    batch_size: int = 32
    length: int = 128
    warmup: float = 0.06
    weight_decay: float = 0.01
    seeds: tuple[int, ...] = (0, 1, 2)
    finetune: bool = True
    limit: int | None = None  # train and score on the first so many examples only; for trying things out


def evaluate(
    model: Path,
    teacher: Path | None,
    tasks: Sequence[Task],
    protocol: Protocol,
    device: torch.device,
    on_progress: Progress,
    data_dir: Path | None = None,
) -> dict[str, Any]:
    """Scores of a model and, where given, of its teacher, side by side, as `results.json` holds them.

    `narrate` hears what is being done and the share of all fine-tunings that is done. Raises UsageError for a
    folder that is not a model, for labels that do not fit, and, without fine-tuning, for a model without the head.
    """
    subjects = {"student": model} | ({} if teacher is None else {"teacher": teacher})
    for folder in subjects.values():
        require_model(folder)
    prints = {who: files_fingerprint(folder) for who, folder in subjects.items()}
    seeds = protocol.seeds if protocol.finetune else (0,)
    total, done = len(subjects) * len(tasks) * len(seeds), 0
    found: dict[str, Any] = {}
    for task in tasks:
        on_progress(f"reading {task.name}", done / total)
        splits = load(task, data_dir, train=protocol.finetune)
        if protocol.limit is not None:
            splits = {name: _head(split, protocol.limit) for name, split in splits.items()}
        entry: dict[str, Any] = {"data": {name: split.fingerprint for name, split in splits.items()}}
        for who, folder in subjects.items():
            runs = []
            for seed in seeds:
                words = f"{task.name}: {who}" + (f", seed {seed}" if protocol.finetune else "")

                def step(share: float, words: str = words, base: int = done) -> None:
                    on_progress(words, (base + share) / total)

                step(0.0)
                runs.append(_kept(prints[who], folder, task, splits, seed, protocol, device, step))
                done += 1
            entry[who] = {"seeds": runs, **_median(runs)}
        entry["kept"] = _kept_share(entry)
        found[task.name] = entry
    on_progress("scores done", 1.0)
    return {
        "format": FORMAT,
        "version": VERSION,
        "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "model": {"name": model.resolve().name, "fingerprint": prints["student"]},
        "teacher": None if teacher is None else {"name": teacher.name, "fingerprint": prints["teacher"]},
        "protocol": _plain(protocol),
        "device": str(device),
        "versions": versions(),
        "tasks": found,
    }


def _head(split: Split, count: int) -> Split:
    texts = tuple(column[:count] for column in split.texts)
    return Split(texts, split.labels[:count], f"{split.fingerprint}:{count}")


def _plain(protocol: Protocol) -> dict[str, Any]:
    return {**asdict(protocol), "seeds": list(protocol.seeds)}


def _median(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    names = runs[0]["metrics"]
    return {
        "score": statistics.median(run["score"] for run in runs),
        "metrics": {name: statistics.median(run["metrics"][name] for run in runs) for name in names},
    }


def _kept_share(entry: Mapping[str, Any]) -> float | None:
    """The student's score in percent of the teacher's; None where there is no teacher or its score is not positive."""
    if "teacher" not in entry or entry["teacher"]["score"] <= 0:
        return None
    return float(100.0 * entry["student"]["score"] / entry["teacher"]["score"])


# --------------------------------------------------------------------------------- one model, one task, one seed


def _kept(
    model_print: str,
    folder: Path,
    task: Task,
    splits: Mapping[str, Split],
    seed: int,
    protocol: Protocol,
    device: torch.device,
    step: Callable[[float], None],
) -> dict[str, Any]:
    """The outcome of one fine-tuning, from the cache where it was done before."""
    versions_that_count = {name: versions().get(name) for name in ("torch", "transformers")}
    settings = {key: value for key, value in _plain(protocol).items() if key != "seeds"}
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
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:40]
    path = paths.cache_folder() / "scores" / f"{key}.json"
    try:
        kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["outcome"]
    except (OSError, ValueError, KeyError):
        pass
    else:
        disk_cache.used(path)
        return kept
    began = time.monotonic()
    metrics = score_once(folder, task, splits, seed, protocol, device, step)
    outcome = {
        "seed": seed,
        "score": statistics.fmean(metrics.values()),
        "metrics": metrics,
        "seconds": round(time.monotonic() - began, 1),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps({"identity": identity, "outcome": outcome}, indent=1))
    disk_cache.trim()
    return outcome


class Encoded(torch.utils.data.Dataset[dict[str, Any]]):
    """Tokenised examples of one split, unpadded."""

    def __init__(self, tokenizer: Any, split: Split, length: int) -> None:
        self.fields = dict(tokenizer(*split.texts, truncation=True, max_length=length))
        self.labels = split.labels.tolist()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {name: values[index] for name, values in self.fields.items()} | {"labels": self.labels[index]}


def score_once(
    folder: Path,
    task: Task,
    splits: Mapping[str, Split],
    seed: int,
    protocol: Protocol,
    device: torch.device,
    step: Callable[[float], None],
) -> dict[str, float]:
    """Metric → value on the validation splits after fine-tuning (or as the model is, where the protocol says so)."""
    hub.quiet()
    try:
        import accelerate  # noqa: F401, the Trainer asks for it late and at length
    except ImportError:
        raise UsageError("Task scores need the package accelerate.", "Install it: pip install 'kdnas[eval]'.") from None
    import transformers
    from transformers import AutoTokenizer, DataCollatorWithPadding, Trainer, TrainerCallback, TrainingArguments

    import kdnas.models.recurrent  # noqa: F401, registers its classes

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()

    class Progress(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            turn.step()
            step(state.global_step / max(1, state.max_steps))

        def on_prediction_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            turn.step()

    turn = Turn(device)  # others may measure between the steps
    transformers.set_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = _classifier(folder, task, protocol)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
        model.config.pad_token_id = tokenizer.pad_token_id
    length = longest(model.config, protocol.length)
    data = {name: Encoded(tokenizer, split, length) for name, split in splits.items()}
    with tempfile.TemporaryDirectory(prefix="kdnas-scores-") as scratch:
        arguments = TrainingArguments(
            output_dir=scratch,
            per_device_train_batch_size=protocol.batch_size,
            per_device_eval_batch_size=protocol.batch_size * 2,
            num_train_epochs=task.epochs,
            learning_rate=protocol.learning_rate,
            weight_decay=protocol.weight_decay,
            warmup_steps=protocol.warmup,
            lr_scheduler_type="linear",
            optim="adamw_torch_fused",
            train_sampling_strategy="group_by_length",
            seed=seed,
            use_cpu=device.type == "cpu",
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=device.type == "cuda",
        )
        if device.type == "cuda":
            # Else the Trainer takes cuda:0, or spreads a batch over every GPU, and the protocol's batch is another.
            arguments.__dict__["_setup_devices"], arguments._n_gpu = device, 1
            torch.cuda.set_device(device)
        trainer = Trainer(
            model=model,
            args=arguments,
            train_dataset=data.get("train"),
            data_collator=DataCollatorWithPadding(tokenizer),
            processing_class=tokenizer,
            callbacks=[Progress()],
        )
        # The Trainer prints its own log lines through these.
        for callback in (transformers.trainer_callback.PrinterCallback, transformers.trainer_callback.ProgressCallback):
            trainer.remove_callback(callback)
        if protocol.finetune:
            with turn:
                trainer.train()
        order = None if protocol.finetune else _label_order(model, task)
        metrics: dict[str, float] = {}
        for name in task.splits:
            # Grouping by length holds for prediction too: the labels come back in the order of the predictions.
            with turn:
                output = trainer.predict(data[name], metric_key_prefix="test")
            logits, labels = _logits(output.predictions), np.asarray(output.label_ids)
            if not np.isfinite(logits).all():
                raise KdnasError(f"{task.name}: the model gives values that are not numbers.", "Check its weights.")
            predicted = logits[:, 0] if task.regression else (logits if order is None else logits[:, order]).argmax(-1)
            suffix = "" if len(task.splits) == 1 else "." + name.removeprefix("validation_")
            for metric in task.metrics:
                metrics[metric + suffix] = METRICS[metric](predicted, labels)
    del trainer, model
    gc.collect()
    return metrics


def _logits(predictions: Any) -> np.ndarray:
    first = predictions[0] if isinstance(predictions, tuple) else predictions
    return np.asarray(first, dtype=np.float64)


def _classifier(folder: Path, task: Task, protocol: Protocol) -> Any:
    from transformers import AutoConfig, AutoModelForSequenceClassification

    from kdnas.models import lora_adapters

    if lora_adapters.is_adapter(folder):
        with tempfile.TemporaryDirectory(prefix="kdnas-merged-") as place:
            lora_adapters.merged(folder, torch.device("cpu")).save_pretrained(place)
            return _classifier(Path(place), task, protocol)
    count = 1 if task.regression else len(task.labels)
    if not protocol.finetune:
        config = AutoConfig.from_pretrained(folder)
        if not any("SequenceClassification" in name for name in config.architectures or ()):
            raise UsageError(
                f"{folder} has no classification head (it is a {', '.join(config.architectures or ('bare model',))}).",
                "Leave out --no-finetune, so that one is trained.",
            )
        if config.num_labels != count:
            raise UsageError(
                f"The head in {folder} tells {config.num_labels} labels apart; {task.name} has {count}.",
                "Leave out --no-finetune, or choose the task that the head was trained for.",
            )
        return AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
    try:
        declared = AutoConfig.from_pretrained(folder).architectures or ()
        model = AutoModelForSequenceClassification.from_pretrained(
            folder, num_labels=count, dtype=torch.float32, ignore_mismatched_sizes=True
        )
        return _ordered(model, task) if any("SequenceClassification" in name for name in declared) else model
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise UsageError(
            f"{folder} cannot be opened for classification: {first_line(error)}.",
            "Give a folder of a model family that transformers can put a classification head on.",
        ) from None


def _ordered(model: Any, task: Task) -> Any:
    """A model whose head names the task's labels, with their outputs in the task's order; another one as it is."""
    order = _label_order(model, task)
    if order is not None:
        last = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m.out_features == len(order)][-1]
        with torch.no_grad():
            for parameter in last.parameters():
                parameter.copy_(parameter[order])
        model.config.id2label = dict(enumerate(task.labels))
        model.config.label2id = {label: place for place, label in enumerate(task.labels)}
    return model


def _label_order(model: Any, task: Task) -> list[int] | None:
    """Where the head names its labels as the task does, the head's place of each of them; else its own order."""
    names = {str(name).lower(): place for name, place in (model.config.label2id or {}).items()}
    if task.regression or set(names) != set(task.labels):
        return None
    return [names[label] for label in task.labels]


# ------------------------------------------------------------------------------------------- results, written down


def merged(new: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The new results, with tasks of an earlier file that came from the same models by the same protocol."""
    try:
        old = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        old = {}
    result = dict(new)
    if isinstance(old, dict) and old.get("format") == FORMAT:
        same = all(old.get(part) == new.get(part) for part in ("model", "teacher", "protocol"))
        if same:
            result["tasks"] = {**old.get("tasks", {}), **new["tasks"]}
        if old.get("model") == new.get("model") and "perplexity" in old and "perplexity" not in result:
            result["perplexity"] = old["perplexity"]
        if old.get("model") == new.get("model") and "labels" in old and "labels" not in result:
            result["labels"] = old["labels"]
    result["average"] = average(result["tasks"])
    result["markdown"] = markdown(result)
    return result


def average(tasks: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The mean score over the tasks, of the student and, where every task has it, of the teacher."""
    if not tasks:
        return {}
    entry: dict[str, Any] = {"tasks": len(tasks)}
    for who in ("student", "teacher"):
        if all(who in task for task in tasks.values()):
            entry[who] = {"score": statistics.fmean(task[who]["score"] for task in tasks.values())}
    entry["kept"] = _kept_share(entry)
    return entry


def markdown(results: Mapping[str, Any]) -> str:
    """The scores as a table, with the protocol below it."""
    protocol = results["protocol"]
    lines: list[str] = []
    if results["tasks"]:
        lines += ["| task | metrics | student | teacher | kept |", "| --- | --- | ---: | ---: | ---: |"]
        for name, task in results["tasks"].items():
            teacher = task.get("teacher", {}).get("metrics", {})
            own = task["student"]["metrics"]
            lines.append(
                f"| {name} | {', '.join(own)} | {_percent(own.values())} | {_percent(teacher.values())} | "
                f"{_share(task['kept'])} |"
            )
        if len(results["tasks"]) > 1:
            mean = average(results["tasks"])
            teacher_mean = mean.get("teacher", {}).get("score")
            lines.append(
                f"| **average** | | {_percent([mean['student']['score']])} | "
                f"{_percent([] if teacher_mean is None else [teacher_mean])} | {_share(mean['kept'])} |"
            )
        how = (
            f"Fine-tuned with AdamW, learning rate {protocol['learning_rate']:g}, batch {protocol['batch_size']}, "
            f"at most {protocol['length']} tokens, 3 epochs (5 for cola, mrpc, stsb, rte, wnli; 2 for "
            f"rotten-tomatoes), warm-up {protocol['warmup']:g}, weight decay {protocol['weight_decay']:g}; "
            f"validation split, last weights, median of {len(protocol['seeds'])} seed(s), in percent."
            if protocol["finetune"]
            else "As the models are, without fine-tuning; validation split, in percent."
        )
        if protocol["limit"] is not None:
            how += f" Only the first {protocol['limit']:,} examples of each split: no figure to quote."
        lines += ["", how]
    if "labels" in results:
        lines += ["", *_labels(results["labels"])]
    if "perplexity" in results:
        lines += ["", *_perplexity(results["perplexity"])]
    return "\n".join(lines).strip() + "\n"


def _percent(values: Any) -> str:
    return " / ".join(f"{100 * value:.1f}" for value in values) or "–"


def _share(kept: float | None) -> str:
    return "–" if kept is None else f"{kept:.1f} %"


def _labels(entry: Mapping[str, Any]) -> list[str]:
    whose = {"test": "the test part of its study", "held_out": "the held-out part of its study"}
    both = [who for who in ("student", "teacher") if who in entry]
    lines = [f"| labels | {' | '.join(both)} |", f"| --- |{' ---: |' * len(both)}"]
    for name, words in (("accuracy", "accuracy"), ("macro_f1", "macro F1")):
        lines.append(f"| {words} | {' | '.join(f'{100 * entry[who][name]:.1f}' for who in both)} |")
    kept = f", {entry['kept']:.1f} % of the teacher's accuracy kept" if "kept" in entry else ""
    place = whose.get(entry["part"], entry["part"])
    lines += ["", f"As the models are, on {entry['examples']:,} examples ({place}), in percent{kept}.", ""]
    names = entry["classes"]
    lines += [f"| the student's | {' | '.join(names)} |", f"| --- |{' ---: |' * len(names)}"]
    rows = zip(names, entry["student"]["confusion"], strict=True)
    return [*lines, *(f"| {name} | {' | '.join(map(str, row))} |" for name, row in rows)]


def _perplexity(entry: Mapping[str, Any]) -> list[str]:
    lines = ["| masked-language perplexity | |", "| --- | ---: |"]
    lines += [f"| {who} | {entry[who]['perplexity']:.1f} |" for who in ("student", "teacher") if who in entry]
    return [*lines, "", str(entry["how"])]


def write(results: Mapping[str, Any], path: Path) -> None:
    """`results.json` and, beside it, the Markdown table."""
    write_atomically(path, json.dumps(results, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    write_atomically(path.with_suffix(".md"), str(results["markdown"]))


def default_output(model: Path) -> Path:
    return model / RESULTS
