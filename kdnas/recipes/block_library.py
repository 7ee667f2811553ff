"""The block library of an encoder's students: each block that a space may use, fitted in place and scored once.

From the scores, the losses as built that every candidate of the space is predicted to have. Scores are kept on the
disk beside the teacher's moments and under the same keys, for all studies. Builds no student; what a prediction is
worth stands in docs/strategies.md.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdnas.measuring.device_lock import Turn
from kdnas.models import block_scores, encoder_cut, encoders, least_squares_init
from kdnas.models.encoder_cut import EncoderCut, Importance
from kdnas.models.encoders import LayerSizes, Sizes
from kdnas.recipes.fitted_students import FittedStudents
from kdnas.recipes.spaces.encoder import sizes_of
from kdnas.study.space import SearchSpace
from kdnas.system.progress import Progress
from kdnas.system.tensor_files import computed_once
from kdnas.teachers import cache_folder, hidden_state_cache
from kdnas.teachers.encoder import Teacher

VERSION = 1  # of what a score is
TOKENS = 4096  # on which blocks are scored
POWER = 0.3
"""What is lost in place is a part of what a student loses: blocks read its own states, not the teacher's.

Measured with all-MiniLM-L6-v2 on State of the Union addresses, students of three layers: the logarithm of a fitted
score grows by 0.30 of that of what their blocks leave. It orders nothing, and results correct it.
"""


@dataclass(frozen=True, order=True)
class Shape:
    """What a block has besides its neurons. `head_size` is 0 where the heads are as wide together as the student, as
    they are in one of equal layers."""

    width: int
    heads: int
    act: str
    head_size: int = field(default=0, repr=False)

    @classmethod
    def of(cls, sizes: Sizes, heads: int) -> Shape:
        """A block of a student with so many heads."""
        return cls(sizes.width, heads, sizes.act, 0 if heads == sizes.heads else sizes.head_size)

    def block(self, inner: int) -> Sizes:
        """A student of one such block."""
        size = self.head_size or self.width // self.heads
        return Sizes.of_layers(self.width, size, self.act, [LayerSizes(self.heads, inner)])


class BlockLibrary:
    """Scores blocks on the first of the chunks that students are fitted on.

    `weights` and `buffers` are the teacher's; `spans` holds for each depth the teacher's layers that its blocks are cut
    from, each with the last of the layers that it stands for.
    """

    def __init__(
        self,
        teacher: Teacher,
        fitted: FittedStudents,
        weights: Mapping[str, Tensor],
        buffers: Mapping[str, Tensor],
        importance: Importance,
        spans: Mapping[int, Sequence[tuple[int, int]]],
    ) -> None:
        self._teacher, self._fitted, self._importance = teacher, fitted, importance
        self._weights, self._buffers, self.spans = weights, buffers, spans
        self._ids = fitted.ids[: max(1, TOKENS // fitted.ids.shape[1])]
        self._outputs: list[Tensor] = []  # the teacher's block outputs on them, bf16, once they are asked for

    def losses(self, space: SearchSpace, on_progress: Progress) -> np.ndarray:
        """The predicted loss of each candidate as built, in the order of the space; float64.

        (1 − (1 − f) / Π (1 + 2 i e_i / (n + 1))) ^ POWER over the blocks i = 1 … n: f is what the width alone leaves of
        the teacher's last state, e_i what block i leaves of the state that it stands for. Later blocks count for more:
        each is solved on the student's own states, and makes up for some of what those before it lost.
        """
        sizes = [sizes_of(candidate) for candidate in space.candidates()]
        shapes = sorted({Shape.of(s, s.heads) for s in sizes})
        counts = sorted({s.inner for s in sizes})
        floors = self.floors(sorted({s.width for s in sizes}))
        scores = self.scores(shapes, counts, on_progress)
        kept = np.array([self._kept(s, scores, counts) * (1 - floors[s.width]) for s in sizes])
        whole: np.ndarray = (1.0 - kept) ** POWER
        return whole

    def _kept(self, sizes: Sizes, scores: Mapping[Shape, Mapping[tuple[int, int], Tensor]], counts: list[int]) -> float:
        found = scores[Shape.of(sizes, sizes.heads)]
        place = counts.index(sizes.inner)
        left = np.array([float(found[span][place]) for span in self.spans[sizes.layers]])
        counts_for = 2 * np.arange(1, len(left) + 1) / (len(left) + 1)
        return float(1 / np.prod(1 + counts_for * left))

    # ------------------------------------------------------------------------ the scores

    def scores(
        self, shapes: Sequence[Shape], counts: Sequence[int], on_progress: Progress
    ) -> dict[Shape, dict[tuple[int, int], Tensor]]:
        """Of each shape and span [counts]; several processes begin at different shapes and read each other's."""
        found = {}
        begin = os.getpid() % max(1, len(shapes))
        for done, shape in enumerate([*shapes[begin:], *shapes[:begin]]):
            on_progress(f"scoring blocks, {done + 1} of {len(shapes)}", done / len(shapes))
            tensors = computed_once(self._path(shape, counts), lambda shape=shape: self._scored(shape, counts))  # type: ignore[misc]
            found[shape] = {span: tensors["{}-{}".format(*span)] for span in self._all_spans()}
        return found

    def _all_spans(self) -> list[tuple[int, int]]:
        return sorted({span for spans in self.spans.values() for span in spans})

    def _path(self, *what: Any) -> Path:
        facts = json.dumps([VERSION, self._all_spans(), *map(repr, what), *_head_sizes(what)])
        key = hidden_state_cache.entry_key(self._teacher, self._ids, [-1])
        return cache_folder.root() / "blocks" / f"{key}-{hashlib.sha256(facts.encode()).hexdigest()[:16]}.safetensors"

    def _scored(self, shape: Shape, counts: Sequence[int]) -> dict[str, Tensor]:
        family = self._teacher.family
        own = family.sizes(self._teacher.config)
        sizes = shape.block(own.inner)
        values = encoders.config_values(family, self._teacher.config, sizes)
        found: dict[str, Tensor] = {}
        for source in sorted({source for source, _ in self._all_spans()}):
            ends = [end for begin, end in self._all_spans() if begin == source]
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
            found |= {f"{source}-{end}": shares[place].contiguous() for place, end in enumerate(ends)}
        return found

    def floors(self, widths: Sequence[int]) -> dict[int, float]:
        """For each width the share of the variance of the teacher's last state that its dimensions do not tell."""

        def measured() -> dict[str, Tensor]:
            last = self._states()[-1].flatten(0, 1).cpu().double()
            mean, covariance = last.mean(0), torch.cov(last.t(), correction=0)
            found = []
            for width in widths:
                kept = encoder_cut.best(self._importance.width, width)
                given, offset = least_squares_init.predicted(covariance, mean, kept)
                left = last - last[:, kept] @ given.t() - offset
                found.append(left.var(0, correction=0).sum() / covariance.diagonal().sum())
            return {"floors": torch.stack(found)}

        tensors = computed_once(self._path("floors", widths), measured)
        return {width: float(share) for width, share in zip(widths, tensors["floors"], strict=True)}

    def _states(self) -> list[Tensor]:
        if not self._outputs:
            with Turn(self._teacher.device), torch.inference_mode():
                parts = [
                    [state.to(torch.bfloat16) for state in hidden_state_cache.run(self._teacher, rows)]
                    for rows in self._ids.split(hidden_state_cache.BUILD_BATCH)
                ]
            self._outputs = [torch.cat(states).clone() for states in zip(*parts, strict=True)]
        return self._outputs


def _head_sizes(what: Sequence[Any]) -> list[int]:
    """Those that do not follow from a shape's other sizes, for the names of files."""
    return [shape.head_size for shape in what if isinstance(shape, Shape) and shape.head_size]
