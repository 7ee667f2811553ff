"""The block library of a decoder's students: blocks solved on the teacher's own states, as students' blocks are.

Scores are kept under the same keys as the teacher's states. Builds no student.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from kdnas.measuring import memory
from kdnas.measuring.device_lock import Turn
from kdnas.models import decoder_block_scores, decoders
from kdnas.models.decoder_blocks import parts_of
from kdnas.models.decoder_fit import Heard, heard_in
from kdnas.models.decoders import Importance, sizes
from kdnas.models.kept_results import KeptResults
from kdnas.models.stream_directions import Directions, directions_of
from kdnas.recipes.block_library import TOKENS, BlockLibrary, Shape, Span, Stack, named
from kdnas.recipes.fitted_decoder_students import FittedDecoderStudents
from kdnas.study.space import Candidate

Made = TypeVar("Made")
KEPT = 256 * 2**20  # bytes that a process keeps of what the teacher's blocks hear, for one shape after another


class DecoderBlockLibrary(BlockLibrary):
    """Of students of the `depths`. A span ends with the place of the teacher's state that a block may stand up to."""

    power = 1.0  # a slope of 0.95 was measured of SmolLM2-135M-Instruct's students of three layers

    def __init__(self, fitted: FittedDecoderStudents, importance: Importance, depths: Iterable[int]) -> None:
        ends = len(fitted.blocks.layers)
        spans: dict[int, list[Span]] = {}
        for depth in depths:
            sources = fitted.sources(depth)
            spans[depth] = list(zip(sources, [*sources[1:], ends], strict=True))
        super().__init__(spans)
        self._fitted, self._importance = fitted, importance
        self._own = sizes(fitted.teacher.config)
        self._chunks = min(len(fitted.ids), max(1, TOKENS // fitted.ids.shape[1]))
        self._heard: KeptResults[Heard] = KeptResults(KEPT)
        self._directions: dict[int, Directions] = {}

    def stack(self, candidate: Candidate) -> Stack:
        heads, size = int(candidate["num_attention_heads"]), int(candidate["head_size"])
        width = decoders.width_of(self._own, heads, size)
        shape = Shape(width, heads, str(candidate["hidden_act"]), size)
        return Stack(shape, int(candidate["num_hidden_layers"]), int(candidate["intermediate_size"]))

    def _key(self) -> str:
        """Which heads are kept may have been measured on more of the text than the states are of."""
        kept = hashlib.sha256(self._importance.groups.contiguous().numpy().tobytes()).hexdigest()[:8]
        return f"{self._fitted.states.key}-{kept}"

    def _scored(self, shape: Shape, counts: Sequence[int]) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for source in sorted({source for source, _ in self.all_spans()}):
            ends = self.ends_of(source)
            order = self._fitted.order(source)
            shares = self._whole(partial(self._shares, shape, source, ends, order, counts))
            found |= {named((source, end)): shares[place].contiguous() for place, end in enumerate(ends)}
        return found

    def _shares(
        self, shape: Shape, source: int, ends: Sequence[int], order: Tensor, counts: Sequence[int], rows: int
    ) -> Tensor:
        blocks, parts = self._fitted.blocks, parts_of(self._chunks, rows)
        config = decoder_block_scores.block_config(
            self._fitted.teacher.config, shape.heads, shape.head_size, shape.act, source
        )
        directions, length = self._directions_of(shape.width), self._fitted.ids.shape[1]
        fit = decoder_block_scores.in_place(blocks, config, source, self._importance, directions, length)
        heard = self._heard_in(source, parts, rows)
        return decoder_block_scores.unexplained(fit, self._fitted.states.__getitem__, heard, parts, order, ends, counts)

    def _heard_in(self, source: int, parts: Sequence[slice], rows: int) -> Heard:
        known = self._heard.get((source, rows))
        if known is None:
            with torch.no_grad():
                known = heard_in(self._fitted.blocks, source, self._fitted.states.__getitem__, parts)
            self._heard.put((source, rows), known, sum(part.nbytes for heard in known.values() for part in heard))
        return known

    def _directions_of(self, width: int) -> Directions:
        if width not in self._directions:
            norm = self._fitted.blocks.body.get_submodule(self._fitted.blocks.layout.last)
            self._directions[width] = directions_of(self._fitted.measured.moments, norm.weight, width)
        return self._directions[width]

    def _untold(self, widths: Sequence[int]) -> Tensor:
        blocks, final = self._fitted.blocks, self._fitted.states[len(self._fitted.blocks.layers)]

        def share(width: int, rows: int) -> float:
            parts, likely = parts_of(self._chunks, rows), self._fitted.measured.likely
            return decoder_block_scores.untold(blocks, self._directions_of(width), final, parts, likely)

        return torch.tensor([self._whole(partial(share, width)) for width in widths], dtype=torch.float64)

    def _whole(self, make: Callable[[int], Made]) -> Made:
        with Turn(self._fitted.teacher.device):
            return memory.whole(self._fitted.rows, self._fitted.teacher.device, make)
