"""Training by gradient steps as several recipes share it: AdamW, warm-up and linear decay over all epochs, clipping.

A recipe says which rows make a batch and what a step's loss is. Knows no model and no data.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdnas.system.errors import UsageError
from kdnas.training.contract import Bench, Epoch, OnStep, Student, Training

BATCHES, SAMPLES = 2, 3  # purposes of random numbers


def draw(seed: int, purpose: int, index: int) -> int:
    """One number below 2³¹ for a torch generator."""
    return int(np.random.SeedSequence([seed, purpose, index]).generate_state(1, np.uint32)[0] >> 1)


class Stepwise(Training):
    """One distillation. `count` are the rows of the training data; the trained parameters are those of the student's
    body that require gradients, its `aids` are kept with them."""

    def __init__(self, bench: Bench, student: Student, count: int, epochs: int, seed: int) -> None:
        self.bench, self.student, self.count = bench, student, count
        self.epochs, self.seed, self.done = epochs, seed, 0
        self._seconds, self._tokens = 0.0, 0
        self._named = {n: p for n, p in student.body.named_parameters() if p.requires_grad}  # tied ones once
        undecayed = {id(p) for p in self.undecayed()}
        decayed = [p for p in self._named.values() if p.dim() >= 2 and id(p) not in undecayed]
        marked = {id(p) for p in decayed}
        rest = [p for p in self._named.values() if id(p) not in marked]
        settings = bench.spec.training
        groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": rest, "weight_decay": 0.0}]
        self._optimiser = torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True)

    @abstractmethod
    def undecayed(self) -> list[torch.nn.Parameter]:
        """Matrices that are not decayed: the embeddings."""

    @abstractmethod
    def batches(self, generator: np.random.Generator) -> Sequence[Tensor]:
        """The rows of each batch of one epoch; the number of batches is the same in every epoch."""

    @abstractmethod
    def step_loss(self, rows: Tensor, step: int) -> Tensor:
        """The mean loss over `rows`, to be differentiated; `step` counts from the beginning."""

    @abstractmethod
    def tokens(self, rows: Tensor) -> int:
        """Tokens learned from in `rows`."""

    def after_step(self, step: int, steps: int) -> None:
        """What follows a step of the optimiser; `step` of `steps` in an epoch counts from the beginning."""
        return None

    def run_epoch(self, on_step: OnStep | None = None) -> Epoch:
        begin = time.perf_counter()
        self.student.body.train()
        settings, device = self.bench.spec.training, self.bench.device
        plan = self.batches(np.random.default_rng(np.random.SeedSequence([self.seed, BATCHES, self.done])))
        total = self.epochs * len(plan)
        losses = torch.zeros((), device=device)
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(draw(self.seed, SAMPLES, self.done))
            for done, rows in enumerate(plan, start=1):
                step = self.done * len(plan) + done - 1
                for group in self._optimiser.param_groups:
                    group["lr"] = settings.learning_rate * rate(step, total, settings.warmup)
                loss = self.step_loss(rows, step)
                loss.backward()
                clip(list(self._named.values()), settings.clip)
                self._optimiser.step()
                self._optimiser.zero_grad(set_to_none=True)
                self.after_step(step, len(plan))
                losses += loss.detach() * len(rows)
                self._tokens += self.tokens(rows)
                if on_step is not None:
                    on_step(done, len(plan))
        self.done += 1
        score = self.bench.score(self.student)
        self._seconds += time.perf_counter() - begin
        return Epoch(self.done, self.epochs, score, float(losses) / self.count, self._seconds, self._tokens)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors = {f"body.{name}": parameter.detach().clone() for name, parameter in self._named.items()}
        if self.student.aids is not None:
            tensors |= {f"aids.{n}": t.detach().clone() for n, t in self.student.aids.state_dict().items()}
        for name, parameter in self._named.items():
            for key, value in self._optimiser.state.get(parameter, {}).items():
                tensors[f"optimiser.{name}.{key}"] = value.detach().clone()
        facts = {"done": self.done, "epochs": self.epochs, "seed": self.seed}
        return tensors, {**facts, "seconds": self._seconds, "tokens": self._tokens}

    def restore(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        if facts["epochs"] != self.epochs or facts["seed"] != self.seed:
            raise UsageError(
                f"The checkpoint is of a training over {facts['epochs']} epochs with seed {facts['seed']}.",
                f"This one runs over {self.epochs} with seed {self.seed}; start it afresh.",
            )
        with torch.no_grad():
            for name, parameter in self._named.items():
                parameter.copy_(tensors[f"body.{name}"])
        if self.student.aids is not None:
            aids = {n.removeprefix("aids."): t for n, t in tensors.items() if n.startswith("aids.")}
            self.student.aids.load_state_dict(aids)
        for name, parameter in self._named.items():
            kept = {}
            for key in ("step", "exp_avg", "exp_avg_sq"):
                value = tensors.get(f"optimiser.{name}.{key}")
                if value is not None:
                    kept[key] = value.clone().to(self.bench.device)
            if kept:
                self._optimiser.state[parameter] = kept
        self.done, self._seconds = int(facts["done"]), float(facts["seconds"])
        self._tokens = int(facts["tokens"])


def rate(step: int, steps: int, warmup: float) -> float:
    """Share of the peak step size at a step counted from 0: linear rise over `warmup`, then linear fall to 0."""
    rise = max(1, round(warmup * steps)) if warmup > 0 else 0
    if step < rise:
        return (step + 1) / rise
    return max(0.0, (steps - step) / max(1, steps - rise))


@torch.no_grad()
def clip(parameters: Sequence[torch.nn.Parameter], largest: float) -> None:
    """Scale the gradients down to a norm of `largest`; on the CPU gradients within it are not touched at all."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    if norm.is_cuda or float(norm) > largest:
        torch.nn.utils.clip_grads_with_norm_(parameters, largest, norm)
