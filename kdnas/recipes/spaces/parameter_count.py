"""How many parameters the students of a space have, without building each. Knows no family of models."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection
from math import prod

from kdnas.models.encoder_sizes import LayerSizes, Sizes
from kdnas.study.space import Candidate, SearchSpace

LINEAR = ("num_hidden_layers", "intermediate_size")
"""Dimensions in which a transformer's parameters are linear: blocks of one size, two matrices a neuron."""
WITHOUT = ("hidden_act",)
"""Dimensions that change no parameter."""


class ParameterCount:
    """Counts by `count` only at the corners of the dimensions in which parameters are linear, and between them exactly.

    `count` gives the parameters of one candidate, slowly. Every other dimension that changes them has corners of its
    own.
    """

    def __init__(
        self,
        space: SearchSpace,
        count: Callable[[Candidate], int],
        *,
        linear: Collection[str] = LINEAR,
        without: Collection[str] = WITHOUT,
    ) -> None:
        self._count = count
        choices = {d.name: d.choices for d in space.dimensions}
        # The two smallest are the cheapest to count.
        self._ends = {n: tuple(sorted(int(c) for c in choices[n])[:2]) for n in linear if n in choices}
        self._first = {n: choices[n][0] for n in without if n in choices}
        self._known: dict[tuple[object, ...], int] = {}

    def __call__(self, candidate: Candidate) -> int:
        names = list(self._ends)
        total = 0
        # Lagrange's weights of the corners; the sum of integer products is divided once, and exactly.
        scale = prod(ends[1] - ends[0] for ends in self._ends.values() if len(ends) == 2)
        for corner in itertools.product(*self._ends.values()):
            weight = 1
            for name, at in zip(names, corner, strict=True):
                ends, value = self._ends[name], int(candidate[name])
                if len(ends) == 2:
                    weight *= ends[1] - value if at == ends[0] else value - ends[0]
            if weight:
                total += weight * self._corner({**candidate, **self._first, **dict(zip(names, corner, strict=True))})
        return total // scale

    def _corner(self, candidate: Candidate) -> int:
        key = tuple(candidate.items())
        if key not in self._known:
            self._known[key] = self._count(candidate)
        return self._known[key]


class LayeredCount:
    """The same for encoders whose layers differ: what stands around the layers, and a sum over them.

    `count` gives the parameters of an encoder of these sizes, slowly: each layer is counted once, in models of one.
    """

    def __init__(self, count: Callable[[Sizes], int]) -> None:
        self._count = count
        self._around: dict[tuple[int, int, str], int] = {}
        self._known: dict[tuple[int, int, str, LayerSizes], int] = {}

    def __call__(self, sizes: Sizes) -> int:
        layers = [sizes.layer(i) for i in range(sizes.layers)]
        name = sizes.width, sizes.head_size, sizes.act
        if name not in self._around:
            self._around[name] = 2 * self._alike(name, layers[0], 1) - self._alike(name, layers[0], 2)
        return self._around[name] + sum(self._one(name, layer) - self._around[name] for layer in layers)

    def _one(self, name: tuple[int, int, str], layer: LayerSizes) -> int:
        if (*name, layer) not in self._known:
            self._known[*name, layer] = self._alike(name, layer, 1)
        return self._known[*name, layer]

    def _alike(self, name: tuple[int, int, str], layer: LayerSizes, layers: int) -> int:
        return self._count(Sizes.of_layers(*name, (layer,) * layers))
