"""Mean squared error between a student's and its teacher's hidden states, through one linear projection a layer.

Solved by least squares or trained by steps. Knows no model and no data.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from kdnas.measuring import devices

RIDGE = 1.0  # times states over tokens


class Projections(torch.nn.Module):
    """One linear layer H_S → 2·H_T for each student layer.

    One for each rather than one for all: layers differ in basis and scale, and a shared one would make the
    student's layers alike for the projection's sake. It costs the same arithmetic.
    """

    def __init__(self, layers: int, width: int, outputs: int) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(layers, width, outputs))
        self.bias = torch.nn.Parameter(torch.zeros(layers, outputs))

    def squared_errors(
        self, layer: int, output: torch.Tensor, first: torch.Tensor, second: torch.Tensor
    ) -> torch.Tensor:
        """Sums of squared differences from the two targets [2], over rows, positions and dimensions."""
        squares = self._difference(layer, output, first, second).square()
        half = squares.shape[1] // 2
        return torch.stack([squares[:, :half].sum(), squares[:, half:].sum()])

    def _difference(self, layer: int, output: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        flat = output.flatten(0, 1).float()
        made = torch.addmm(self.bias[layer], flat, self.weight[layer])
        half = made.shape[1] // 2
        made[:, :half] -= first.flatten(0, 1).to(made.device)
        made[:, half:] -= second.flatten(0, 1).to(made.device)
        return made

    def loss(
        self, outputs: Sequence[torch.Tensor], firsts: Sequence[torch.Tensor], seconds: Sequence[torch.Tensor]
    ) -> torch.Tensor:
        """Mean squared error over the given tokens, both targets, all layers; differentiable in outputs and weights.

        Each step gives every STRIDE-th token of all layers: neighbouring tokens' errors are alike, and the
        projections (with the reading of targets) would otherwise cost a third of a narrow student's own arithmetic.
        """
        weights, biases = self.weight.unbind(0), self.bias.unbind(0)
        loss: torch.Tensor = sum(
            _Fit.apply(output, weight, bias, first, second)
            for output, weight, bias, first, second in zip(outputs, weights, biases, firsts, seconds, strict=True)
        )
        return loss / len(outputs)

    def solve(self, layer: int, gram: torch.Tensor, cross: torch.Tensor, tokens: int) -> None:
        """The least-squares projection from normal equations with a constant column: [H+1, H+1] and [H+1, 2·H_T].

        The ridge falls with the number of tokens: from few of them 2·H_T regressions on H_S states fit noise.
        """
        ridge = gram.diagonal()[:-1].mean() * (RIDGE * len(gram) / tokens)
        gram = gram.clone()
        gram.diagonal()[:-1] += ridge
        found = torch.linalg.solve(gram, cross)
        with torch.no_grad():
            self.weight[layer].copy_(found[:-1])
            self.bias[layer].copy_(found[-1])


class ProjectionSums:
    """The normal equations of all projections of a student, as sums over tokens; then the projections."""

    def __init__(self, aids: Projections) -> None:
        layers, width, outputs = aids.weight.shape
        self._aids, self._counts = aids, [0] * layers
        self._grams = aids.weight.new_zeros(layers, width + 1, width + 1)
        self._crosses = aids.weight.new_zeros(layers, width + 1, outputs)

    @torch.no_grad()
    def add(self, layer: int, output: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> None:
        """What a layer of the student gives [rows, length, H_S], and its targets there [rows, length, H_T]."""
        gram, cross = self._grams[layer], self._crosses[layer]
        flat = output.flatten(0, 1).float()
        width, half = flat.shape[1], cross.shape[1] // 2
        self._counts[layer] += len(flat)
        gram[:width, :width].addmm_(flat.t(), flat)
        total = flat.sum(0)
        gram[:width, width] += total
        gram[width, :width] += total
        gram[width, width] += len(flat)
        for target, columns in ((first, slice(None, half)), (second, slice(half, None))):
            wanted = target.flatten(0, 1).to(flat.device).float()
            cross[:width, columns].addmm_(flat.t(), wanted)
            cross[width, columns] += wanted.sum(0)

    def solve(self) -> None:
        for layer, count in enumerate(self._counts):
            self._aids.solve(layer, self._grams[layer], self._crosses[layer], count)


class _Fit(torch.autograd.Function):
    """Mean squared error of one projection. Its gradients are made at once from the difference, which is never kept."""

    @staticmethod
    def forward(ctx: Any, *given: Any) -> torch.Tensor:
        output, weight, bias, first, second = given
        flat = output.flatten(0, 1)
        half = weight.shape[1] // 2
        with torch.autocast(flat.device.type, enabled=False):
            whole = torch.promote_types(weight.dtype, torch.float32)
            work = torch.bfloat16 if devices.autocasts(flat.device) else whole
            flat, narrow = flat.to(work), weight.to(work)
            difference = torch.addmm(bias.to(work), flat, narrow)
            difference[:, :half] -= first.flatten(0, 1)
            difference[:, half:] -= second.flatten(0, 1)
            figures = difference.numel()
            loss = torch.linalg.vector_norm(difference, dtype=whole).square() / figures
            scale = 2.0 / figures
            ctx.save_for_backward(
                torch.mm(difference, narrow.t()).mul_(scale).view_as(output).to(output.dtype),
                torch.mm(flat.t(), difference).mul_(scale).to(weight.dtype),
                difference.sum(0, dtype=whole).mul_(scale),
            )
        return loss

    @staticmethod
    def backward(ctx: Any, *upstream: torch.Tensor) -> Any:
        return (*(saved * upstream[0] for saved in ctx.saved_tensors), None, None)
