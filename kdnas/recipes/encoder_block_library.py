"""The block library of an encoder's students: blocks cut from the teacher's layers, and solved on its own states.

Scores are kept under the same keys as the teacher's moments. Builds no student.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from kdnas.measuring.device_lock import Turn
from kdnas.models import block_scores, encoder_cut, encoders, least_squares_init
from kdnas.models.encoder_cut import EncoderCut, Importance
from kdnas.models.encoders import LayerSizes, Sizes
from kdnas.recipes.block_library import TOKENS, BlockLibrary, Shape, Span, Stack, named
from kdnas.recipes.fitted_students import FittedStudents
from kdnas.recipes.spaces.encoder import sizes_of
from kdnas.study.space import Candidate
from kdnas.teachers import hidden_state_cache
from kdnas.teachers.encoder import Teacher


def shape_of(sizes: Sizes, heads: int) -> Shape:
    """A block of a student with so many heads."""
    return Shape(sizes.width, heads, sizes.act, 0 if heads == sizes.heads else sizes.head_size)


def block_of(shape: Shape, inner: int) -> Sizes:
    """A student of one such block."""
    size = shape.head_size or shape.width // shape.heads
    return Sizes.of_layers(shape.width, size, shape.act, [LayerSizes(shape.heads, inner)])


class EncoderBlockLibrary(BlockLibrary):
    """`weights` and `buffers` are the teacher's. A span ends with the last of the layers that a block stands for."""

    power = 0.3
    """Measured with all-MiniLM-L6-v2 on State of the Union addresses, students of three layers: the logarithm of a
    fitted score grows by 0.30 of that of what their blocks leave."""

    def __init__(
        self,
        teacher: Teacher,
        fitted: FittedStudents,
        weights: Mapping[str, Tensor],
        buffers: Mapping[str, Tensor],
        importance: Importance,
        spans: Mapping[int, Sequence[Span]],
    ) -> None:
        super().__init__(spans)
        self._teacher, self._fitted, self._importance = teacher, fitted, importance
        self._weights, self._buffers = weights, buffers
        self._ids = fitted.ids[: max(1, TOKENS // fitted.ids.shape[1])]
        self._outputs: list[Tensor] = []  # the teacher's block outputs on them, bf16, once they are asked for

    def stack(self, candidate: Candidate) -> Stack:
        sizes = sizes_of(candidate)
        return Stack(shape_of(sizes, sizes.heads), sizes.layers, sizes.inner)

    def _key(self) -> str:
        return hidden_state_cache.entry_key(self._teacher, self._ids, [-1])

    def _scored(self, shape: Shape, counts: Sequence[int]) -> dict[str, Tensor]:
        family = self._teacher.family
        own = family.sizes(self._teacher.config)
        sizes = block_of(shape, own.inner)
        values = encoders.config_values(family, self._teacher.config, sizes)
        found: dict[str, Tensor] = {}
        for source in sorted({source for source, _ in self.all_spans()}):
            ends = self.ends_of(source)
            cut = EncoderCut(family, self._teacher.config, sizes, self._importance, [source])
            with Turn(self._teacher.device):
                taken = self._fitted.taken_over(self._weights, cut)
                block = encoders.inherit(values, taken, self._buffers).to(self._teacher.device).eval()
                shares = block_scores.unexplained(
                    block,
                    family,
                    cut.width,
                    self._ids,
                    self._states()[source - 1] if source else None,
                    self._fitted.entering(len(self._ids), ends),
                    self._fitted.moments.order[source],
                    counts,
                )
            found |= {named((source, end)): shares[place].contiguous() for place, end in enumerate(ends)}
        return found

    def _untold(self, widths: Sequence[int]) -> Tensor:
        last = self._states()[-1].flatten(0, 1).cpu().double()
        mean, covariance = last.mean(0), torch.cov(last.t(), correction=0)
        found = []
        for width in widths:
            kept = encoder_cut.best(self._importance.width, width)
            given, offset = least_squares_init.predicted(covariance, mean, kept)
            left = last - last[:, kept] @ given.t() - offset
            found.append(left.var(0, correction=0).sum() / covariance.diagonal().sum())
        return torch.stack(found)

    def _states(self) -> list[Tensor]:
        if not self._outputs:
            with Turn(self._teacher.device), torch.inference_mode():
                parts = [
                    [state.to(torch.bfloat16) for state in hidden_state_cache.run(self._teacher, rows)]
                    for rows in self._ids.split(hidden_state_cache.BUILD_BATCH)
                ]
            self._outputs = [torch.cat(states).clone() for states in zip(*parts, strict=True)]
        return self._outputs
