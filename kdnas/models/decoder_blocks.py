"""A decoder's blocks, each called by itself: what its parts are named, and what they are given.

Changes nothing. Knows no student and no data.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from kdnas.models.decoders import body_and_head, sizes

STEP = 1024  # tokens that go through a block at a time

States = Callable[[int], Tensor]
"""What enters the teacher's block [chunks, length, width], or leaves the last one, by the block's place."""


def parts_of(chunks: int, rows: int) -> list[slice]:
    return [slice(begin, min(begin + rows, chunks)) for begin in range(0, chunks, rows)]


def rows_of(length: int) -> int:
    """Chunks of `length` tokens that go through a block at a time."""
    return max(1, STEP // length)


@dataclass(frozen=True)
class Layout:
    """What the parts of a block are called. `reading` are the attention's projections."""

    block: str
    enter: str  # the norm before attention
    reading: tuple[str, ...]
    out: str
    middle: str  # the norm before the feed-forward part
    mlp: str
    ups: tuple[str, ...]
    down: str
    last: str  # the body's last norm

    def name(self, layer: int) -> str:
        return self.block.format(layer)


LLAMA = Layout(
    "layers.{}",
    "input_layernorm",
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "self_attn.o_proj",
    "post_attention_layernorm",
    "mlp",
    ("mlp.gate_proj", "mlp.up_proj"),
    "mlp.down_proj",
    "norm",
)
GPT2 = Layout("h.{}", "ln_1", ("attn.c_attn",), "attn.c_proj", "ln_2", "mlp", ("mlp.c_fc",), "mlp.c_proj", "ln_f")


def layout_of(config: PreTrainedConfig) -> Layout:
    return GPT2 if config.model_type == "gpt2" else LLAMA


class Seen(Exception):  # noqa: N818 - no error: the rest of a pass is of no use
    pass


class Blocks:
    """A body's blocks, each called by itself."""

    def __init__(self, model: PreTrainedModel, ids: Tensor) -> None:
        """`ids` [1, length]: chunks of that length are what the blocks will be called with."""
        self.model, self.layout = model, layout_of(model.config)
        self.body = cast(Any, body_and_head(model)[0])
        self.layers = [self.body.get_submodule(self.layout.name(i)) for i in range(sizes(model.config).layers)]
        self._calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

        def heard(_module: torch.nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
            self._calls.append((given[1:], named))  # masks and positions of one chunk serve any number of them

        hooks = [layer.register_forward_pre_hook(heard, with_kwargs=True) for layer in self.layers]
        try:
            with torch.no_grad():
                self.body(input_ids=ids.to(model.device), use_cache=False)
        finally:
            for hook in hooks:
                hook.remove()

    def inputs(self, layer: int, states: Tensor, parts: Sequence[str], last: str) -> dict[str, Tensor]:
        """What the block's `parts` are given when it is called with `states`; it ends at the part `last`."""
        block, found = self.layers[layer], {}

        def hook(name: str) -> Callable[[torch.nn.Module, tuple[Tensor, ...]], None]:
            def heard(_module: torch.nn.Module, given: tuple[Tensor, ...]) -> None:
                found[name] = given[0]
                if name == last:
                    raise Seen

            return heard

        handles = [block.get_submodule(name).register_forward_pre_hook(hook(name)) for name in {*parts, last}]
        given, named = self._calls[layer]
        try:
            block(states, *given, **named)
        except Seen:
            pass
        finally:
            for handle in handles:
                handle.remove()
        return found
