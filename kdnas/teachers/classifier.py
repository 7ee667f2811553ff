"""Classifiers as models: opened from a folder or an adapter, taught once where they have no head, asked once.

What is taught lies in the cache under a fingerprint of model, examples and settings, so that no two studies teach
the same teacher. Knows no student.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from transformers import AutoModelForSequenceClassification

from kdnas.data import labelled
from kdnas.data.labelled import Batch, Examples, LabelledText
from kdnas.measuring import devices, memory, metrics
from kdnas.measuring.device_lock import Turn
from kdnas.models import class_order, classifier_head, lora_adapters, own_code
from kdnas.models import open as opening
from kdnas.models.open import files_fingerprint, longest
from kdnas.study.spec import DataSpec, TeacherSpec
from kdnas.system import disk_cache, paths
from kdnas.system.errors import BadOptionError, UsageError
from kdnas.system.fingerprint import run_key
from kdnas.system.progress import Progress
from kdnas.system.tensor_files import computed_once
from kdnas.teachers import cache_folder
from kdnas.training import finetune

SCORE_BATCH = 64


@dataclass(frozen=True)
class Source:
    """Where a classifier comes from: the model's own folder, what was fine-tuned from it, and the tokenizer of both."""

    name: str
    base: Path
    checkpoint: Path | None
    tokenizer: Any

    @property
    def folder(self) -> Path:
        """The whole model that a training starts from: an adapter is none."""
        return self.base if self.checkpoint is None or self.is_adapter else self.checkpoint

    @property
    def is_adapter(self) -> bool:
        return self.checkpoint is not None and lora_adapters.is_adapter(self.checkpoint)


@dataclass(frozen=True)
class Classifier:
    """A frozen classifier. `order[i]` is the place that the model's head has for class i of the data set."""

    name: str
    model: torch.nn.Module
    tokenizer: Any
    order: tuple[int, ...]
    fingerprint: str  # of weights, configuration, tokenizer and order
    named: bool = True  # False where the head names no classes, so that `order` is a guess to be checked

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def size(self) -> int:
        return sum(p.numel() for p in self.model.parameters())

    def logits(self, examples: Examples, pad_id: int, on_progress: Progress, what: str) -> Tensor:
        """float32 [examples, classes] on the CPU, kept on the disk: the teacher is asked once for every text."""
        facts = {"logits": 1, "model": self.fingerprint, "examples": examples.fingerprint(), "pad": pad_id}
        key = run_key({**facts, "numerics": devices.numerics(self.device)})
        path = paths.cache_folder() / "classifiers" / "logits" / f"{key}.safetensors"

        def ask() -> dict[str, Tensor]:
            words = f"asking the teacher about {what}"
            found = logits_of(self.model, examples, pad_id, lambda share: on_progress(words, share))
            if not bool(found.isfinite().all()):
                raise UsageError(
                    f"The teacher {self.name!r} gives values that are not finite numbers for {what}.",
                    "Check its weights; a checkpoint that overflowed in fp16 cannot teach.",
                )
            return {"logits": found[:, list(self.order)].contiguous()}

        return computed_once(path, ask)["logits"]


# ---------------------------------------------------------------------------- opening


def source(spec: TeacherSpec, on_progress: Progress | None = None) -> Source:
    """The folders and the tokenizer of a classifier. Raises UsageError for what is not there."""
    base = opening.locate(spec, on_progress)
    config_of(base, spec.model)
    checkpoint = None
    if spec.checkpoint is not None:
        checkpoint = Path(spec.checkpoint).expanduser()
        if not any((checkpoint / name).is_file() for name in ("config.json", lora_adapters.CONFIG)):
            raise UsageError(
                f"There is no checkpoint at {spec.checkpoint!r}.",
                "Give the folder of a fine-tuned model or of a PEFT adapter.",
            )
    own = checkpoint is not None and (checkpoint / "tokenizer_config.json").is_file()
    tokenizer = opening.open_tokenizer(checkpoint if own and checkpoint is not None else base, spec.model)
    where = Source(spec.model, base, checkpoint, tokenizer)
    opening.require_vocabulary(tokenizer, config_of(where.folder, spec.model), spec.model)
    return where


def config_of(folder: Path, name: str) -> Any:
    """The configuration of a model that can classify. Raises UsageError."""
    config = opening.open_config(folder, name)
    if type(config) not in AutoModelForSequenceClassification._model_mapping:
        raise UsageError(
            f"transformers has no classification head for the model {name!r} ({config.model_type}).",
            "Take an encoder of the BERT family.",
        )
    return config


def check_length(spec: DataSpec, config: Any, latency_length: int | None = None) -> None:
    """Raise UsageError where texts would be longer than the model has positions for."""
    for field, length in (("data.length", spec.length), ("latency.length", latency_length)):
        if length is not None and longest(config, length) < length:
            most = longest(config, length)
            raise BadOptionError(
                field, f"{field} = {length} is more than the teacher's {most} positions.", f"Give at most {most}."
            )


def has_head(where: Source, names: Sequence[str]) -> bool:
    """Whether a classification head is there already. Raises UsageError for one of other classes, or of another
    kind."""
    if where.is_adapter:
        return True
    config = config_of(where.folder, where.name)
    if not opening.classifies(config):
        return False
    class_order.require_one_of_several(config, where.name)
    _require_classes(config, names, where.name)
    class_order.order_of(config, names)
    return True


def _require_classes(config: Any, names: Sequence[str], name: str) -> None:
    if config.num_labels != len(names):
        raise UsageError(
            f"The head of {name!r} tells {config.num_labels} classes apart; the data has {len(names)}: "
            f"{', '.join(names[:5])}{' …' if len(names) > 5 else ''}.",
            "Give a teacher of this data, or one without a head, which is then taught.",
        )


def load(
    folder: Path,
    names: Sequence[str],
    name: str,
    *,
    tokenizer: Any = None,
    base: Path | None = None,
    to_teach: bool = False,
) -> tuple[torch.nn.Module, set[str]]:
    """A classifier in fp32 on the CPU, with the names of its parameters that begin fresh. `base` is the model under
    an adapter in `folder`; `tokenizer` is what pads its batches. `to_teach` gives it a head of the data's classes in
    the data's order: its own rows where it names the same ones, a fresh one where they are others. Raises UsageError
    for weights that are damaged or do not fit."""
    if lora_adapters.is_adapter(folder):
        model = lora_adapters.merged(folder, torch.device("cpu"), base)
        class_order.require_one_of_several(model.config, name)
        _require_classes(model.config, names, name)
        return opening.padded(model, tokenizer), set()
    config = config_of(folder, name)
    if not (to_teach or not opening.classifies(config)):
        opened = opening.open_weights(AutoModelForSequenceClassification, folder, name, config)
        return opening.padded(opened.model, tokenizer), set(opened.fresh)
    model, fresh = classifier_head.opened_for(folder, name, config, names)
    return opening.padded(model, tokenizer), set(fresh)


def open_classifier(where: Source, folder: Path, names: Sequence[str], device: torch.device) -> Classifier:
    """A frozen classifier from a folder with a head, or an adapter over the source's own model."""
    model, fresh = load(folder, names, where.name, tokenizer=where.tokenizer, base=where.base)
    if fresh:
        raise UsageError(f"{folder} has no classification head.", "Give a classifier's folder.")
    model.requires_grad_(False)
    model.eval()
    config: Any = model.config
    order = class_order.order_of(config, names)
    places = tuple(range(len(names))) if order is None else order
    mark = opening.model_fingerprint(model, config, where.tokenizer)
    fingerprint = f"{mark}-{'.'.join(map(str, places))}"
    return Classifier(where.name, model.to(device), where.tokenizer, places, fingerprint, named=order is not None)


# ---------------------------------------------------------------------------- logits and figures


def tensors(batch: Batch, device: torch.device) -> dict[str, Tensor]:
    """A batch as what a model's forward takes."""
    return {
        "input_ids": torch.from_numpy(batch.ids).to(device),
        "attention_mask": torch.from_numpy(batch.mask).to(device, torch.int64),
    }


@torch.inference_mode()
def logits_of(
    model: torch.nn.Module, examples: Examples, pad_id: int, on_progress: Callable[[float], None] = lambda _: None
) -> Tensor:
    """float32 [examples, classes] on the CPU, in eval mode and in the examples' order; bf16 where the GPU has it."""
    device = next((p.device for p in model.parameters()), torch.device("cpu"))  # quantised models have none
    model.eval()
    found: Tensor | None = None
    done, rows = 0, SCORE_BATCH
    with Turn(device) as turn:  # other workers may measure between the batches
        for batch in labelled.batches(examples, SCORE_BATCH, opening.padding(model, pad_id)):
            places, fitted = torch.from_numpy(batch.rows), 0
            inputs = tensors(batch, torch.device("cpu"))

            def ask(part: Tensor, inputs: dict[str, Tensor] = inputs) -> Tensor:
                with torch.autocast(device.type, torch.bfloat16, enabled=devices.autocasts(device)):
                    logits = model(**{name: table[part].to(device) for name, table in inputs.items()}).logits
                return logits.float().cpu()

            for part, said in memory.halving(torch.arange(len(places)), rows, device, ask):
                if found is None:
                    found = torch.empty(len(examples), said.shape[1])
                found[places[part]] = said
                fitted = max(fitted, len(part))
            rows = fitted if fitted < min(rows, len(places)) else rows
            done += len(places)
            turn.step()
            on_progress(done / len(examples))
    return torch.empty(0, 0) if found is None else found


def figures(logits: Tensor, labels: np.ndarray) -> dict[str, float]:
    """Accuracy, macro F1 and mean cross-entropy in nats of logits [n, classes] against labels [n]."""
    predicted = logits.argmax(-1).numpy()
    return {
        "accuracy": metrics.accuracy(predicted, labels),
        "macro_f1": metrics.macro_f1(predicted, labels),
        "cross_entropy": float(F.cross_entropy(logits.double(), torch.from_numpy(labels))),
    }


def report(logits: Tensor, labels: np.ndarray) -> dict[str, Any]:
    """`figures`, and the confusion table: a row for each class of the labels, a column for each predicted one."""
    table = metrics.confusion(logits.argmax(-1).numpy(), labels, logits.shape[1])
    return {**figures(logits, labels), "confusion": table.tolist()}


# ---------------------------------------------------------------------------- teaching


class Classification(finetune.Task):
    """The class of each example, by cross-entropy; `fresh` names the parameters that begin fresh."""

    def __init__(
        self,
        model: torch.nn.Module,
        fresh: set[str],
        tokenizer: Any,
        text: LabelledText,
        origin: str,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        """`origin` is a fingerprint of the model as it is now; `about` what else decides the result (an adapter's
        sizes), as plain values."""
        self.model, self._fresh, self._tokenizer, self.text = model, fresh, tokenizer, text
        self._origin, self._about = origin, about
        self.device = next(model.parameters()).device
        self.lengths = text.train.lengths

    def units(self, rows: np.ndarray) -> int:
        return len(rows)

    def loss(self, rows: np.ndarray) -> Tensor:
        batch = labelled.padded(self.text.train, rows, opening.padding(self.model, self.text.pad_id))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=devices.autocasts(self.device)):
            logits = self.model(**tensors(batch, self.device)).logits
        return F.cross_entropy(logits.float(), torch.from_numpy(batch.labels).to(self.device), reduction="sum")

    def score(self) -> dict[str, float]:
        found = figures(logits_of(self.model, self.text.held_out, self.text.pad_id), self.text.held_out.labels)
        return {"loss": found.pop("cross_entropy"), **found}

    def final(self) -> dict[str, Any]:
        """Figures on the test part, which decided nothing; without one there are none."""
        if not len(self.text.test):
            return {}
        return {"test": figures(logits_of(self.model, self.text.test, self.text.pad_id), self.text.test.labels)}

    def head(self) -> set[str]:
        return self._fresh

    def save(self, place: Path) -> None:
        self.model.save_pretrained(place)  # type: ignore[operator]
        own_code.put_beside(self.model, place)
        self._tokenizer.save_pretrained(place)

    def facts(self) -> dict[str, Any]:
        return {
            "kind": "classification",
            "model": self._origin,
            "data": self.text.fingerprint,
            "classes": list(self.text.names),
            "training_examples": len(self.text.train),
            "held_out_examples": len(self.text.held_out),
            "test_examples": len(self.text.test),
            "tokens": int(self.lengths.sum()),
            **({} if self._about is None else {"about": self._about}),
        }


Adapt = Callable[[torch.nn.Module], tuple[torch.nn.Module, set[str]]]
"""Makes of a loaded classifier what is trained (an adapter around it, say), with its fresh parameters' names."""


def task(
    where: Source,
    text: LabelledText,
    device: torch.device,
    seed: int,
    adapt: Adapt | None = None,
    about: Mapping[str, Any] | None = None,
) -> Classification:
    """A classifier ready to be taught. A fresh head is drawn from the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, fresh = load(where.folder, text.names, where.name, tokenizer=where.tokenizer, to_teach=True)
        if adapt is not None:
            model, fresh = adapt(model)
    return Classification(model.to(device), fresh, where.tokenizer, text, files_fingerprint(where.folder), about)


def taught(
    where: Source,
    text: LabelledText,
    settings: finetune.Settings,
    device: torch.device,
    on_progress: Progress,
    adapt: Adapt | None = None,
    about: Mapping[str, Any] | None = None,
) -> Path:
    """The folder of the model taught on the examples: from the cache, or taught now while others wait for it.

    Killed at any moment, the next call goes on from the last finished epoch.
    """
    identity = {
        "classifier": 1,
        "model": files_fingerprint(where.folder),
        "data": text.fingerprint,
        "settings": asdict(settings),
        "about": about,
        "device": device.type,
    }
    key = run_key(identity)
    output = paths.cache_folder() / "classifiers" / key

    def teach() -> None:
        paths.own_folder(output.parent)
        with cache_folder.building(disk_cache.lock_name(output)):
            if not (output / finetune.FACTS).is_file():
                learned = task(where, text, device, settings.seed, adapt, about)
                told = finetune.Told(lambda words, share: on_progress(f"teaching {where.name}: {words}", share))
                finetune.run(learned, settings, output, told, {"name": where.name})

    disk_cache.kept_while_used(output, teach)
    return output


def taught_facts(folder: Path) -> dict[str, Any]:
    """What the folder of a taught model says of its training; empty for another folder."""
    path = folder / finetune.FACTS
    if not path.is_file():
        return {}
    facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return facts
