"""Losses of causal distillation: pure functions of logits, in log space, one value per token.

No model, no data, no device is chosen here. A mean is always the caller's sum over a count that the caller gives, so
that padding never enters it and several small batches add up to one big one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import log
from typing import Any, Literal

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

Divergence = Literal["forward", "reverse", "js", "skew-forward", "skew-reverse", "adaptive"]
IGNORED = -100  # the label of a position that has nothing to predict
HEAD_MASS = 0.5  # of the teacher's likeliest tokens, which an adaptive divergence calls the head
LEAST_LOG = -80.0  # stands for the log of zero: its exponential is still a positive float32


def single(tensor: Tensor) -> Tensor:
    """In float32, or in float64 where it is that already."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def between(
    log_p: Tensor,
    log_q: Tensor,
    kind: Divergence,
    js_beta: float = 0.5,
    skew_alpha: float = 0.1,
    *,
    rest: bool = False,
) -> Tensor:
    """Divergence of student q from teacher p over the last axis: [..., outcomes] twice → [...], in nats.

    forward  KL(p‖q); reverse  KL(q‖p); js  β·KL(p‖m) + (1 − β)·KL(q‖m) with m = β·p + (1 − β)·q
    (generalised Jensen–Shannon, Agarwal et al., 2024, "On-Policy Distillation of Language Models", eq. 2);
    skew-forward  KL(p ‖ α·p + (1 − α)·q); skew-reverse  KL(q ‖ (1 − α)·p + α·q), which stay bounded where one side
    is 0 (Ko et al., 2024, "DistiLLM: Towards Streamlined Distillation for Large Language Models", section 3.1);
    adaptive  g·KL(p‖q) + (1 − g)·KL(q‖p), where g is the head's share of Σ|p − q|, without gradient (Wu et al., 2025,
    "Rethinking Kullback-Leibler Divergence in Knowledge Distillation for Large Language Models", section 4.2).
    `rest`: the last outcome stands for many, which are none of the head.
    """
    log_p, log_q = log_p.clamp(min=LEAST_LOG), log_q.clamp(min=LEAST_LOG)
    if kind == "forward":
        return _kl(log_p, log_q)
    if kind == "reverse":
        return _kl(log_q, log_p)
    if kind == "skew-forward":
        return _kl(log_p, _mixed(log_p, log_q, skew_alpha))
    if kind == "skew-reverse":
        return _kl(log_q, _mixed(log_q, log_p, skew_alpha))
    if kind == "adaptive":
        head = _share_of_head(log_p.exp(), log_q.exp(), rest)
        return head * _kl(log_p, log_q) + (1.0 - head) * _kl(log_q, log_p)
    log_m = _mixed(log_p, log_q, js_beta)
    return js_beta * _kl(log_p, log_m) + (1.0 - js_beta) * _kl(log_q, log_m)


@torch.no_grad()
def _share_of_head(p: Tensor, q: Tensor, rest: bool) -> Tensor:
    """Of what p and q differ in, the share in the fewest outcomes that hold HEAD_MASS of p: [..., outcomes] → [...]."""
    gap, whole = (p - q).abs(), p
    if rest:
        whole = torch.cat([p[..., :-1], torch.zeros_like(p[..., -1:])], -1)
    ordered, places = whole.sort(dim=-1, descending=True, stable=True)
    head = ordered.cumsum(-1) - ordered < HEAD_MASS
    if rest:
        head = head & (places != p.shape[-1] - 1)
    total = gap.sum(-1)
    return torch.where(total > 0, (gap.gather(-1, places) * head).sum(-1) / total.clamp(min=1e-30), 0.5)


def _mixed(log_a: Tensor, log_b: Tensor, share: float) -> Tensor:
    """Log of share · a + (1 − share) · b."""
    return torch.logaddexp(log_a + log(share), log_b + log(1.0 - share))


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    return (log_p.exp() * (log_p - log_q)).sum(-1)


@dataclass(frozen=True)
class Signal:
    """What the teacher says about each of n positions, at the recipe's temperature.

    With `indices` [n, k], `log_probs` [n, k + 1] are those tokens' log-probabilities and, last, the log of the mass
    of all others. Without, `log_probs` [n, vocabulary] is the whole distribution.
    """

    log_probs: Tensor
    indices: Tensor | None = None

    def __getitem__(self, rows: slice) -> Signal:
        return Signal(self.log_probs[rows], None if self.indices is None else self.indices[rows])


def full_signal(logits: Tensor, temperature: float) -> Signal:
    """The whole softened distribution of logits [n, vocabulary]."""
    return Signal(F.log_softmax(single(logits) / temperature, -1))


def top_signal(logits: Tensor, temperature: float, k: int) -> Signal:
    """The k likeliest tokens of logits [n, vocabulary] and the mass of the rest; k is less than the vocabulary."""
    scaled = single(logits) / temperature
    indices = scaled.topk(k, -1).indices
    return Signal(bucket_log_probs(scaled, indices), indices)


class _Buckets(torch.autograd.Function):
    """Log-probabilities of chosen tokens and of all others together.

    Written by hand because autograd would keep three [n, vocabulary] tensors for it, and because 1 − Σ top loses
    the rest's digits where the top holds nearly everything.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, indices: Tensor) -> Tensor:
        probs = torch.softmax(logits, -1)
        top = logits.gather(-1, indices) - logits.logsumexp(-1, keepdim=True)
        rest = probs.scatter(-1, indices, 0.0).sum(-1, keepdim=True)
        ctx.save_for_backward(probs, indices, rest)
        return torch.cat([top, rest.log().clamp(min=LEAST_LOG)], -1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        """∂/∂z_j = g_j − q_j·Σg for a chosen token, q_j·(g_rest / q_rest − Σg) for another."""
        probs, indices, rest = ctx.saved_tensors
        grad = grads[0]
        total = grad.sum(-1, keepdim=True)
        share = torch.where(rest > 0, grad[..., -1:] / rest.clamp(min=torch.finfo(rest.dtype).tiny), 0.0)
        chosen = grad[..., :-1] - total * probs.gather(-1, indices)
        return (probs * (share - total)).scatter_(-1, indices, chosen), None


def bucket_log_probs(logits: Tensor, indices: Tensor) -> Tensor:
    """[n, vocabulary] logits, [n, k] tokens → [n, k + 1] log-probabilities, that of all other tokens last."""
    buckets: Tensor = _Buckets.apply(logits, indices)
    return buckets


def divergence(
    logits: Tensor,
    signal: Signal,
    kind: Divergence,
    *,
    js_beta: float = 0.5,
    skew_alpha: float = 0.1,
    temperature: float = 1.0,
) -> Tensor:
    """Temperature² × divergence of the student's softened logits [n, vocabulary] from the teacher's signal → [n].

    T² keeps the gradient's size when T grows (Hinton et al., 2015). Against a top-k signal it is the divergence
    of the distributions in which all other tokens are one outcome, which is never larger than the full one but for
    the adaptive divergence, whose weights they change.
    """
    scaled = single(logits) / temperature
    top = signal.indices
    log_q = F.log_softmax(scaled, -1) if top is None else bucket_log_probs(scaled, top)
    return temperature**2 * between(
        signal.log_probs.to(log_q.dtype), log_q, kind, js_beta, skew_alpha, rest=top is not None
    )


def next_token_labels(ids: Tensor, mask: Tensor | None = None) -> Tensor:
    """The token that each position is to predict, IGNORED where there is none: [batch, length] → [batch, length].

    Position i predicts token i + 1. A position counts only where it and its successor are real (`mask` 1).
    """
    labels = torch.full_like(ids, IGNORED)
    labels[:, :-1] = ids[:, 1:]
    if mask is not None:
        real = mask.bool()
        labels[:, :-1][~(real[:, :-1] & real[:, 1:])] = IGNORED
    return labels


TokenLoss = Callable[[Tensor, slice], Tensor]
"""Logits [rows, vocabulary] of a slice of the positions → one loss per row."""


class _HeadLoss(torch.autograd.Function):
    """Sum of a token loss over positions, with the vocabulary's gradients taken chunk by chunk in the forward pass."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, token_loss: TokenLoss, rows: int, learn: bool
    ) -> Tensor:
        device = hidden.device.type
        work = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
        hidden, matrix = hidden.to(work), weight.to(work)
        offset = None if bias is None else bias.to(work)
        total = hidden.new_zeros((), dtype=torch.promote_types(work, torch.float32))
        need = [learn and wanted for wanted in ctx.needs_input_grad]
        grad_hidden = torch.empty_like(hidden) if need[0] else None
        grad_weight = torch.zeros_like(weight) if need[1] else None
        grad_bias = torch.zeros_like(bias) if bias is not None and need[2] else None
        wanted = grad_hidden is not None or grad_weight is not None or grad_bias is not None
        with torch.autocast(device, enabled=False):
            for start in range(0, len(hidden), rows):
                place = slice(start, min(start + rows, len(hidden)))
                part = hidden[place]
                logits = F.linear(part, matrix, offset)
                if not wanted:
                    total += token_loss(logits, place).sum()
                    continue
                with torch.enable_grad():
                    logits = logits.detach().requires_grad_()
                    loss = token_loss(logits, place).sum()
                    (slope,) = torch.autograd.grad(loss, logits)
                total += loss.detach()
                if grad_hidden is not None:
                    grad_hidden[place] = slope @ matrix
                if grad_weight is not None and work == weight.dtype:
                    grad_weight.addmm_(slope.t(), part)
                elif grad_weight is not None:
                    grad_weight += slope.t() @ part
                if grad_bias is not None:
                    grad_bias += slope.sum(0)
        ctx.save_for_backward(grad_hidden, grad_weight, grad_bias)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None, None]:
        hidden, weight, bias = (None if g is None else g * grads[0].to(g.dtype) for g in ctx.saved_tensors)
        return hidden, weight, bias, None, None, None


def head_loss(
    hidden: Tensor, weight: Tensor, token_loss: TokenLoss, *, bias: Tensor | None = None, rows: int | None = None
) -> Tensor:
    """Sum of `token_loss` over all positions, never holding more than `rows` × vocabulary logits at once.

    By default 128 rows on a CPU, where chunks that stay near its caches were a third cheaper, and 2048 elsewhere.

    hidden [n, width], weight [vocabulary, width] → scalar. Gradients reach hidden, weight and bias, at the price of
    the plain computation: no logits are computed twice. `token_loss` must not hold parameters of its own.
    """
    if rows is None:
        rows = 128 if hidden.device.type == "cpu" else 2048
    total: Tensor = _HeadLoss.apply(hidden, weight, bias, token_loss, rows, torch.is_grad_enabled())
    return total


def hard_loss(labels: Tensor) -> TokenLoss:
    """Cross-entropy with the labels [n]."""
    return lambda logits, rows: F.cross_entropy(single(logits), labels[rows], reduction="none")
