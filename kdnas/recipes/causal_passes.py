"""What is timed of a decoder: the pass over a prompt that gives its first token, and one token generated after it.

Knows no bench and no search.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from kdnas.measuring import passes
from kdnas.measuring.passes import Once
from kdnas.models import decoders


def first_token(model: PreTrainedModel, ids: Tensor, device: torch.device, dtype: str, *, frozen: bool) -> Once:
    """One forward pass over the prompts `ids` [batch, length] that ends in the next token's logits. A `frozen` model is
    a teacher's."""
    return passes.one_pass(model, device, dtype, frozen=frozen, input_ids=ids, use_cache=False, logits_to_keep=1)


def next_token(model: PreTrainedModel, ids: Tensor, device: torch.device, dtype: str, *, frozen: bool) -> Once:
    """One generated token after the same prompts, with the key-value cache, which has the dtype of the model that is
    served."""
    served, where = passes.served(model, dtype, frozen=frozen), passes.device_of(model)
    ids = ids.to(where)
    token = ids[:, -1:]
    past = DynamicCache(config=served.config)
    with passes.trying(model, dtype), torch.inference_mode():
        served(input_ids=ids, past_key_values=past, logits_to_keep=1)
    # Taken back before each pass rather than cropped after it: a sliding window cannot be cropped.
    filled = [dict(vars(layer)) for layer in past.layers]

    def once() -> None:
        for layer, state in zip(past.layers, filled, strict=True):
            vars(layer).update(state)
        with torch.inference_mode():
            served(input_ids=token, past_key_values=past, logits_to_keep=1)

    return once if where == device else passes.waiting(once, where)


def timed_shape(config: Any) -> dict[str, Any]:
    """What decides a decoder's latency."""
    return {
        "family": config.model_type,
        **asdict(decoders.sizes(config)),
        "window": getattr(config, "sliding_window", None),
        "layer_types": getattr(config, "layer_types", None),
    }
