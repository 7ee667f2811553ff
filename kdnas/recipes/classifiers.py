"""What all distillation of classifiers shares: examples, teacher and its logits, score, bench and training loop.

The recipes beside it say what a student is and what a step's loss is. Knows no strategy, no store and no screen.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from kdnas.data import documents as reading
from kdnas.data import labelled
from kdnas.data.labelled import Examples, LabelledText
from kdnas.data.tokens import tokenizer_fingerprint
from kdnas.measuring import devices, passes
from kdnas.measuring.passes import Once
from kdnas.models import class_order, merged_adapters
from kdnas.models import open as opening
from kdnas.recipes import latency_tokens
from kdnas.recipes.contract import Workbench
from kdnas.study.spec import StudySpec
from kdnas.study.spec_recipes import ClassifierRecipe
from kdnas.system.errors import UsageError
from kdnas.system.progress import Progress
from kdnas.teachers import classifier as classifiers
from kdnas.teachers.classifier import Classifier, Source
from kdnas.training import finetune
from kdnas.training.contract import Score, Student
from kdnas.training.loop import Step, Stepwise
from kdnas.training.losses import soft_labels
from kdnas.training.losses.divergences import single

LEAST_TO_LEARN = 1e-3  # nats by which a teacher's predictions must differ from a constant one


def described(spec: StudySpec) -> tuple[Any, dict[str, Any]]:
    """The teacher's configuration and what `describe` tells of it, its weights unread. Raises UsageError."""
    reading.require_labels(spec.data)
    folder = opening.locate(spec.teacher, config_only=True)
    config = classifiers.config_of(folder, spec.teacher.model)
    classifiers.check_length(spec.data, config, spec.latency.length)
    facts = {
        "model": spec.teacher.model,
        "family": config.model_type,
        "layers": getattr(config, "num_hidden_layers", None),
        "width": getattr(config, "hidden_size", None),
    }
    return config, {name: value for name, value in facts.items() if value is not None}


class ClassifierBench(Workbench):
    """Examples, teacher and its logits, shared by all candidates of a process. Subclasses set `space`."""

    def __init__(self, spec: StudySpec, device: torch.device, on_progress: Progress) -> None:
        self.spec, self.device, self.on_progress = spec, device, on_progress
        self.source: Source = classifiers.source(spec.teacher, on_progress)
        config = classifiers.config_of(self.source.folder, spec.teacher.model)
        classifiers.check_length(spec.data, config, spec.latency.length)
        self.text: LabelledText = labelled.read(
            spec.data, spec.budget.proxy_fraction, self.source.tokenizer, on_progress
        )
        self.teacher: Classifier = self.open_teacher()
        self.held_logits = self.teacher_logits(self.text.held_out, "the held-out part")
        self.warnings = self._check_teacher()
        self.constant = self._constant()
        ids = torch.from_numpy(latency_tokens.of_texts(self.text.train.ids, spec.latency, spec.data.source)).to(device)
        self._timed = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    # -------------------------------------------------------------------- the teacher

    def open_teacher(self) -> Classifier:
        """The checkpoint, the model's own head, or else the model taught on the examples (once for all studies)."""
        where = self.source
        if classifiers.has_head(where, self.text.names):
            folder = where.base if where.checkpoint is None else where.checkpoint
        else:
            folder = classifiers.taught(where, self.text, self.teaching(), self.device, self.on_progress)
        return self.opened(folder)

    def opened(self, folder: Path) -> Classifier:
        """The classifier in a folder as the study's teacher; `teacher_folder` remembers where it lies."""
        self.teacher_folder = folder
        self.on_progress(f"loading {self.source.name}", None)
        return classifiers.open_classifier(self.source, folder, self.text.names, self.device)

    def _check_teacher(self) -> tuple[str, ...]:
        """Warnings of the teacher's answers on the held-out part. Raises UsageError where they show that a head without
        names has another order than the data's classes."""
        labels = self.text.held_out.labels
        if not self.teacher.named:
            found = class_order.order_by_examples(self.held_logits, labels)
            class_order.require_same_order(found, self.text.names, self.teacher.name)
        share = float(np.bincount(labels).max() / len(labels))
        own = classifiers.figures(self.held_logits, labels)["accuracy"]
        if own >= share:
            return ()
        said = (
            f"warning: the teacher {self.teacher.name!r} is worse than always saying the commonest class on the "
            f"held-out part: {own:.1%} against {share:.1%}"
        )
        self.on_progress(said, None)
        return (said,)

    def teaching(self) -> finetune.Settings:
        """How a teacher without a head is taught. Its seed is fixed, so that studies of all seeds share it."""
        part = cast(ClassifierRecipe, self.spec.recipe)
        return finetune.Settings(
            epochs=part.teacher_epochs,
            batch_size=16,
            learning_rate=part.teacher_rate,
            head_rate=part.teacher_head_rate,
        )

    def teacher_logits(self, examples: Examples, what: str) -> Tensor:
        """float32 [examples, classes] on the CPU, in the data's order of classes; asked for once."""
        what = f"{what} of {self.spec.data.source}"
        return self.teacher.logits(examples, self.text.pad_id, self.on_progress, what)

    @cached_property
    def proxy_logits(self) -> Tensor:
        return self.teacher_logits(self.text.proxy, "the proxy set")

    @cached_property
    def train_logits(self) -> Tensor:
        """Of the whole training part, whose head the proxy set is."""
        rest = self.text.train[self.text.proxy_count :]
        if not len(rest):
            return self.proxy_logits
        return torch.cat([self.proxy_logits, self.teacher_logits(rest, "the rest of the training part")])

    def _constant(self) -> float:
        """Mean KL(teacher ‖ the teacher's mean prediction on the proxy set) over the held-out part, in nats: what the
        best constant prediction leaves."""
        mean = torch.softmax(self.proxy_logits.double(), -1).mean(0).log()
        left = float(_divergence(self.held_logits, mean.expand(len(self.held_logits), -1)))
        if left < LEAST_TO_LEARN:
            raise UsageError(
                f"The teacher {self.teacher.name!r} says nearly the same of every example of "
                f"{self.spec.data.source!r}.",
                "Give a teacher that tells its classes apart, or teach it longer (recipe.teacher_epochs).",
            )
        return left

    # -------------------------------------------------------------------- the contract

    def score(self, student: Student) -> Score:
        """Mean KL(teacher ‖ student) over the held-out part, divided by that of a constant prediction.

        Raw it is in nats. `extra` has accuracy, macro F1 and cross-entropy against the labels, and the teacher's
        accuracy.
        """
        logits = self.student_logits(student.body, self.text.held_out)
        raw = float(_divergence(self.held_logits, logits.double()))
        found = classifiers.figures(logits, self.text.held_out.labels)
        own = classifiers.figures(self.held_logits, self.text.held_out.labels)
        extra = {**found, "teacher_accuracy": own["accuracy"], "teacher_macro_f1": own["macro_f1"]}
        return Score(raw / self.constant, raw, extra)

    def student_logits(self, body: torch.nn.Module, examples: Examples) -> Tensor:
        """float32 [examples, classes] on the CPU, in eval mode."""
        return classifiers.logits_of(body, examples, self.text.pad_id)

    def timed(self, student: Student | None) -> Once:
        """One classification of the spec's batch and length, all tokens real, head included."""
        return self.pass_of(self.teacher.model, frozen=True) if student is None else self.pass_of(student.body)

    def pass_of(self, model: torch.nn.Module, ids: Tensor | None = None, *, frozen: bool = False) -> Once:
        """`ids` stand in for the teacher's where the model has another vocabulary."""
        inputs = self._timed if ids is None else {**self._timed, "input_ids": ids}
        return passes.one_pass(model, self.device, self.spec.latency.dtype, frozen=frozen, **inputs)

    def teacher_shape(self) -> dict[str, Any]:
        """What decides the teacher's latency, for `shape_key`."""
        config: Any = self.teacher.model.config
        names = ("model_type", "num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size")
        return {name: getattr(config, name, None) for name in names} | {
            "classes": len(self.text.names),
            "batch": list(self._timed["input_ids"].shape),
            "bf16": devices.autocasts(self.device),
        }

    def finished(self, student: Student, folder: Path, on_progress: Progress) -> dict[str, Any]:
        """`classification`: figures and confusion table of student and teacher on the held-out part and on the test
        part, parameters of both, and the MiB of their weights on the disk."""
        on_progress("scoring student and teacher", None)
        found: dict[str, Any] = {
            "classes": list(self.text.names),
            "size": {"student": {**self.counts(student), "mib": stored_mib(folder)}, "teacher": self.counts(None)},
        }
        found["size"]["teacher"]["mib"] = found["size"]["teacher"]["parameters"] * 4 / 2**20
        for part in ("held_out", "test"):
            examples: Examples = getattr(self.text, part)
            if len(examples):
                own = self.student_logits(student.body, examples)
                taught = self.teacher_logits(examples, f"the {part.replace('_', '-')} part")
                found[part] = {
                    "examples": len(examples),
                    "student": classifiers.report(own, examples.labels),
                    "teacher": classifiers.report(taught, examples.labels),
                }
        return {"classification": found}

    def counts(self, student: Student | None) -> dict[str, int]:
        """Parameters of the student (of the teacher for None): all, those that learned, those that are not zero."""
        model = self.teacher.model if student is None else student.body
        all_of = list(model.parameters())
        learned = all_of if student is None else [p for p in all_of if p.requires_grad]
        return {
            "parameters": sum(p.numel() for p in all_of),
            "trainable": sum(p.numel() for p in learned),
            "non_zero": sum(int(p.count_nonzero()) for p in all_of),
        }

    def provenance(self) -> dict[str, Any]:
        return {
            "teacher": self.teacher.name,
            "teacher_fingerprint": self.teacher.fingerprint,
            "tokenizer_fingerprint": tokenizer_fingerprint(self.source.tokenizer),
            "data": self.spec.data.source,
            "data_fingerprint": self.text.fingerprint,
            **self.text.record,
            "classes": list(self.text.names),
            "training_examples": len(self.text.train),
            "proxy_examples": self.text.proxy_count,
            "held_out_examples": len(self.text.held_out),
            "test_examples": len(self.text.test),
            "training_tokens": self.text.train.tokens,
            "proxy_tokens": self.text.proxy.tokens,
            "held_out_tokens": self.text.held_out.tokens,
            "constant_divergence": self.constant,
            "teacher_accuracy": classifiers.figures(self.held_logits, self.text.held_out.labels)["accuracy"],
            **({"warnings": list(self.warnings)} if self.warnings else {}),
        }


def stored_mib(folder: Path) -> float:
    """Of the weights below a folder, an adapter beside the model that it was merged into left out."""
    beside = folder / merged_adapters.ADAPTER
    weights = (path for path in folder.rglob("*.safetensors") if beside not in path.parents)
    return sum(path.stat().st_size for path in weights) / 2**20


def _divergence(teacher_logits: Tensor, logits: Tensor) -> Tensor:
    """Mean KL(teacher ‖ student) at temperature 1, in nats."""
    return soft_labels.soft(logits.float(), teacher_logits.float(), 1.0).mean()


class ClassifierTraining(Stepwise[Tensor]):
    """Steps over examples in batches of like length; a recipe's subclass says what the loss of a batch is."""

    def __init__(
        self, bench: ClassifierBench, student: Student, epochs: int, seed: int, *, full: bool, soft: bool = True
    ) -> None:
        """On the whole training part with `full`, else the proxy set; without `soft` the teacher isn't asked."""
        self.text, self.examples = bench.text, bench.text.train if full else bench.text.proxy
        self._lengths = self.examples.lengths
        self._teacher = (bench.train_logits if full else bench.proxy_logits) if soft else None
        super().__init__(bench, student, len(self.examples), epochs, seed)

    @abstractmethod
    def loss(self, logits: Tensor, labels: Tensor, teacher_logits: Tensor | None) -> Tensor:
        """Of a batch: logits [n, classes], labels [n], the teacher's logits [n, classes] → [n]."""

    def feed(self, generator: np.random.Generator, first: int = 0) -> tuple[Sequence[Step[Tensor]], int]:
        batches = labelled.plan(self._lengths, self.bench.spec.data.batch_size, generator)
        each = self.bench.spec.training.accumulate
        plan = [batches[i : i + each] for i in range(0, len(batches), each)]
        return [Step([torch.from_numpy(b) for b in part], sum(map(len, part))) for part in plan[first:]], len(plan)

    def size(self, batch: Tensor) -> int:
        return len(batch)

    def tokens(self, batch: Tensor) -> int:
        return int(self._lengths[batch.numpy()].sum())

    def step_loss(self, rows: Tensor, step: int) -> Tensor:
        device = self.bench.device
        pad = opening.padding(self.student.body, self.text.pad_id)
        batch = labelled.padded(self.examples, rows.numpy(), pad)
        with torch.autocast(device.type, torch.bfloat16, enabled=devices.autocasts(device)):
            logits = self.student.body(**classifiers.tensors(batch, device)).logits
        labels = torch.from_numpy(batch.labels).to(device)
        taught = None if self._teacher is None else self._teacher[rows].to(device)
        return self.loss(single(logits), labels, taught).mean()
