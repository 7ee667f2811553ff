"""What goes before a vocabulary head that is tied to the embeddings, for the teacher's logits: least squares.

Knows no model.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

HOLD = 1e-3  # of the mean moment, so that what hardly varies is not trusted

Pairs = Sequence[tuple[Tensor, Tensor]]
"""What the student's last norm gives with a weight of ones [..., own width], and the teacher's [..., width]."""


def tied_map(pairs: Pairs, theirs: Tensor, own: Tensor, likely: Tensor) -> Tensor:
    """The symmetric C [own width, own width] with the least squared error of the logits `own @ C @ x` from those that
    the teacher's head `theirs` [vocabulary, width] gives, of the tied head `own` [vocabulary, own width].

    Tokens count by `likely` [vocabulary], the teacher's mean prediction (`metric_of`). Of the normal equations
    A C N + N C A = Q + Qᵀ, with A = ownᵀ F own and N the moments of x, in the basis in which N is the identity and A
    diagonal.
    """
    metric, cross = metric_of(theirs, own, likely)
    second, told = torch.zeros_like(metric), torch.zeros_like(metric)
    for mine, wanted in pairs:
        x, y = mine.flatten(0, -2).cpu().double(), wanted.flatten(0, -2).cpu().double()
        second += x.t() @ x
        told += (y @ cross).t() @ x
    second.diagonal().add_(HOLD * second.diagonal().mean())
    inverse = torch.linalg.inv(torch.linalg.cholesky(second))
    values, vectors = torch.linalg.eigh(inverse @ metric @ inverse.t())
    basis = inverse.t() @ vectors
    right = basis.t() @ (told + told.t()) @ basis
    solved = basis @ (right / (values[:, None] + values)) @ basis.t()
    return (solved + solved.t()) / 2


def tied_norm(pairs: Pairs, theirs: Tensor, own: Tensor, likely: Tensor) -> tuple[Tensor, Tensor]:
    """The same of a diagonal C and an offset before the head: weight and bias [own width] of a norm."""
    metric, cross = metric_of(theirs, own, likely)
    rows = [tuple(part.flatten(0, -2).cpu().double() for part in pair) for pair in pairs]
    count = sum(len(x) for x, _ in rows)
    mean, goal = (torch.stack([pair[side].sum(0) for pair in rows]).sum(0) / count for side in (0, 1))
    second, told = torch.zeros_like(metric), torch.zeros_like(mean)
    for x, y in rows:
        second += (x - mean).t() @ (x - mean)
        told += ((x - mean) * ((y - goal) @ cross)).sum(0)
    matrix = metric * second
    matrix.diagonal().add_(1e-6 * matrix.diagonal().mean())
    weight = torch.linalg.solve(matrix, told)
    return weight, torch.linalg.solve(metric, goal @ cross) - weight * mean


def metric_of(theirs: Tensor, own: Tensor, likely: Tensor) -> tuple[Tensor, Tensor]:
    """ownᵀ F own, a little lifted so that it has an inverse, and theirsᵀ F own; float64 on the CPU.

    F = diag(p) − p pᵀ is the divergence's curvature at the mean prediction p: what all logits share is nothing to it.
    """
    p = likely.to(own) / likely.sum().to(own)
    own, theirs = own - p @ own, theirs - p @ theirs
    weighted = own * p[:, None]
    metric, cross = (weighted.t() @ own).cpu().double(), (theirs.t() @ weighted).cpu().double()
    metric.diagonal().add_(1e-6 * metric.diagonal().mean())
    return metric, cross
