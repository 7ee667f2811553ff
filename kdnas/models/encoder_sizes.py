"""The sizes of one encoder, under one name for all families; its layers may differ in heads and in neurons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, order=True)
class LayerSizes:
    """What the layers of one encoder may differ in."""

    heads: int
    inner: int


@dataclass(frozen=True)
class Sizes:
    """The sizes of one encoder. `each` holds those of its layers from below where they are not all of `heads` heads and
    `inner` neurons; then `heads` says how often the size of a head goes into the width, and `inner` is the largest."""

    layers: int
    width: int
    heads: int
    inner: int
    act: str
    each: tuple[LayerSizes, ...] = ()

    @classmethod
    def of_layers(cls, width: int, head_size: int, act: str, each: Sequence[LayerSizes]) -> Sizes:
        """Of layers from below; without `each` where a model of the family itself has them: all alike, their heads as
        wide together as the model."""
        whole = width // head_size
        alike = set(each) == {LayerSizes(whole, each[0].inner)}
        return cls(len(each), width, whole, max(one.inner for one in each), act, () if alike else tuple(each))

    @property
    def head_size(self) -> int:
        return self.width // self.heads

    def layer(self, index: int) -> LayerSizes:
        return self.each[index] if self.each else LayerSizes(self.heads, self.inner)

    def values(self) -> dict[str, Any]:
        """As plain values; layers that are alike are not listed."""
        found = asdict(self)
        if not self.each:
            del found["each"]
        return found
