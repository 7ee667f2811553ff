"""Losses of sentence embeddings: of each beside its teacher's, of all pairs' similarities, and of what each token adds.

All are shares: 0 is the teacher's, 1 about what vectors that are the same for every text leave. Knows no model.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def apart(own: Tensor, wanted: Tensor, constant: Tensor) -> Tensor:
    """The squared distance of embeddings [texts, width] from the wanted ones, over that of one `constant` vector
    [width]: a scalar. Of vectors of length 1 it is (1 − cosine) over the constant's (1 − cosine).

    The target is the teacher's embedding itself (Reimers and Gurevych, 2020, "Making Monolingual Sentence Embeddings
    Multilingual using Knowledge Distillation").
    """
    return (own - wanted).square().sum() / spread(wanted, constant)


def spread(wanted: Tensor, constant: Tensor) -> Tensor:
    """The sum of squared distances of embeddings [..., width] from one vector [width]."""
    return (wanted - constant).square().sum().clamp_min(torch.finfo(wanted.dtype).tiny)


def pairwise(own: Tensor, wanted: Tensor) -> Tensor:
    """The squared difference of all pairs' cosines from the teacher's, over the variance of the teacher's; of two or
    more texts, a scalar. 0 for fewer.

    The similarities within a batch are the target (Tung and Mori, 2019, "Similarity-Preserving Knowledge
    Distillation"), here without a text's similarity to itself, which is 1 whatever the student does.
    """
    if len(own) < 2:
        return own.new_zeros(())
    first, second = torch.triu_indices(len(own), len(own), 1, device=own.device)
    ours, theirs = (cosines(vectors)[first, second] for vectors in (own, wanted))
    left = (ours - theirs).square().sum()
    return left / (theirs - theirs.mean()).square().sum().clamp_min(1e-6)


def of_tokens(own: Tensor, wanted: Tensor) -> Tensor:
    """The squared distance of tokens' vectors [texts, length, width] from the wanted ones, over that of the wanted
    ones' mean: a scalar. Where embeddings are means over tokens, it says which token to change."""
    left = (own - wanted).square().sum()
    return left / spread(wanted, wanted.mean((0, 1)))


def cosines(vectors: Tensor) -> Tensor:
    """Of all pairs of rows [texts, width]: [texts, texts]."""
    unit = functional.normalize(vectors, dim=1)
    return unit @ unit.t()


def best_constant(wanted: Tensor, normalised: bool) -> Tensor:
    """The vector [width] that is nearest to all embeddings [texts, width]; of length 1 where those are normalised."""
    mean = wanted.mean(0)
    return functional.normalize(mean, dim=0) if normalised else mean
