"""The block library of a space's students: each block that a space may use, fitted in place and scored once.

From the scores, the losses as built that every candidate of the space is predicted to have. Scores are kept on the
disk beside what is measured on the teacher, for all studies. What a block is, and how it is scored, say the libraries
of encoders and decoders. Builds no student; what a prediction is worth stands in docs/strategies.md.
"""

from __future__ import annotations

import hashlib
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from kdnas.study.space import Candidate, SearchSpace
from kdnas.system.progress import Progress
from kdnas.system.tensor_files import computed_once
from kdnas.teachers import cache_folder

VERSION = 1  # of what a score is
TOKENS = 4096  # on which blocks are scored
Span = tuple[int, int]
"""The teacher's layer that a block is cut from, and the end of the layers that it stands for."""


@dataclass(frozen=True, order=True)
class Shape:
    """What a block has besides its neurons. `head_size` is 0 where the heads of an encoder are as wide together as the
    student, as they are in one of equal layers."""

    width: int
    heads: int
    act: str
    head_size: int = field(default=0, repr=False)


@dataclass(frozen=True)
class Stack:
    """A student whose blocks are all alike."""

    shape: Shape
    layers: int
    inner: int


class BlockLibrary(ABC):
    """Scores blocks on the first chunks of the text that students are fitted on.

    `spans` holds for each depth those of its blocks from below. `power`: what is lost in place is a part of what a
    student loses, since blocks read its own states and not the teacher's. It orders nothing, and results correct it.
    """

    power: float

    def __init__(self, spans: Mapping[int, Sequence[Span]]) -> None:
        self.spans = spans

    def losses(self, space: SearchSpace, on_progress: Progress) -> np.ndarray:
        """The predicted loss of each candidate as built, in the order of the space; float64.

        (1 − (1 − f) / Π (1 + 2 i e_i / (n + 1))) ^ power over the blocks i = 1 … n: f is what the width alone leaves of
        the teacher's last state, e_i what block i leaves of the state that it stands for. Later blocks count for more:
        each is solved on the student's own states, and makes up for some of what those before it lost.
        """
        stacks = [self.stack(candidate) for candidate in space.candidates()]
        counts = sorted({stack.inner for stack in stacks})
        floors = self.floors(sorted({stack.shape.width for stack in stacks}))
        scores = self.scores(sorted({stack.shape for stack in stacks}), counts, on_progress)
        kept = np.array([self._kept(s, scores, counts) * (1 - floors[s.shape.width]) for s in stacks])
        whole: np.ndarray = (1.0 - kept) ** self.power
        return whole

    def _kept(self, stack: Stack, scores: Mapping[Shape, Mapping[Span, Tensor]], counts: list[int]) -> float:
        place = counts.index(stack.inner)
        left = np.array([float(scores[stack.shape][span][place]) for span in self.spans[stack.layers]])
        counts_for = 2 * np.arange(1, len(left) + 1) / (len(left) + 1)
        return float(1 / np.prod(1 + counts_for * left))

    # ------------------------------------------------------------------------ the scores

    def scores(
        self, shapes: Sequence[Shape], counts: Sequence[int], on_progress: Progress
    ) -> dict[Shape, dict[Span, Tensor]]:
        """Of each shape and span [counts]; several processes begin at different shapes and read each other's."""
        found = {}
        begin = os.getpid() % max(1, len(shapes))
        for done, shape in enumerate([*shapes[begin:], *shapes[:begin]]):
            on_progress(f"scoring blocks, {done + 1} of {len(shapes)}", done / len(shapes))
            tensors = computed_once(self._path(shape, counts), lambda shape=shape: self._scored(shape, counts))  # type: ignore[misc]
            found[shape] = {span: tensors[named(span)] for span in self.all_spans()}
        return found

    def floors(self, widths: Sequence[int]) -> dict[int, float]:
        """For each width the share of the variance of the teacher's last state that its dimensions do not tell."""
        tensors = computed_once(self._path("floors", widths), lambda: {"floors": self._untold(widths)})
        return {width: float(share) for width, share in zip(widths, tensors["floors"], strict=True)}

    def all_spans(self) -> list[Span]:
        return sorted({span for spans in self.spans.values() for span in spans})

    def ends_of(self, source: int) -> list[int]:
        """Of the spans that begin with this layer of the teacher."""
        return [end for begin, end in self.all_spans() if begin == source]

    def _path(self, *what: Any) -> Path:
        facts = json.dumps([VERSION, self.all_spans(), *map(repr, what), *_head_sizes(what)])
        name = f"{self._key()}-{hashlib.sha256(facts.encode()).hexdigest()[:16]}.safetensors"
        return cache_folder.root() / "blocks" / name

    # ------------------------------------------------------------------------ what students of one kind say

    @abstractmethod
    def stack(self, candidate: Candidate) -> Stack:
        """A candidate of equal layers."""

    @abstractmethod
    def _key(self) -> str:
        """Of the teacher, the text and the precision: equal keys, equal scores."""

    @abstractmethod
    def _scored(self, shape: Shape, counts: Sequence[int]) -> dict[str, Tensor]:
        """The scores [counts] of a shape, by the name of each span."""

    @abstractmethod
    def _untold(self, widths: Sequence[int]) -> Tensor:
        """The floors [widths]."""


def named(span: Span) -> str:
    """A span's name in a file of scores."""
    return "{}-{}".format(*span)


def _head_sizes(what: Sequence[Any]) -> list[int]:
    """Those that do not follow from a shape's other sizes, for the names of files."""
    return [shape.head_size for shape in what if isinstance(shape, Shape) and shape.head_size]
