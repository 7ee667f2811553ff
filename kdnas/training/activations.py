"""Activation checkpointing: what a block computed is thrown away and computed again in the backward pass.

The kept memory of a training then grows with the blocks' inputs alone, at the price of a second forward pass (Chen et
al., 2016, "Training Deep Nets with Sublinear Memory Cost"). Gradients are the same, dropout included, since torch's
generators are set back. Knows no loss and no data.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial

import torch
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from kdnas.system.errors import BadOptionError


def require(body: torch.nn.Module) -> None:
    """Raise BadOptionError for a model whose blocks cannot be computed again."""
    if _model(body) is None:
        raise BadOptionError(
            "training.checkpointing",
            f"training.checkpointing is true, and {type(body).__name__} has no blocks that can be computed again.",
            "Leave it out, and give training.accumulate with a smaller data.batch_size.",
        )


@contextlib.contextmanager
def recomputed(body: torch.nn.Module, wanted: bool) -> Iterator[None]:
    """Inside, the blocks of a model in training mode keep their inputs alone, where `wanted`."""
    model = _model(body) if wanted else None
    if model is None:
        yield
        return
    # Not by the public method: it leaves hooks on the embeddings behind, which only another kind of it needs.
    again = partial(checkpoint, use_reentrant=False)
    model._set_gradient_checkpointing(enable=True, gradient_checkpointing_func=again)
    try:
        yield
    finally:
        model._set_gradient_checkpointing(enable=False)


def _model(body: torch.nn.Module) -> PreTrainedModel | None:
    """The model of transformers that has the blocks: `body` itself, or what adapters are wrapped around."""
    found = (part for part in body.modules() if isinstance(part, PreTrainedModel))
    model = next(found, None)
    return model if model is not None and model.supports_gradient_checkpointing else None
