"""What is measured once on a decoder's states for all its fitted students: directions, blocks, units that carry most.

Cuts nothing. Knows no file.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from kdnas.models.decoder_blocks import GPT2, Blocks, States, parts_of
from kdnas.models.decoders import body_and_head
from kdnas.models.least_squares_init import explaining
from kdnas.models.stream_directions import EPSILON, directions_of

CHECKED = 16  # one chunk in so many tells how sure students may be, and is solved on by none
TOLD_TOKENS = 4096  # most tokens on which blocks are held against each other
TOLD_FEATURES = 192  # most directions of the stream in which they are


@dataclass(frozen=True)
class Measured:
    """`moments` [layers + 1, width, width]: of the states before each block and after the last one, each token divided
    by its size. `costs` [layers + 1, layers + 1]: see `untold`. `likely` [vocabulary]: the mean prediction."""

    moments: Tensor
    costs: Tensor
    likely: Tensor

    def tensors(self) -> dict[str, Tensor]:
        return dict(vars(self))


def checked(ids: Tensor) -> int:
    """How many of the chunks `ids`, the last ones, tell how sure students may be."""
    return max(1, len(ids) // CHECKED)


@torch.no_grad()
def measured(blocks: Blocks, ids: Tensor, states: States, rows: int) -> Measured:
    """On the chunks `ids` [chunks, length] and the `states` on them, `rows` chunks at a time, on the model's device."""
    device, norm = blocks.model.device, blocks.body.get_submodule(blocks.layout.last)
    places = range(len(blocks.layers) + 1)
    centred = blocks.layout is GPT2
    found = []
    for place in places:
        sums = StreamMoments(centred=centred)
        for part in parts_of(len(ids), rows):
            sums.add(states(place)[part].to(device))
        found.append(sums.mean())
    moments = torch.stack(found)
    width = moments.shape[-1]
    narrow = directions_of(moments, norm.weight, min(width, TOLD_FEATURES)).into.to(device)
    few = max(1, TOLD_TOKENS // ids.shape[1])
    costs = untold(normed(states(place)[:few].to(device), centred=centred) @ narrow for place in places)
    head = body_and_head(blocks.model)[1]
    likely = torch.zeros(head.weight.shape[0], dtype=torch.float64)
    for state in states(places[-1])[-checked(ids) :]:
        likely += head(norm(state.to(device).float())).softmax(-1).sum(0).cpu().double()
    return Measured(moments, costs.float(), (likely / likely.sum()).float())


@torch.no_grad()
def unit_order(blocks: Blocks, source: int, states: Tensor, rows: int) -> Tensor:
    """The feed-forward units of a block as `explaining` orders them; each token counts by the inverse of the size of
    the state that the block's output is added to. `states` enter the block [chunks, length, width]."""
    layout, device = blocks.layout, blocks.model.device
    total, count = torch.zeros(()), 0
    for part in parts_of(len(states), rows):
        given = blocks.inputs(source, states[part].to(device).float(), [layout.middle], layout.down)
        size = given[layout.middle].square().mean(-1, keepdim=True).sqrt().clamp_min(EPSILON)
        units = (given[layout.down] / size).flatten(0, -2)
        total, count = total + (units.t() @ units).to("cpu", torch.float64), count + len(units)
    outgoing = blocks.layers[source].get_submodule(layout.down).weight.detach().cpu()
    return explaining(total / count, outgoing.t() if layout is GPT2 else outgoing)


def normed(states: Tensor, *, centred: bool) -> Tensor:
    """Rows [tokens, width] of states, each divided by its size, after centring where the norms do."""
    rows = states.flatten(0, -2).float()
    if centred:
        rows = rows - rows.mean(-1, keepdim=True)
    return rows / rows.square().mean(-1, keepdim=True).sqrt().clamp_min(EPSILON)


class StreamMoments:
    """Sums of one state's second moments over tokens, each token divided by its size, after centring where norms do."""

    def __init__(self, *, centred: bool) -> None:
        self._centred, self._count, self._sum = centred, 0, torch.zeros(())

    def add(self, states: Tensor) -> None:
        rows = normed(states, centred=self._centred)
        self._count += len(rows)
        self._sum = self._sum + (rows.t() @ rows).to("cpu", torch.float64)

    def mean(self) -> Tensor:
        """[width, width], float32."""
        return (self._sum / self._count).float()


def kept_blocks(costs: Tensor, count: int) -> list[int]:
    """Which `count` blocks to keep, from below, the first among them.

    `costs` [blocks + 1, blocks + 1]: what the state before one block tells too little of the state before a later one
    (see `untold`). A kept block stands for all up to the next kept one; the sum of their squared costs is the least.
    """
    blocks = len(costs) - 1
    squares = costs.double().square()
    best = torch.full((count + 1, blocks + 1), float("inf"), dtype=torch.float64)
    before = torch.zeros(count + 1, blocks + 1, dtype=torch.int64)
    best[0, 0] = 0.0
    for made in range(1, count + 1):
        for end in range(made, blocks + 1):
            begins = range(made - 1, end)
            sums = torch.stack([best[made - 1, begin] + squares[begin, end] for begin in begins])
            place = int(sums.argmin())
            best[made, end], before[made, end] = sums[place], begins[place]
    kept, end = [], blocks
    for made in range(count, 0, -1):
        end = int(before[made, end])
        kept.append(end)
    return kept[::-1]


def untold(states: Iterable[Tensor], ridge: float = 1e-2) -> Tensor:
    """[states, states]: of a later state's variance over tokens, the share that the best linear layer does not predict
    from an earlier one; 0 elsewhere. `states` are the states before each block and after the last, as their norms leave
    them, [tokens, features] each."""
    moved = (one.cpu().double() for one in states)  # not every accelerator has float64
    rows = [one - one.mean(0) for one in moved]
    costs = torch.zeros(len(rows), len(rows), dtype=torch.float64)
    for first, given in enumerate(rows):
        gram = given.t() @ given
        gram.diagonal().add_(ridge * gram.diagonal().mean().clamp_min(EPSILON))
        root = torch.linalg.cholesky(gram)
        for then in range(first + 1, len(rows)):
            wanted = rows[then]
            told = given.t() @ wanted
            solved = torch.cholesky_solve(told, root)
            left = wanted.square().sum() - 2 * (solved * told).sum() + (solved * (given.t() @ given @ solved)).sum()
            costs[first, then] = left / wanted.square().sum().clamp_min(EPSILON)
    return costs.clamp_min(0)
