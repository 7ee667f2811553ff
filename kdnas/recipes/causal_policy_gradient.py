"""Causal distillation by policy gradient: the student learns on what it writes itself, rewarded by its teacher.

Minimises the reverse divergence of whole continuations, KL(student ‖ teacher), by the single-step decomposition of
MiniLLM (Gu et al., 2024, "MiniLLM: Knowledge Distillation of Large Language Models", sections 2.2 and 2.3): the next
token's part is differentiated exactly over the vocabulary, what follows it enters as a length-normalised reward;
continuations are drawn from a mixture of teacher and student and weighted accordingly. Cross-entropy on the real
text is added, and penalties on repetition where the spec asks for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import log
from typing import Any, cast

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
from kdnas.study.spec_recipes import CausalPolicyGradientRecipe
from kdnas.system import seeds
from kdnas.system.errors import BadOptionError
from kdnas.system.progress import Progress
from kdnas.training.contract import Student
from kdnas.training.loop import Step
from kdnas.training.losses.divergences import between, hard_loss, head_loss, single

LARGEST_WEIGHT = 2.0  # importance weights are cut there; without a temperature they never exceed 1 / (1 − teacher_mix)


# ---------------------------------------------------------------------------- rewards, pure


def long_term(rewards: Tensor, real: Tensor) -> Tensor:
    """Mean reward of the real positions after each one: [batch, tokens] → [batch, tokens], 0 where none follows.

    R_t = 1/(N − t) · Σ_{t' > t} r_t', MiniLLM's length-normalised return (its equation 7).
    """
    kept = rewards * real
    after = kept.flip(1).cumsum(1).flip(1) - kept
    count = real.flip(1).cumsum(1).flip(1) - real
    return after / count.clamp(min=1)


def frequency(tokens: Tensor, real: Tensor) -> Tensor:
    """Share of the real positions before each one that hold the same token: [batch, n] → [batch, n] in 0 … 1."""
    return _mean_before((tokens[:, :, None] == tokens[:, None, :]).float(), real)


def sameness(embeddings: Tensor, real: Tensor) -> Tensor:
    """1 − the mean distance of each token's embedding to those before it: [batch, n, width] → [batch, n].

    The distance is 1 − cosine; the first token, with nothing before it, gets 0.
    """
    unit = F.normalize(embeddings.float(), dim=-1)
    return _mean_before(unit @ unit.transpose(1, 2), real)


def _mean_before(pairs: Tensor, real: Tensor) -> Tensor:
    """Mean of pairs[b, t, s] over real s < t."""
    earlier = torch.ones(pairs.shape[-2:], device=pairs.device).tril(-1) * real[:, None, :]
    return (pairs * earlier).sum(-1) / earlier.sum(-1).clamp(min=1)


def advantages(rewards: Tensor, penalties: Tensor, real: Tensor) -> Tensor:
    """What drawing each token brought, [batch, n]: the return of what follows it, less its own penalty, centred.

    `rewards` is log p_teacher − log q_student of the drawn tokens, `penalties` ≥ 0 counts against a token and, through
    the return, against what led to it. A token's own reward is left out: its expectation is differentiated exactly.
    No gradient passes.
    """
    value = long_term(rewards - penalties, real) - penalties
    mean = (value * real).sum() / real.sum().clamp(min=1)
    return ((value - mean) * real).detach()


@torch.no_grad()
def importance(logits: Tensor, tokens: Tensor, mixture: Tensor) -> Tensor:
    """Weights q/mixture of drawn tokens [n] by the student of now, logits [n, vocabulary], cut at LARGEST_WEIGHT."""
    own = F.log_softmax(single(logits), -1).gather(-1, tokens[:, None]).squeeze(-1)
    return (own - mixture).exp().clamp(max=LARGEST_WEIGHT)


def policy_loss(
    logits: Tensor,
    teacher_log_probs: Tensor,
    tokens: Tensor,
    weights: Tensor,
    advantage: Tensor,
    entropy_penalty: float,
) -> Tensor:
    """Of n positions: logits, teacher's log-probabilities [n, vocabulary]; drawn tokens, weights, advantages [n] → [n].

    weight · (KL(q ‖ p) − advantage · log q(token)) + entropy_penalty · (1 − entropy(q) / ln vocabulary). Only the
    student's logits carry gradient.
    """
    log_q = F.log_softmax(single(logits), -1)
    drawn = log_q.gather(-1, tokens[:, None]).squeeze(-1)
    next_token = between(teacher_log_probs.detach(), log_q, "reverse")
    loss = weights.detach() * (next_token - advantage.detach() * drawn)
    if entropy_penalty:
        entropy = -(log_q.exp() * log_q).sum(-1)
        loss = loss + entropy_penalty * (1.0 - entropy / log(logits.shape[-1]))
    return loss


# ---------------------------------------------------------------------------- recipe


class CausalPolicyGradient(CausalRecipe):
    """Builds search spaces and workbenches for decoders that learn on their own samples."""

    name = "causal-policy-gradient"
    summary = "Policy gradient on a causal student's own samples, rewarded by the teacher"

    def describe(self, spec: StudySpec) -> Description:
        _check_tokens(spec)
        return super().describe(spec)

    def prepare(self, spec: StudySpec, device: torch.device, on_progress: Progress) -> PolicyGradientBench:
        _check_tokens(spec)
        return PolicyGradientBench(spec, device, on_progress)


def _check_tokens(spec: StudySpec) -> None:
    check_prompt(cast(CausalPolicyGradientRecipe, spec.recipe).prompt_tokens, spec.data.length)


class PolicyGradientBench(CausalBench):
    def __init__(self, spec: StudySpec, device: torch.device, on_progress: Progress) -> None:
        super().__init__(spec, device, on_progress)
        self.part = cast(CausalPolicyGradientRecipe, spec.recipe)
        total = self.part.prompt_tokens + self.part.new_tokens
        positions = min(int(m.config.max_position_embeddings) for m in (self.teacher, self.base))
        if total > positions:
            raise BadOptionError(
                "recipe.new_tokens",
                f"{self.part.prompt_tokens} prompt tokens and {self.part.new_tokens} new ones are more than the "
                f"teacher's {positions} positions.",
                "Give fewer.",
            )

    def training(self, student: Student, *, epochs: int, seed: int, full: bool = False) -> PolicyGradientTraining:
        return PolicyGradientTraining(self, student, self._train_ids() if full else self.proxy_ids, epochs, seed)

    def provenance(self) -> dict[str, Any]:
        return {**super().provenance(), "cache": {"place": "recompute"}}


class PolicyGradientTraining(CausalTraining):
    """One distillation: a step learns on continuations of chunks' beginnings, and on its chunks.

    With `reuse`, continuations serve several steps. Advantages and what was drawn are then those of the drawing; the
    importance weight of each token is that of now, q_now / mixture. So the expected gradient is the one of the policy
    of now at prefixes that the policy of the drawing came to, with its returns: the off-policy policy gradient of
    Degris et al., 2012, "Off-Policy Actor-Critic". With fresh samples and no mixture it is the exact one.
    """

    def __init__(self, bench: PolicyGradientBench, student: Student, ids: Tensor, epochs: int, seed: int) -> None:
        super().__init__(bench, student, ids, epochs, seed)
        self._part, self._teacher = bench.part, bench.teacher
        self._end = end_of_text(bench.teacher.tokenizer)
        self._embeddings = cast(Tensor, bench.teacher.model.get_input_embeddings().weight)
        self._written = Kept(self._part.reuse)
        self._lessons: Lessons | None = None
        self._place = 0  # of the next batch among the step's rows

    def before_epoch(self) -> None:
        self._written.forget()

    def before_step(self, given: Step[Tensor], step: int) -> None:
        self._place = 0
        if not self._part.weight:
            return
        if self._written.due:
            rows = torch.cat(list(given.batches))
            self._written.draw(self._drawn(self.ids[rows][:, : self._part.prompt_tokens], step))
        assert self._written.sample is not None
        drawn, fresh = self._written.sample[: given.rows], not self._written.used
        assert drawn.teacher is not None
        tokens, real = drawn.tokens, drawn.real
        advantage = advantages(drawn.teacher - drawn.student, self._penalties(tokens, real), real)
        weights = (drawn.student - drawn.drawn_from).exp().clamp(max=LARGEST_WEIGHT) * real if fresh else None
        self._lessons = Lessons(drawn, advantage, weights)
        self._written.used += 1

    def kept(self) -> Mapping[str, Tensor]:
        return self._written.state()

    def restore_kept(self, state: Mapping[str, Tensor]) -> None:
        self._written.restore(state, self.bench.device, self._teacher.device)

    def step_loss(self, rows: Tensor, step: int) -> Tensor:
        weight, ids = self._part.weight, self.ids[rows].to(self.bench.device)
        loss = torch.zeros((), device=self.bench.device)
        if weight < 1.0:
            loss = loss + (1.0 - weight) * self._text_loss(ids)
        if weight > 0.0:
            loss = loss + weight * self._policy_loss(slice(self._place, self._place + len(rows)))
        self._place += len(rows)
        return loss

    def _text_loss(self, ids: Tensor) -> Tensor:
        labels = ids[:, 1:].flatten()
        body, head = body_and_head(self.model)
        with autocast(self.bench.device):
            hidden = body(input_ids=ids, use_cache=False).last_hidden_state[:, :-1].flatten(0, 1)
            return head_loss(hidden, head.weight, hard_loss(labels), bias=head.bias) / len(labels)

    def _drawn(self, prompts: Tensor, step: int) -> Sample:
        return sample(
            self.model,
            self._teacher,
            prompts,
            new_tokens=self._part.new_tokens,
            mix=self._part.teacher_mix,
            temperature=self._part.temperature,
            end=self._end,
            generator=torch.Generator(self.bench.device).manual_seed(
                seeds.number(self.seed, seeds.Student.NOISE, step)
            ),
        )

    def _policy_loss(self, rows: slice) -> Tensor:
        """Of some of the step's rows, so that the mean over all rows is the mean over all real tokens."""
        lessons, device = self._lessons, self.bench.device
        assert lessons is not None
        drawn = lessons.drawn[rows]
        states, tokens, real = drawn.teacher_hidden.flatten(0, 1), drawn.tokens.flatten(), drawn.real.flatten()
        mixture, advantage = drawn.drawn_from.flatten(), lessons.advantages[rows].flatten()
        known = None if lessons.weights is None else lessons.weights[rows].flatten()

        def token_loss(logits: Tensor, place: slice) -> Tensor:
            teacher_log_probs = F.log_softmax(self._teacher.logits(states[place]), -1).to(device)
            own = tokens[place]
            weights = importance(logits, own, mixture[place]) if known is None else known[place]
            losses = policy_loss(logits, teacher_log_probs, own, weights, advantage[place], self._part.entropy_penalty)
            return losses * real[place]

        body, head = body_and_head(self.model)
        with autocast(device):
            hidden = body(input_ids=drawn.ids, use_cache=False).last_hidden_state[:, drawn.prompt - 1 : -1]
            total = head_loss(hidden.flatten(0, 1), head.weight, token_loss, bias=head.bias)
        return total / lessons.drawn.real.sum() * (len(lessons.drawn.ids) / len(drawn.ids))

    def _penalties(self, tokens: Tensor, real: Tensor) -> Tensor:
        total = torch.zeros_like(real)
        if self._part.frequency_penalty:
            total = total + self._part.frequency_penalty * frequency(tokens, real)
        if self._part.diversity_penalty:
            embedded = self._embeddings[tokens.to(self._embeddings.device)].to(self.bench.device)
            total = total + self._part.diversity_penalty * sameness(embedded, real)
        return total


@dataclass(frozen=True)
class Lessons:
    """What one step's batches learn from. `weights` are None where they depend on the student of now."""

    drawn: Sample
    advantages: Tensor  # [rows, new tokens], centred over all rows
    weights: Tensor | None
