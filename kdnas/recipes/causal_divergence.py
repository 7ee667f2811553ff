"""Causal distillation on the logits: forward, reverse or Jensen–Shannon divergence, with cross-entropy on the text.

Loss of a token: weight · T² · D(teacher ‖ student at temperature T) + (1 − weight) · cross-entropy with the next token.
The teacher's side comes from the logit cache, or live where `top_k` is 0 or the cache's limit is too small.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from kdnas.measuring.devices import autocast
from kdnas.models.decoders import body_and_head
from kdnas.recipes.causal import CausalBench, CausalRecipe, CausalTraining
from kdnas.study.spec import StudySpec
from kdnas.study.spec_recipes import CausalDivergenceRecipe
from kdnas.system.progress import Progress
from kdnas.teachers import logit_cache
from kdnas.teachers.causal import CausalModel
from kdnas.teachers.logit_cache import LogitCache
from kdnas.training.contract import Student
from kdnas.training.losses.divergences import (
    Signal,
    TokenLoss,
    divergence,
    full_signal,
    hard_loss,
    head_loss,
    top_signal,
)

SignalOf = Callable[[slice], Signal]
"""The teacher's signal of a slice of a batch's positions."""


class CausalDivergence(CausalRecipe):
    """Builds search spaces and workbenches for decoders that learn from logits."""

    name = "causal-divergence"
    summary = "Token-level divergence on the logits of a causal model"

    def cache_bytes(self, spec: StudySpec) -> int | None:
        part = cast(CausalDivergenceRecipe, spec.recipe)
        return logit_cache.bytes_per_token(part.top_k) if part.top_k and part.weight else None

    def prepare(self, spec: StudySpec, device: torch.device, on_progress: Progress) -> CausalDivergenceBench:
        return CausalDivergenceBench(spec, device, on_progress)


class Live:
    """The teacher asked anew for every batch."""

    def __init__(self, teacher: CausalModel, ids: Tensor, temperature: float, k: int, device: torch.device) -> None:
        self._teacher, self._ids, self._temperature, self._k, self._device = teacher, ids, temperature, k, device

    def __call__(self, rows: Tensor) -> SignalOf:
        hidden = self._teacher.hidden(self._ids[rows])[:, :-1].flatten(0, 1)

        def part(place: slice) -> Signal:
            logits = self._teacher.logits(hidden[place])
            made = top_signal(logits, self._temperature, self._k) if self._k else full_signal(logits, self._temperature)
            return Signal(
                made.log_probs.to(self._device), None if made.indices is None else made.indices.to(self._device)
            )

        return part


class Cached:
    """The teacher as it was written down."""

    def __init__(self, cache: LogitCache, device: torch.device) -> None:
        self.cache, self._device = cache, device

    def __call__(self, rows: Tensor) -> SignalOf:
        signal = self.cache.signal(rows, self._device)
        return lambda place: signal[place]


Source = Live | Cached


class CausalDivergenceBench(CausalBench):
    def __init__(self, spec: StudySpec, device: torch.device, on_progress: Progress) -> None:
        super().__init__(spec, device, on_progress)
        self.part = cast(CausalDivergenceRecipe, spec.recipe)
        self._sources: dict[bool, Source] = {}
        if self.part.weight and self.budget.epochs:  # else no candidate asks for it
            self.source()

    def training(self, student: Student, *, epochs: int, seed: int, full: bool = False) -> DivergenceTraining:
        ids = self._train_ids() if full else self.proxy_ids
        taught = self.part.weight and epochs
        return DivergenceTraining(self, student, ids, epochs, seed, self.source(full) if taught else None)

    def source(self, full: bool = False) -> Source:
        """The teacher's side of the proxy set (or of all training chunks)."""
        whole = full and len(self.chunks.train) > len(self.chunks.proxy)
        if whole not in self._sources:
            ids = self._train_ids() if whole else self.proxy_ids
            cache, k = None, min(self.part.top_k, self.vocabulary - 1)
            if k:
                what = f"{'the training part' if whole else 'the proxy set'} of {self.spec.data.source}"
                teacher = self.teacher
                wanted = logit_cache.Predictions(
                    teacher.name,
                    teacher.fingerprint,
                    teacher.next_logits,
                    teacher.device,
                    ids,
                    what,
                    k,
                    self.part.temperature,
                )
                cache = logit_cache.open_or_build(wanted, self.on_progress)
            live = Live(self.teacher, ids, self.part.temperature, k, self.device)
            self._sources[whole] = live if cache is None else Cached(cache, self.device)
        return self._sources[whole]

    def provenance(self) -> dict[str, Any]:
        facts = super().provenance()
        for whole, source in self._sources.items():
            name = "training" if whole else "proxy"
            facts.setdefault("cache", {})[name] = (
                {"place": "disk", "k": source.cache.facts["k"], **source.cache.lost}
                if isinstance(source, Cached)
                else {"place": "recompute"}
            )
        return facts

    def close(self) -> None:
        for source in self._sources.values():
            if isinstance(source, Cached):
                source.cache.close()
        self._sources.clear()
        super().close()


class DivergenceTraining(CausalTraining):
    """One distillation; `source` None trains on the text alone."""

    def __init__(
        self, bench: CausalDivergenceBench, student: Student, ids: Tensor, epochs: int, seed: int, source: Source | None
    ) -> None:
        super().__init__(bench, student, ids, epochs, seed)
        self._part, self._source = bench.part, source

    def step_loss(self, rows: Tensor, step: int) -> Tensor:
        ids = self.ids[rows].to(self.bench.device)
        labels = ids[:, 1:].flatten()
        body, head = body_and_head(self.model)
        with autocast(self.bench.device):
            hidden = body(input_ids=ids, use_cache=False).last_hidden_state[:, :-1].flatten(0, 1)
            loss = head_loss(hidden, head.weight, self._token_loss(rows, labels), bias=head.bias)
        return loss / len(labels)

    def _token_loss(self, rows: Tensor, labels: Tensor) -> TokenLoss:
        part = self._part
        if self._source is None:
            return hard_loss(labels)
        signal = self._source(rows)

        def token_loss(logits: Tensor, place: slice) -> Tensor:
            logits = logits.float()
            soft = divergence(
                logits, signal(place), part.divergence, js_beta=part.js_beta, temperature=part.temperature
            )
            if part.weight == 1.0:
                return soft
            hard = F.cross_entropy(logits, labels[place], reduction="none")
            return part.weight * soft + (1.0 - part.weight) * hard

        return token_loss
