"""The normal equations of a linear layer over weighted rows, held to the weights that it has: ridge regression.

Sums over tokens, so that neither rows nor targets lie in memory whole. Knows no model.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kdnas.system.errors import KdnasError


class WeightedEquations:
    """Of targets [rows, outputs] from inputs [rows, size], each row with a weight of its own.

    Solved are weight and offset with the least Σ w² ‖weight · x + offset − y‖² / Σ w² + `hold` · v ·
    ‖weight − before‖², where v is the inputs' mean second moment under these weights, about their mean where there is
    an offset.
    """

    def __init__(self, hold: float, *, offset: bool) -> None:
        self._hold, self._offset = hold, offset
        self._shift = self._second = self._cross = self._first = self._wanted = torch.zeros(())
        self._mass = self._square = 0.0

    def add(self, inputs: Tensor, targets: Tensor, weights: Tensor | None = None) -> None:
        """Rows of any leading shape; `weights` [..., 1] are those of the rows, all 1 by default."""
        x, y = inputs.flatten(0, -2).float(), targets.flatten(0, -2).float()
        w = x.new_ones(len(x), 1) if weights is None else weights.flatten(0, -2).float()
        if not self._mass and self._offset:
            self._shift = x.mean(0)  # near the mean, so that float32 products keep the variance about it
        x, y = (x - self._shift.to(x)) * w, y * w
        self._mass += float(w.double().square().sum())
        self._second = self._second + _double(x.t() @ x)
        self._cross = self._cross + _double(x.t() @ y)
        self._first = self._first + _double((x * w).sum(0))
        self._wanted = self._wanted + _double((y * w).sum(0))
        self._square += float(y.double().square().sum())

    def solved(self, before: Tensor) -> tuple[Tensor, Tensor]:
        """Weight [outputs, size] and offset [outputs] (nothing without one), float64 on the CPU; `before` is what the
        weight is held to. Raises KdnasError for what is no number."""
        covariance, told, mean, wanted = self._moments()
        weight = _double(before)
        strength = self._strength(covariance, told, weight)
        if strength > 0:  # else no input ever changes, and nothing tells one weight from another: they stay
            covariance.diagonal().add_(strength)
            told = told.add(weight.t(), alpha=strength)
            weight = torch.cholesky_solve(told, torch.linalg.cholesky(covariance)).t()
        if not self._offset:
            return weight, torch.zeros_like(wanted)
        return weight, wanted - weight @ (mean + self._shift.to(mean))

    def left(self, before: Tensor, counts: Sequence[int]) -> Tensor:
        """What `solved` makes least, summed over outputs, at its least for the first so many inputs or fewer [counts];
        float64 on the CPU. The hold is that of all inputs. Raises KdnasError for what is no number.

        With Σ_xx + λ = L Lᵀ, the first k rows of L⁻¹ (Σ_xy + λ · beforeᵀ) are those of the first k inputs alone: so one
        factorisation serves all numbers of them.
        """
        covariance, told, _, wanted = self._moments()
        weight = _double(before)
        strength = self._strength(covariance, told, weight)
        least = torch.full((len(weight.t()),), self._square / self._mass, dtype=torch.float64)
        if self._offset:
            least -= float(wanted.square().sum())
        if strength > 0:
            covariance.diagonal().add_(strength)
            told = told.add(weight.t(), alpha=strength)
            rows = torch.linalg.solve_triangular(torch.linalg.cholesky(covariance), told, upper=False)
            least += (strength * weight.t().square() - rows.square()).sum(1).cumsum(0)
        return least.cummin(0).values[torch.tensor(counts) - 1].clamp_min(0)

    def _moments(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of inputs, of inputs and targets, and the means of both, about the means where there is an offset."""
        covariance, told = self._second / self._mass, self._cross / self._mass
        mean, wanted = self._first / self._mass, self._wanted / self._mass
        if self._offset:
            covariance, told = covariance - torch.outer(mean, mean), told - torch.outer(mean, wanted)
        return covariance, told, mean, wanted

    def _strength(self, covariance: Tensor, told: Tensor, weight: Tensor) -> float:
        """What the squared change of the weights counts. Raises KdnasError for what is no number."""
        if not all(bool(part.isfinite().all()) for part in (covariance, told, weight)):
            raise KdnasError(
                "The student cannot be fitted: what its layers give is not finite numbers.",
                'Check the teacher\'s weights, or take recipe.init = "inherit".',
            )
        return self._hold * float(covariance.diagonal().mean())


def _double(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", torch.float64)
