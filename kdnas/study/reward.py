"""The reward of a candidate: a pure function of its loss and its latency.

    reward = (1 − loss) · (latency_S / (β · latency_T)) ^ α

after KD-NAS (Trivedi et al., 2023, "Neural Architecture Search for Effective Teacher-Student Knowledge
Transfer in Language Models"). Nothing here runs a model, so every finished trial can be scored again for
another α and β at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, inf, isfinite, log
from sys import float_info

KNEE = 0.9  # up to this loss, `1 − loss` is taken as it is
MOST = float_info.max  # rewards end here, so that they can be ranked and written
LOG_MOST = log(MOST)


def quality(loss: float) -> float:
    """`1 − loss` up to a loss of 0.9; above, a positive tail that goes on falling, with the same slope at the knee.

    The bare difference turns negative for a loss over 1, and a negative quality times a latency factor would
    reward slow students. The tail is `0.1 · exp(−(loss − 0.9) / 0.1)`.
    """
    if loss <= KNEE:
        return 1.0 - loss
    return (1.0 - KNEE) * exp(-(loss - KNEE) / (1.0 - KNEE))


def reward(loss: float, latency_ms: float, teacher_latency_ms: float, alpha: float, beta: float) -> float:
    """The reward of one student; latencies in ms, of the same protocol.

    Raises ValueError where there is none: latencies and β must be positive, and everything finite.
    """
    if not all(0 < value < inf for value in (latency_ms, teacher_latency_ms, beta)):
        raise ValueError(f"latencies and β must be positive: {latency_ms}, {teacher_latency_ms}, {beta}")
    if not (isfinite(loss) and isfinite(alpha)):
        raise ValueError(f"the loss is {loss}, α is {alpha}")
    return min(quality(loss) * _speed(latency_ms, teacher_latency_ms, alpha, beta), MOST)


def _speed(latency_ms: float, teacher_latency_ms: float, alpha: float, beta: float) -> float:
    """`(latency_S / (β · latency_T)) ^ α`; by logarithms where a step of it is too small or too large for a float."""
    try:
        ratio = latency_ms / (beta * teacher_latency_ms)
        if 0 < ratio < inf:
            return float(ratio**alpha)
    except (ZeroDivisionError, OverflowError):
        pass
    exponent = alpha * (log(latency_ms) - log(beta) - log(teacher_latency_ms)) if alpha else 0.0
    return exp(exponent) if exponent < LOG_MOST else MOST


@dataclass(frozen=True)
class Exchange:
    """The loss that a factor in speed outweighs, at one reference student, for one α."""

    faster: float
    reference_loss: float
    loss_worth: float

    def __str__(self) -> str:
        times = f"{self.faster:g} times faster"
        if self.loss_worth == 0:
            return f"{times} is worth nothing: only the loss counts"
        verb = "is worth" if self.loss_worth > 0 else "costs"
        return f"{times} {verb} {abs(self.loss_worth):.3g} of loss (at a loss of {self.reference_loss:g})"


def exchange(alpha: float, faster: float = 10.0, reference_loss: float = 0.2) -> Exchange:
    """How much more loss a student `faster` times as fast may have for the same reward (β cancels).

    From (1 − loss′) · faster^(−α) = 1 − loss: loss′ − loss = (1 − loss) · (1 − faster^α).
    """
    try:
        factor = faster**alpha
    except OverflowError:
        factor = inf
    return Exchange(faster, reference_loss, (1.0 - reference_loss) * (1.0 - factor))
