"""Causal distillation by policy gradient: the student learns on what it writes itself, rewarded by its teacher.

Minimises the reverse divergence of whole continuations, KL(student ‖ teacher), by the single-step decomposition of
MiniLLM (Gu et al., 2024, "MiniLLM: Knowledge Distillation of Large Language Models", sections 2.2 and 2.3): the next
token's part is differentiated exactly over the vocabulary, what follows it enters as a length-normalised reward;
continuations are drawn from a mixture of teacher and student and weighted accordingly. Cross-entropy on the real
text is added, and penalties on repetition where the spec asks for them.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log
from typing import Any, cast

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from kdnas.data.causal_text import end_of_text
from kdnas.measuring.devices import autocast
from kdnas.models.decoders import body_and_head
from kdnas.recipes.causal import CausalBench, CausalRecipe, CausalTraining
from kdnas.recipes.contract import Description
from kdnas.study.spec import StudySpec
from kdnas.study.spec_recipes import CausalPolicyGradientRecipe
from kdnas.system import seeds
from kdnas.system.errors import BadOptionError
from kdnas.system.progress import Progress
from kdnas.teachers.causal import CausalModel
from kdnas.training.contract import Student
from kdnas.training.losses.divergences import between, hard_loss, head_loss

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
    log_q = F.log_softmax(logits.float(), -1)
    drawn = log_q.gather(-1, tokens[:, None]).squeeze(-1)
    single = between(teacher_log_probs.detach(), log_q, "reverse")
    loss = weights.detach() * (single - advantage.detach() * drawn)
    if entropy_penalty:
        entropy = -(log_q.exp() * log_q).sum(-1)
        loss = loss + entropy_penalty * (1.0 - entropy / log(logits.shape[-1]))
    return loss


# ---------------------------------------------------------------------------- sampling


@dataclass(frozen=True)
class Sample:
    """Continuations of a batch of prompts. All [batch, new tokens] but `ids` [batch, prompt + new tokens]."""

    ids: Tensor
    real: Tensor  # 1 up to and with the end of text
    student: Tensor  # log q of the drawn tokens, at temperature 1
    drawn_from: Tensor  # log of the mixture that they were drawn from
    teacher_hidden: Tensor  # [batch, new tokens, teacher's width], under its vocabulary head, at the drawing position


@torch.no_grad()
def sample(
    student: PreTrainedModel,
    teacher: CausalModel,
    prompts: Tensor,
    *,
    new_tokens: int,
    mix: float,
    temperature: float,
    end: int,
    generator: torch.Generator,
) -> Sample:
    """Draw from mix · teacher + (1 − mix) · student, both softened, token by token with key-value caches.

    Teacher and student may sit on different devices. With mix 0 the teacher runs once, at the end.
    """
    was = student.training
    student.eval()
    device = student.device
    body, head = body_and_head(student)
    teacher_body, _ = body_and_head(teacher.model)
    past, teacher_past = DynamicCache(config=student.config), DynamicCache(config=teacher.config)
    given = ids = prompts.to(device)
    alive = torch.ones(len(ids), device=device)
    real, own, mixture, hidden = [], [], [], []
    for _ in range(new_tokens):
        with autocast(device):
            logits = head(body(input_ids=given, past_key_values=past, use_cache=True).last_hidden_state[:, -1])
        log_q = F.log_softmax(logits.float(), -1)
        source = F.log_softmax(logits.float() / temperature, -1) if temperature != 1.0 else log_q
        if mix > 0:
            with autocast(teacher.device):
                state = teacher_body(
                    input_ids=given.to(teacher.device), past_key_values=teacher_past, use_cache=True
                ).last_hidden_state[:, -1]
            hidden.append(state)
            log_p = F.log_softmax(teacher.logits(state) / temperature, -1).to(device)
            source = torch.logaddexp(log_p + log(mix), source + log(1.0 - mix))
        token = torch.multinomial(source.exp(), 1, generator=generator)
        own.append(log_q.gather(1, token)[:, 0])
        mixture.append(source.gather(1, token)[:, 0])
        real.append(alive)
        ids = torch.cat([ids, token], 1)
        given = token
        alive = alive * (token[:, 0] != end)
        if not bool(alive.any()):
            break
    states = torch.stack(hidden, 1) if hidden else teacher.hidden(ids)[:, prompts.shape[1] - 1 : -1]
    student.train(was)
    return Sample(ids, torch.stack(real, 1), torch.stack(own, 1), torch.stack(mixture, 1), states)


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
    part = cast(CausalPolicyGradientRecipe, spec.recipe)
    if part.prompt_tokens >= spec.data.length:
        raise BadOptionError(
            "recipe.prompt_tokens",
            f"recipe.prompt_tokens = {part.prompt_tokens} leaves nothing of chunks of {spec.data.length} tokens.",
            "Give fewer, or raise data.length.",
        )


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
    """One distillation: a step draws continuations of its chunks' beginnings and learns on them and on the chunks."""

    def __init__(self, bench: PolicyGradientBench, student: Student, ids: Tensor, epochs: int, seed: int) -> None:
        super().__init__(bench, student, ids, epochs, seed)
        self._part, self._teacher = bench.part, bench.teacher
        self._end = end_of_text(bench.teacher.tokenizer)
        self._embeddings = cast(Tensor, bench.teacher.model.get_input_embeddings().weight)

    def step_loss(self, rows: Tensor, step: int) -> Tensor:
        weight, ids = self._part.weight, self.ids[rows].to(self.bench.device)
        loss = torch.zeros((), device=self.bench.device)
        if weight < 1.0:
            loss = loss + (1.0 - weight) * self._text_loss(ids)
        if weight > 0.0:
            loss = loss + weight * self._policy_loss(ids[:, : self._part.prompt_tokens], step)
        return loss

    def _text_loss(self, ids: Tensor) -> Tensor:
        labels = ids[:, 1:].flatten()
        body, head = body_and_head(self.model)
        with autocast(self.bench.device):
            hidden = body(input_ids=ids, use_cache=False).last_hidden_state[:, :-1].flatten(0, 1)
            return head_loss(hidden, head.weight, hard_loss(labels), bias=head.bias) / len(labels)

    def _policy_loss(self, prompts: Tensor, step: int) -> Tensor:
        part, device = self._part, self.bench.device
        drawn = sample(
            self.model,
            self._teacher,
            prompts,
            new_tokens=part.new_tokens,
            mix=part.teacher_mix,
            temperature=part.temperature,
            end=self._end,
            generator=torch.Generator(device).manual_seed(seeds.number(self.seed, seeds.Student.NOISE, step)),
        )
        length = prompts.shape[1]
        tokens, real = drawn.ids[:, length:], drawn.real
        states = drawn.teacher_hidden.flatten(0, 1)
        log_p = self._drawn_log_probs(states, tokens.flatten()).view_as(real)
        advantage = advantages(log_p - drawn.student, self._penalties(tokens, real), real).flatten()
        weights = ((drawn.student - drawn.drawn_from).exp().clamp(max=LARGEST_WEIGHT) * real).flatten()
        flat_tokens, flat_real = tokens.flatten(), real.flatten()

        def token_loss(logits: Tensor, place: slice) -> Tensor:
            teacher_log_probs = F.log_softmax(self._teacher.logits(states[place]), -1).to(device)
            losses = policy_loss(
                logits, teacher_log_probs, flat_tokens[place], weights[place], advantage[place], part.entropy_penalty
            )
            return losses * flat_real[place]

        body, head = body_and_head(self.model)
        with autocast(device):
            hidden = body(input_ids=drawn.ids, use_cache=False).last_hidden_state[:, length - 1 : -1].flatten(0, 1)
            total = head_loss(hidden, head.weight, token_loss, bias=head.bias)
        return total / real.sum()

    def _drawn_log_probs(self, states: Tensor, tokens: Tensor, rows: int = 256) -> Tensor:
        """The teacher's log-probabilities of the drawn tokens, [n], in chunks of the vocabulary's rows."""
        parts = []
        for place in range(0, len(states), rows):
            log_p = F.log_softmax(self._teacher.logits(states[place : place + rows]), -1).to(self.bench.device)
            parts.append(log_p.gather(-1, tokens[place : place + rows, None]).squeeze(-1))
        return torch.cat(parts)

    def _penalties(self, tokens: Tensor, real: Tensor) -> Tensor:
        total = torch.zeros_like(real)
        if self._part.frequency_penalty:
            total = total + self._part.frequency_penalty * frequency(tokens, real)
        if self._part.diversity_penalty:
            embedded = self._embeddings[tokens.to(self._embeddings.device)].to(self.bench.device)
            total = total + self._part.diversity_penalty * sameness(embedded, real)
        return total
