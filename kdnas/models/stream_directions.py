"""Which directions of a decoder's residual stream a narrower student keeps: the principal ones of its states.

Each token's state counts as its norm leaves it, of length one. A few dimensions of trained decoders are many times
larger than all others; such a one is kept as it is, so that a norm's weight can tell it from the rest. Knows no data.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

LARGE = 12.0  # times the mean second moment: a dimension that stands alone
MOST_LARGE = 8  # of the student's dimensions, at most one in so many does
EPSILON = 1e-12


@dataclass(frozen=True)
class Directions:
    """`into` [width, student's width]: the student's stream is `state @ into`. `back` [width, student's width]: the
    state is about `back @ stream`."""

    into: Tensor
    back: Tensor


def root_of(gain: Tensor) -> Tensor:
    """How much each dimension of a state [width] counts, by the weight of the last norm: its root, nowhere nothing;
    float64 on the CPU."""
    root = gain.detach().cpu().double().abs().sqrt()
    return root.clamp_min(1e-3 * float(root.mean().clamp_min(EPSILON)))


def directions_of(moments: Tensor, gain: Tensor, width: int) -> Directions:
    """The directions that a student of `width` keeps, from the `moments` [states, whole width, whole width].

    `gain` [whole width] is the weight of the last norm. Half of it, its root, goes into what the stream is, and half
    into how it is read: so one table serves as the embeddings and as the vocabulary head of a student, too.
    """
    whole = len(gain)
    if width == whole:
        same = torch.eye(whole)
        return Directions(same, same)
    root = root_of(gain)
    scaled = moments.double() * root[:, None] * root
    scaled = scaled / scaled.diagonal(dim1=1, dim2=2).mean(1).clamp_min(EPSILON)[:, None, None]
    total = scaled.mean(0)
    sizes = total.diagonal()
    alone = torch.sort(sizes, descending=True, stable=True).indices[: width // MOST_LARGE]
    alone = alone[sizes[alone] > LARGE * sizes.mean()].sort().values
    rest = torch.ones(whole, dtype=torch.bool)
    rest[alone] = False
    places = rest.nonzero().flatten()
    vectors = torch.linalg.eigh(total[places][:, places])[1].flip(1)[:, : width - len(alone)]
    # The largest part of each is positive, whatever the solver gave.
    vectors = vectors * vectors.gather(0, vectors.abs().argmax(0, keepdim=True)).sign()
    kept = torch.zeros(whole, width, dtype=torch.float64)
    kept[alone, torch.arange(len(alone))] = 1.0
    kept[places, len(alone) :] = vectors
    return Directions((root[:, None] * kept).float(), (kept / root[:, None]).float())
