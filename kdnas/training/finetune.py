"""Ordinary training of one model, teacher or student: epochs, accumulation, warm-up, early stopping, checkpoints.

`fit` is the frame; what is learned (here: text, or a summary after a text) is a Task, and others lie in files of
their own. Distils nothing and searches nothing.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdnas import __version__
from kdnas.data import labelled
from kdnas.measuring.device_lock import Turn
from kdnas.system import fingerprint, folders, seeds, versions
from kdnas.system.errors import BadOptionError, KdnasError, UsageError
from kdnas.system.files import write_atomically
from kdnas.system.progress import Progress
from kdnas.training import checkpoints, loop
from kdnas.training.optimiser import Group, Optimiser

FACTS = "finetune.json"


@dataclass(frozen=True)
class Settings:
    """How a model is trained. One step sees `batch_size · accumulate` examples. `head_rate` is for a fresh head."""

    epochs: int = 3
    batch_size: int = 8
    accumulate: int = 1
    learning_rate: float = 5e-5
    head_rate: float = 1e-3
    warmup: float = 0.06
    weight_decay: float = 0.01
    clip: float = 1.0
    patience: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulate", "patience"):
            if getattr(self, name) < 1:
                raise BadOptionError(name, f"{name} = {getattr(self, name)} is out of range.", "Give at least 1.")
        for name in ("learning_rate", "head_rate", "clip"):
            if not 0 < getattr(self, name) < math.inf:
                raise BadOptionError(name, f"{name} = {getattr(self, name)} is out of range.", "Give more than 0.")
        for name in ("warmup", "weight_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise BadOptionError(name, f"{name} = {getattr(self, name)} is out of range.", "Give 0 to below 1.")


@dataclass(frozen=True)
class Epoch:
    """One finished epoch: mean training loss, and the figures on the held-out part (`loss` decides)."""

    epoch: int
    train_loss: float
    scores: Mapping[str, float]
    seconds: float


class Task(ABC):
    """What a model learns. A *unit* is what a loss is the mean of: a predicted token, or an example."""

    model: torch.nn.Module
    device: torch.device
    lengths: np.ndarray  # int [training examples]: real tokens, to batch like with like

    @abstractmethod
    def units(self, rows: np.ndarray) -> int:
        """Units in the training examples `rows`."""

    @abstractmethod
    def loss(self, rows: np.ndarray) -> Tensor:
        """The summed loss over those units, to be differentiated."""

    @abstractmethod
    def score(self) -> dict[str, float]:
        """Figures on the held-out part in eval mode; `loss`, the lower the better, decides when to stop."""

    @abstractmethod
    def save(self, place: Path) -> None:
        """Write model and tokenizer so that `from_pretrained` opens them."""

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """Fingerprints and sizes: what a checkpoint must have been made with."""

    def head(self) -> set[str]:
        """Names of the parameters that begin fresh and take `head_rate`."""
        return set()

    def final(self) -> dict[str, Any]:
        """Further figures of the trained model, for its `finetune.json`: on examples that decided nothing, say."""
        return {}


@dataclass(frozen=True)
class Told:
    """Who hears how it goes."""

    on_progress: Progress
    epoch: Callable[[Epoch], None] = field(default=lambda _: None)


# ---------------------------------------------------------------------------- the frame


def fit(task: Task, settings: Settings, place: Path, told: Told) -> list[Epoch]:
    """Train until the epochs or the patience run out; the best epoch's weights are restored at the end.

    `place` holds a checkpoint after every epoch: the same call after a death goes on, to the same result. A step's
    loss is the mean over all units of its accumulated batches, whatever their sizes, as in one big batch.
    """
    named = {name: p for name, p in task.model.named_parameters() if p.requires_grad}
    groups = _groups(named, task.head(), settings)
    optimiser = Optimiser(named, groups, warmup=settings.warmup, clip=settings.clip)
    key = fingerprint.run_key({"settings": asdict(settings), "task": task.facts()})
    history = _restored(optimiser, key, place)
    for epoch in history:
        told.epoch(epoch)
    while len(history) < settings.epochs and len(history) - _best(history) < settings.patience:
        history.append(_epoch(task, optimiser, settings, history, told))
        if not math.isfinite(history[-1].scores["loss"]):
            raise KdnasError(
                f"The loss is {history[-1].scores['loss']} after epoch {len(history)}.", "Lower the learning rate."
            )
        _write(optimiser, key, place, history)
        told.epoch(history[-1])
    with torch.no_grad():
        for name, tensor in checkpoints.best(place, _best(history)).items():
            named[name].copy_(tensor)
    return history


def _groups(named: Mapping[str, torch.nn.Parameter], fresh: set[str], settings: Settings) -> list[Group]:
    """Body and head by their own rates; biases, norms and embeddings are not decayed."""
    groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    for name, parameter in named.items():
        peak = settings.head_rate if name in fresh else settings.learning_rate
        decayed = parameter.dim() >= 2 and "embed" not in name and ".wte" not in name and ".wpe" not in name
        groups.setdefault((peak, settings.weight_decay if decayed else 0.0), []).append(parameter)
    return [Group(parameters, peak, decay) for (peak, decay), parameters in groups.items()]


def _epoch(task: Task, optimiser: Optimiser, settings: Settings, history: Sequence[Epoch], told: Told) -> Epoch:
    begin, done = time.perf_counter(), len(history)
    plan = _plan(task.lengths, settings, done)
    task.model.train()
    summed, counted = 0.0, 0

    def learn(step: list[np.ndarray], _: int) -> None:
        nonlocal summed, counted
        units = sum(task.units(rows) for rows in step)
        for rows in step:
            loss = task.loss(rows)
            (loss / max(1, units)).backward()
            summed += float(loss.detach())
        counted += units

    with Turn(task.device) as turn:

        def on_step(step: int, count: int) -> None:
            turn.step()
            told.on_progress(
                f"epoch {done + 1} of {settings.epochs}, step {step:,} of {count:,}",
                (done + step / count) / settings.epochs,
            )

        loop.steps(
            optimiser,
            plan,
            len(plan),
            done=done,
            epochs=settings.epochs,
            noise=seeds.number(settings.seed, seeds.Tuning.NOISE, done),
            device=task.device,
            learn=learn,
            on_step=on_step,
        )
        task.model.eval()
        scores = task.score()
    return Epoch(done + 1, summed / max(1, counted), scores, time.perf_counter() - begin)


def _plan(lengths: np.ndarray, settings: Settings, epoch: int) -> list[list[np.ndarray]]:
    """The epoch's steps, each some batches of rows; examples of like length lie together within pools of 50 batches."""
    rng = seeds.generator(settings.seed, seeds.Tuning.BATCHES, epoch)
    shuffled = labelled.plan(lengths, settings.batch_size, rng)
    return [shuffled[i : i + settings.accumulate] for i in range(0, len(shuffled), settings.accumulate)]


def _best(history: Sequence[Epoch]) -> int:
    """The epoch, from 1, with the least loss; of equal ones the first. 0 before there is one."""
    if not history:
        return 0
    return min(range(len(history)), key=lambda i: (history[i].scores["loss"], i)) + 1


def _restored(optimiser: Optimiser, key: str, place: Path) -> list[Epoch]:
    saved = checkpoints.last(place)
    if saved is None:
        return []
    if saved.kept["key"] != key:
        raise UsageError(
            f"{place} holds the checkpoints of another training.", "Remove it, or name another folder to write."
        )
    with torch.no_grad():
        for name, parameter in optimiser.named.items():
            parameter.copy_(saved.tensors[f"model.{name}"])
    prefix = "optimiser."
    moments = {n.removeprefix(prefix): t for n, t in saved.tensors.items() if n.startswith(prefix)}
    optimiser.restore(moments)
    return [Epoch(**point) for point in saved.kept["history"]]


def _write(optimiser: Optimiser, key: str, place: Path, history: Sequence[Epoch]) -> None:
    own = {name: p.detach() for name, p in optimiser.named.items()}
    tensors = {f"model.{name}": tensor for name, tensor in own.items()}
    tensors |= {f"optimiser.{name}": tensor for name, tensor in optimiser.state().items()}
    best = _best(history)
    kept = {"key": key, "history": [asdict(epoch) for epoch in history], "best": best}
    checkpoints.write(place, len(history), tensors, {}, kept, own if best == len(history) else None)


def run(task: Task, settings: Settings, output: Path, told: Told, about: Mapping[str, Any]) -> dict[str, Any]:
    """`fit`, then the model folder under `output`, whole or not at all; what its `finetune.json` says.

    `about` is what the folder should say of model and data. Raises UsageError for a folder that is something else.
    """
    output = output.absolute()
    key = fingerprint.run_key({"settings": asdict(settings), "task": task.facts()})
    done = _finished(output, key)
    if done is not None:
        told.on_progress(f"{output} is finished already", 1.0)
        return done
    place = folders.partial_of(output)
    with checkpoints.alone(place, str(output)):
        try:
            history = fit(task, settings, place, told)
        except torch.OutOfMemoryError:
            raise KdnasError(
                f"The memory of {task.device} ran out.", "Give a smaller batch size and accumulate more batches."
            ) from None
        best = history[_best(history) - 1]
        facts = {
            "format": "kdnas-finetune",
            "version": 1,
            "kdnas": __version__,
            "run": key,
            **about,
            "settings": asdict(settings),
            "task": task.facts(),
            "best_epoch": best.epoch,
            "scores": dict(best.scores),
            "stopped_early": len(history) < settings.epochs,
            "history": [asdict(epoch) for epoch in history],
            **task.final(),
            "versions": versions.versions(),
        }
        with folders.whole(output) as work:
            task.save(work)
            write_atomically(work / FACTS, json.dumps(facts, indent=2, ensure_ascii=False) + "\n")
        shutil.rmtree(place, ignore_errors=True)
    return facts


def _finished(output: Path, key: str) -> dict[str, Any] | None:
    if (output / FACTS).is_file():
        facts: dict[str, Any] = json.loads((output / FACTS).read_text(encoding="utf-8"))
        if facts.get("run") == key:
            return facts
        raise UsageError(f"{output} already holds another model.", "Name another folder, or remove that one.")
    folders.require_vacant(output)
    return None


# ---------------------------------------------------------------------------- language
