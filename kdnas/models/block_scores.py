"""What one block of a student leaves unexplained when it is fitted in place: a score for each number of neurons.

The block reads the teacher's own states, cut to the student's width, and its feed-forward output is solved for what
enters the norm at the end of the last of the teacher's blocks that it stands for. Neurons are taken in one order, so
that the equations of few lead those of many: one pass and one factorisation serve all numbers of them. Builds no
student, and knows no loss, no store and no strategy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from kdnas.models.encoders import Family
from kdnas.models.solved_blocks import BLOCK, before_first, rows_of, to_neurons
from kdnas.system.errors import KdnasError

RIDGE = 1e-2  # of the mean variance of a neuron, towards nothing


@torch.no_grad()
def unexplained(
    block: torch.nn.Module,
    family: Family,
    width: Tensor,
    ids: Tensor,
    given: Tensor | None,
    wanted: Mapping[int, Tensor],
    order: Tensor,
    counts: Sequence[int],
) -> Tensor:
    """Shares [ends, counts] of the variance of what is `wanted` that the block does not give, float64 on the CPU.

    `block` is a body of one layer with all of the teacher's neurons, `width` [kept] the hidden dimensions that it has.
    It reads `given` [chunks, length, hidden], the teacher's states on the chunks `ids` [chunks, length], or its own
    embeddings for None. `wanted` holds for each end what enters that layer's last norm [chunks, length, hidden].
    `order` [neurons] says which neurons come first, `counts` how many of them each score is of.

    The share is of ridge regression's penalised objective, (Σ_yy − Σ_yx (Σ_xx + λ)⁻¹ Σ_xy) / Σ_tt summed over
    dimensions, where x are the neurons, t what is wanted and y = t less what the block's attention gives already. With
    Σ_xx + λ = L Lᵀ, the first k rows of L⁻¹ Σ_xy are those of the first k neurons alone. Raises KdnasError where that
    is no number.
    """
    device = next(block.parameters()).device
    kept, places = width.to(device), order.to(device)
    size, ends = len(order), list(wanted)
    second = torch.zeros(size, size, device=device)
    cross = torch.zeros(len(ends), size, len(width), device=device)
    sums = torch.zeros(len(ends), 4, len(width), dtype=torch.float64)  # of y, y², t and t²
    first, shift, tokens = torch.zeros(size, device=device), None, ids.numel()
    step = rows_of(ids.shape[1])
    for begin in range(0, len(ids), step):
        rows = slice(begin, begin + step)
        carried = before_first(block, family, ids[rows].to(device))
        if given is not None:
            carried.states = given[rows].to(device, torch.float32).index_select(2, kept)
        read, neurons = to_neurons(block, family, 0, carried)
        neurons = neurons.index_select(1, places)
        shift = neurons.mean(0) if shift is None else shift  # sums of what is left lose less in float32
        neurons.sub_(shift)
        for column in range(0, size, BLOCK):
            here = slice(column, column + BLOCK)
            second[here, column:].addmm_(neurons[:, here].t(), neurons[:, column:])
        first += neurons.sum(0)
        for place, end in enumerate(ends):
            goal = wanted[end][rows].to(device).flatten(0, 1).float().index_select(1, kept)
            left = goal - read
            cross[place].addmm_(neurons.t(), left)
            found = (left.sum(0), left.square().sum(0), goal.sum(0), goal.square().sum(0))
            sums[place] += torch.stack(found).cpu().double()
    mean = first.cpu().double() / tokens
    covariance = second.cpu().double().div_(tokens).sub_(torch.outer(mean, mean)).triu_()
    covariance += covariance.triu(1).t()
    if not bool(covariance.isfinite().all()) or not bool(cross.isfinite().all()):
        raise KdnasError(
            "A block cannot be scored: what it gives is not finite numbers.",
            "Check the teacher's weights, or take another strategy than blocks.",
        )
    strength = RIDGE * float(covariance.diagonal().mean())
    covariance.diagonal().add_(strength)
    sums /= tokens
    told = cross.cpu().double().div_(tokens) - mean[None, :, None] * sums[:, 0][:, None]
    explained = torch.zeros(size, len(ends), dtype=torch.float64)
    if strength > 0:  # else no neuron ever changes, and none explains anything
        factor = torch.linalg.cholesky(covariance)
        solved = torch.linalg.solve_triangular(factor, told.permute(1, 0, 2).flatten(1), upper=False)
        explained = solved.square_().view(size, len(ends), -1).sum(2).cumsum(0)
    own = (sums[:, 1] - sums[:, 0].square()).sum(1)
    whole = (sums[:, 3] - sums[:, 2].square()).sum(1)
    chosen = explained[torch.tensor(counts) - 1].t()  # [ends, counts]
    return ((own[:, None] - chosen) / whole[:, None].clamp_min(torch.finfo(torch.float64).tiny)).clamp_min(0)
