"""Causal distillation on the logits: a divergence from the teacher, with cross-entropy on the text.

Loss of a token: weight · T² · D(teacher ‖ student at temperature T) + (1 − weight) · cross-entropy with the next token.
The teacher's side comes from the logit cache, or live where `top_k` is 0 or the cache's limit is too small.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from kdnas.data.causal_text import end_of_text
from kdnas.measuring.devices import autocast
from kdnas.models.decoders import body_and_head
from kdnas.recipes.causal import CausalBench, CausalRecipe, CausalTraining
from kdnas.recipes.contract import Description
from kdnas.recipes.own_text import Kept, Sample, check_prompt, sample
from kdnas.study.spec import StudySpec
from kdnas.study.spec_recipes import CausalDivergenceRecipe
from kdnas.system import seeds
from kdnas.system.progress import Progress
from kdnas.teachers import greedy_text, logit_cache
from kdnas.teachers.causal import CausalModel
from kdnas.teachers.logit_cache import LogitCache
from kdnas.training.contract import Student
from kdnas.training.loop import Step
from kdnas.training.losses.divergences import (
    Signal,
    TokenLoss,
    divergence,
    full_signal,
    hard_loss,
    head_loss,
    single,
    top_signal,
)

SignalOf = Callable[[slice], Signal]
"""The teacher's signal of a slice of a batch's positions."""


class CausalDivergence(CausalRecipe):
    """Builds search spaces and workbenches for decoders that learn from logits."""

    name = "causal-divergence"
    summary = "Token-level divergence on the logits of a causal model"

    def describe(self, spec: StudySpec) -> Description:
        _check_tokens(spec)
        return super().describe(spec)

    def cache_bytes(self, spec: StudySpec) -> int | None:
        part = cast(CausalDivergenceRecipe, spec.recipe)
        return logit_cache.bytes_per_token(part.top_k) if part.top_k and part.weight else None

    def prepare(self, spec: StudySpec, device: torch.device, on_progress: Progress) -> CausalDivergenceBench:
        _check_tokens(spec)
        return CausalDivergenceBench(spec, device, on_progress)


def _check_tokens(spec: StudySpec) -> None:
    part = cast(CausalDivergenceRecipe, spec.recipe)
    if part.on_policy or part.text == "teacher":
        check_prompt(part.prompt_tokens, spec.data.length)


@dataclass(frozen=True)
class Live:
    """The teacher asked anew for every batch of chunks `ids`."""

    teacher: CausalModel
    ids: Tensor
    temperature: float
    k: int  # 0: the whole distribution
    device: torch.device  # the student's

    def __call__(self, rows: Tensor, first: int = 0) -> SignalOf:
        hidden = self.teacher.hidden(self.ids[rows])[:, first:-1].flatten(0, 1)
        return lambda place: self.of(hidden[place])

    def of(self, hidden: Tensor) -> Signal:
        """What the teacher says where its last states are these, [n, width]."""
        logits = self.teacher.logits(hidden)
        made = top_signal(logits, self.temperature, self.k) if self.k else full_signal(logits, self.temperature)
        return Signal(made.log_probs.to(self.device), None if made.indices is None else made.indices.to(self.device))


class Cached:
    """The teacher as it was written down."""

    def __init__(self, cache: LogitCache, device: torch.device) -> None:
        self.cache, self._device = cache, device

    def __call__(self, rows: Tensor, first: int = 0) -> SignalOf:
        signal = self.cache.signal(rows, self._device, first)
        return lambda place: signal[place]


Source = Live | Cached


class CausalDivergenceBench(CausalBench):
    def __init__(self, spec: StudySpec, device: torch.device, on_progress: Progress) -> None:
        super().__init__(spec, device, on_progress)
        self.part = cast(CausalDivergenceRecipe, spec.recipe)
        self._sources: dict[bool, Source] = {}
        self._texts: dict[bool, Tensor] = {}
        if self.budget.epochs:
            self.read_ids()
        if self.part.weight and self.budget.epochs:  # else no candidate asks for it
            self.source()

    def training(self, student: Student, *, epochs: int, seed: int, full: bool = False) -> DivergenceTraining:
        if not epochs:  # nothing is learned from
            return DivergenceTraining(self, student, self.proxy_ids, epochs, seed, None)
        source = self.source(full) if self.part.weight else None
        return DivergenceTraining(self, student, self.read_ids(full), epochs, seed, source)

    def read_ids(self, full: bool = False) -> Tensor:
        """The chunks that students read: of the data, or begun by the data and continued by the teacher."""
        ids = self._train_ids() if full else self.proxy_ids
        if self.part.text == "data":
            return ids
        whole = self._whole(full)
        if whole not in self._texts:
            what, prompt = self._in_words(whole), self.part.prompt_tokens
            self._texts[whole] = greedy_text.continued(self.teacher, ids, prompt, what, self.on_progress)
        return self._texts[whole]

    def live(self, ids: Tensor) -> Live:
        """The teacher, to be asked about chunks."""
        k = min(self.part.top_k, self.vocabulary - 1)
        return Live(self.teacher, ids, self.part.temperature, k, self.device)

    def _whole(self, full: bool) -> bool:
        """Whether all training chunks are meant, and they are more than the proxy set."""
        return full and len(self.chunks.train) > len(self.chunks.proxy)

    def _in_words(self, whole: bool) -> str:
        return f"{'the training part' if whole else 'the proxy set'} of {self.spec.data.source}"

    def source(self, full: bool = False) -> Source:
        """The teacher's side of the proxy set (or of all training chunks)."""
        whole = self._whole(full)
        if whole not in self._sources:
            ids, teacher = self.read_ids(whole), self.teacher
            live, cache = self.live(ids), None
            if live.k:
                wanted = logit_cache.Predictions(
                    teacher.name,
                    teacher.fingerprint,
                    teacher.next_logits,
                    teacher.device,
                    ids,
                    self._in_words(whole),
                    live.k,
                    self.part.temperature,
                )
                cache = logit_cache.open_or_build(wanted, self.on_progress)
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
    """One distillation; `source` None trains on the text alone.

    A share `on_policy` of the steps, drawn from the seed, learns on text that the student itself writes after the
    chunks' beginnings (generalised knowledge distillation, Agarwal et al., 2024, "On-Policy Distillation of Language
    Models", algorithm 1): the divergence of its tokens, without cross-entropy, and no gradient through the drawing.
    """

    def __init__(
        self, bench: CausalDivergenceBench, student: Student, ids: Tensor, epochs: int, seed: int, source: Source | None
    ) -> None:
        super().__init__(bench, student, ids, epochs, seed)
        self._part, self._source, self._live = bench.part, source, bench.live(ids)
        self._first = self._part.prompt_tokens - 1 if self._part.text == "teacher" else 0  # position that is learned
        self._end = end_of_text(bench.teacher.tokenizer)
        self._written = Kept(self._part.reuse)
        self._writes = np.zeros(0, bool)  # of the epoch's steps, which learn on the student's own text
        self._own: Sample | None = None  # what this step learns on
        self._place = 0  # of the next batch among the step's rows

    def feed(self, generator: np.random.Generator, first: int = 0) -> tuple[Sequence[Step[Tensor]], int]:
        plan, count = super().feed(generator, first)
        chances = seeds.generator(self.seed, seeds.Student.OWN_STEPS, self.done).random(count)
        self._writes = chances < self._part.on_policy
        return plan, count

    def before_epoch(self) -> None:
        self._written.forget()

    def before_step(self, given: Step[Tensor], step: int) -> None:
        self._own, self._place = None, 0
        if not self._writes[step - self.done * len(self._writes)]:
            return
        if self._written.due:
            rows, begin = torch.cat(list(given.batches)), self._part.prompt_tokens
            chance = torch.Generator(self.bench.device)
            drawn = sample(
                self.model,
                self._live.teacher,
                self.ids[rows][:, :begin],
                new_tokens=self.ids.shape[1] - begin,
                mix=0.0,
                temperature=1.0,
                end=self._end,
                generator=chance.manual_seed(seeds.number(self.seed, seeds.Student.OWN_TEXT, step)),
                judged=False,
            )
            self._written.draw(drawn)
        assert self._written.sample is not None
        self._own = self._written.sample[: given.rows]
        self._written.used += 1

    def kept(self) -> Mapping[str, Tensor]:
        return self._written.state()

    def restore_kept(self, state: Mapping[str, Tensor]) -> None:
        self._written.restore(state, self.bench.device, self._live.teacher.device)

    def tokens(self, batch: Tensor) -> int:
        if self._own is None:
            return len(batch) * (self.ids.shape[1] - 1 - self._first)
        return int(self._own.real[self._place - len(batch) : self._place].sum())

    def step_loss(self, rows: Tensor, step: int) -> Tensor:
        self._place += len(rows)
        if self._own is not None:
            return self._own_loss(self._own, slice(self._place - len(rows), self._place))
        ids, first = self.ids[rows].to(self.bench.device), self._first
        labels = ids[:, first + 1 :].flatten()
        loss = self._head_loss(ids, first, self._token_loss(rows, labels))
        return loss / len(labels)

    def _head_loss(self, ids: Tensor, first: int, token_loss: TokenLoss) -> Tensor:
        """Sum over the positions of chunks from the `first` on that have a successor."""
        body, head = body_and_head(self.model)
        with autocast(self.bench.device):
            hidden = body(input_ids=ids, use_cache=False).last_hidden_state[:, first:-1].flatten(0, 1)
            return head_loss(hidden, head.weight, token_loss, bias=head.bias)

    def _token_loss(self, rows: Tensor, labels: Tensor) -> TokenLoss:
        part = self._part
        if self._source is None:
            return hard_loss(labels)
        signal = self._source(rows, self._first)

        def token_loss(logits: Tensor, place: slice) -> Tensor:
            soft = self._divergence(logits, signal(place))
            if part.weight == 1.0:
                return soft
            hard = F.cross_entropy(single(logits), labels[place], reduction="none")
            return part.weight * soft + (1.0 - part.weight) * hard

        return token_loss

    def _own_loss(self, own: Sample, rows: slice) -> Tensor:
        """Of some of the step's rows, so that the mean over all rows is the mean over all tokens that were written."""
        drawn = own[rows]
        states, real = drawn.teacher_hidden.flatten(0, 1), drawn.real.flatten()

        def token_loss(logits: Tensor, place: slice) -> Tensor:
            return self._divergence(logits, self._live.of(states[place])) * real[place]

        total = self._head_loss(drawn.ids, drawn.prompt - 1, token_loss)
        return self._part.weight * total / own.real.sum() * (len(own.real) / len(drawn.real))

    def _divergence(self, logits: Tensor, signal: Signal) -> Tensor:
        part = self._part
        return divergence(
            logits,
            signal,
            part.divergence,
            js_beta=part.js_beta,
            skew_alpha=part.skew_alpha,
            temperature=part.temperature,
        )
