"""Losses of distilled classifiers: pure functions of logits [n, classes], in fp32 log space, one value per example.

The mean is always the caller's. No model, no data, no device is chosen here.
"""

from __future__ import annotations

import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from kdnas.training.losses.divergences import divergence, full_signal, single


def soft(logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Temperature² × KL(teacher ‖ student), both softened: [n] (Hinton et al., 2015)."""
    return divergence(logits, full_signal(teacher_logits, temperature), "forward", temperature=temperature)


def hard(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy with the labels [n]: [n]."""
    return F.cross_entropy(single(logits), labels, reduction="none")


def sequence(logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Cross-entropy with the teacher's most confident class: [n] (sequence-level knowledge distillation, Kim and Rush,
    2016, for an output of one symbol)."""
    return hard(logits, teacher_logits.argmax(-1))


def hybrid(
    logits: Tensor,
    labels: Tensor,
    teacher_logits: Tensor | None,
    *,
    weights: tuple[float, float, float],
    temperature: float,
) -> Tensor:
    """Soft, hard and sequence loss, weighted in this order: [n]. Without a teacher's weight none is needed."""
    total = weights[1] * hard(logits, labels)
    if weights[0] or weights[2]:
        assert teacher_logits is not None
        total = total + weights[0] * soft(logits, teacher_logits, temperature)
        total = total + weights[2] * sequence(logits, teacher_logits)
    return total
