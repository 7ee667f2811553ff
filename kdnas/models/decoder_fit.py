"""The matrices of a decoder student's blocks, solved one after the other by least squares: no gradient.

The residual stream is cut to the directions that the teacher's states use. A norm does not commute with that, so what
reads a norm reads its prediction from the student's norm, and what writes is solved for the teacher's states in those
directions. Knows no loss, no cache and no strategy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from kdnas.models import decoders
from kdnas.models.decoder_blocks import GPT2, Blocks, Layout, Seen, States, layout_of
from kdnas.models.decoders import sizes
from kdnas.models.stream_directions import Directions
from kdnas.models.weighted_equations import WeightedEquations

READ_HOLD = 1e-3  # how strongly what is solved is held to what it was: see WeightedEquations
WRITE_HOLD = 0.05
TABLES = ("embed_tokens.weight", "wte.weight", "wpe.weight", "lm_head.weight")

Heard = Mapping[str, Sequence[Tensor]]
"""What parts of one of the teacher's blocks are given, by their names, for each part of the text."""


def heard_in(theirs: Blocks, source: int, states: States, parts: Sequence[slice]) -> dict[str, list[Tensor]]:
    """What a student's block that is cut from the teacher's block `source` is solved for, on the chunks `parts`."""
    layout, entering = theirs.layout, states(source)
    heard = [layout.reading[0], layout.middle, layout.ups[0]]
    found: dict[str, list[Tensor]] = {part: [] for part in heard}
    for rows in parts:
        given = entering[rows].to(theirs.model.device).float()
        for part, seen in theirs.inputs(source, given, heard, layout.ups[0]).items():
            found[part].append(seen)
    return found


def seen_by_norms(layout: Layout, states: Tensor) -> Tensor:
    """The teacher's states [..., width] without what its norms leave out."""
    return states - states.mean(-1, keepdim=True) if layout is GPT2 else states


def row_weights(targets: Tensor) -> Tensor:
    """[..., 1]: a row counts by the inverse of its target's size. The next norm divides by that, and the few tokens on
    which a teacher's states are a hundred times the others' would else decide everything."""
    return 1 / targets.square().mean(-1, keepdim=True).sqrt().clamp_min(1e-6)


class BlockFit:
    """Solves the blocks of `model`, whose weights are still unset, for the teacher's.

    `cut` says what the blocks are cut from, and `directions` what the stream is; `length` tokens are in a chunk.
    `carried` is the student's stream on each part of the text [chunks, length, own width]: whoever solves a block puts
    there what enters it, and finds there what leaves it.
    """

    def __init__(
        self, theirs: Blocks, model: PreTrainedModel, cut: decoders.DecoderCut, directions: Directions, length: int
    ) -> None:
        self.theirs, self.teacher, self.model, self.cut = theirs, theirs.model, model, cut
        self.layout = layout_of(model.config)
        self.directions = directions
        self.down = directions.into.to(self.teacher.device)
        # The student's matrices as they would read and write the teacher's whole stream.
        every = replace(cut, channels=torch.arange(sizes(self.teacher.config).width))
        named = [name for name, _ in model.named_parameters() if not name.endswith(TABLES)]
        self._wide = decoders.sliced(self.teacher.state_dict(), named, self.teacher.config, model.config, every)
        self._begin()
        self.own = Blocks(model, torch.zeros(1, length, dtype=torch.int64))
        self.carried: list[Tensor] = []

    def _begin(self) -> None:
        """Plain norms, and what no text is needed for: the norms of queries and keys."""
        for name, parameter in self.model.named_parameters():
            if ".q_norm." in name or ".k_norm." in name:
                parameter.copy_(self._wide[name])
            elif is_norm(name):
                parameter.fill_(1.0 if name.endswith("weight") else 0.0)
            elif name.endswith(TABLES):
                parameter.zero_()

    def module(self, index: int, part: str) -> Any:
        return self.own.layers[index].get_submodule(part)

    def wide_of(self, index: int, part: str) -> tuple[Tensor, Tensor | None]:
        """Weight [outputs, inputs] and bias of a part, as if the stream were whole."""
        body = next(n for n, m in self.model.named_modules() if m is self.own.body)
        name = f"{body}.{self.layout.name(index)}.{part}"
        weight = self._wide[f"{name}.weight"].double()
        bias = self._wide.get(f"{name}.bias")
        return weight.t() if self.layout is GPT2 else weight, None if bias is None else bias.double()

    def _put(self, index: int, part: str, weight: Tensor, bias: Tensor | None) -> None:
        module = self.module(index, part)
        module.weight.copy_(weight.t() if self.layout is GPT2 else weight)
        if bias is not None:
            module.bias.copy_(bias)

    def centred(self, states: Tensor) -> Tensor:
        """The teacher's states [..., width] as the student's stream."""
        return seen_by_norms(self.layout, states.float().to(self.teacher.device)) @ self.down

    def _read(
        self, index: int, parts: Sequence[str], norm: str, own: Sequence[Tensor], theirs: Sequence[Tensor]
    ) -> None:
        """Solve what reads the norms `own` of the student for what the teacher's same parts read in `theirs`."""
        offset = self.module(index, parts[0]).bias is not None
        equations = WeightedEquations(READ_HOLD, offset=offset)
        for mine, wanted in zip(own, theirs, strict=True):
            equations.add(mine, wanted)
        gain = self.theirs.layers[self.cut.layers[index]].get_submodule(norm).weight
        given, shift = equations.solved(gain.detach().cpu()[:, None] * self.directions.back)
        for part in parts:
            weight, bias = self.wide_of(index, part)
            self._put(index, part, weight @ given, None if bias is None else bias + weight @ shift)

    def _write(
        self, index: int, part: str, inputs: list[Tensor], before: list[Tensor], wanted: Sequence[Tensor]
    ) -> None:
        """Solve what adds to the stream `before` for the stream to be `wanted`; `before` becomes what it then is."""
        prior, offset = self.held(index, part)
        equations = WeightedEquations(WRITE_HOLD, offset=offset)
        for x, stream, target in zip(inputs, before, wanted, strict=True):
            equations.add(x, target - stream, row_weights(target))
        solved, shift = equations.solved(prior)
        self._put(index, part, solved, shift if offset else None)
        module = self.module(index, part)
        for place, x in enumerate(inputs):
            before[place] = before[place] + module(x)

    def held(self, index: int, part: str) -> tuple[Tensor, bool]:
        """What a part that writes into the stream is held to [own width, inputs], and whether it has an offset."""
        weight, bias = self.wide_of(index, part)
        return self.directions.into.double().t() @ weight, bias is not None

    def to_neurons(self, index: int, theirs: Heard) -> list[Tensor]:
        """Solve a block up to its neurons: they [chunks, length, inner], for each part of the text. `carried` is then
        the stream that its feed-forward part adds to. Raises KdnasError where what is solved is not finite."""
        layout = self.layout
        enter, middle = self.module(index, layout.enter), self.module(index, layout.middle)
        self._read(index, layout.reading, layout.enter, [enter(x) for x in self.carried], theirs[layout.reading[0]])
        context = [self.own.inputs(index, x, [], layout.out)[layout.out] for x in self.carried]
        between = [self.centred(state) for state in theirs[layout.middle]]
        self._write(index, layout.out, context, self.carried, between)
        normed = [middle(x) for x in self.carried]
        self._read(index, layout.ups, layout.middle, normed, theirs[layout.ups[0]])
        return [self._neurons(index, x) for x in normed]

    def finish(self, index: int, neurons: list[Tensor], leaving: Sequence[Tensor]) -> None:
        """Solve what the block makes of its neurons, for the teacher's states `leaving` it [chunks, length, width]."""
        self._write(index, self.layout.down, neurons, self.carried, [self.centred(state) for state in leaving])

    def _neurons(self, index: int, normed: Tensor) -> Tensor:
        found: list[Tensor] = []

        def heard(_module: torch.nn.Module, given: tuple[Tensor, ...]) -> None:
            found.append(given[0])
            raise Seen

        handle = self.module(index, self.layout.down).register_forward_pre_hook(heard)
        try:
            self.module(index, self.layout.mlp)(normed)
        except Seen:
            pass
        finally:
            handle.remove()
        return found[0]


def is_norm(name: str) -> bool:
    """Whether a parameter belongs to one of a body's norms over the stream."""
    return name.split(".")[-2].startswith(("ln_", "input_layernorm", "post_attention_layernorm", "norm"))
