"""The sizes of a candidate's layers in a few words: one entry `4 4 8` in place of one for each layer.

A candidate whose layers differ names a size `intermediate_size_1`, `intermediate_size_2` and so on, from the lowest
layer up. Layers that it lacks stand in it all the same, folded to a first choice, and are left out here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

DEPTH = "num_hidden_layers"  # the dimension that says how often a block is repeated
SIZES = ("num_attention_heads", "intermediate_size")
KIND, STATIC = "kind", "static"  # a student of this kind has no layers
_OF_LAYER = re.compile(rf"({'|'.join(SIZES)})_([1-9][0-9]*)")


def is_static(candidate: Mapping[str, Any]) -> bool:
    """Whether it is a static student, which has no sizes and learns by no steps."""
    return candidate.get(KIND) == STATIC


def size_of(key: str) -> tuple[str, int] | None:
    """Which size of which layer a key names; None for any other key."""
    found = _OF_LAYER.fullmatch(key)
    return None if found is None else (found[1], int(found[2]))


def shown(candidate: Mapping[str, Any]) -> dict[str, Any]:
    """The candidate as tables show it; one without sizes by layer is as it was, but for the sizes of an encoder that a
    static student lacks."""
    if is_static(candidate):
        return {KIND: STATIC}
    depth = candidate.get(DEPTH)
    if not isinstance(depth, int) or not any(f"{name}_1" in candidate for name in SIZES):
        return dict(candidate)
    found: dict[str, Any] = {}
    for key, value in candidate.items():
        own = size_of(key)
        if own is None:
            found[key] = value
        elif own[1] <= depth:
            found[own[0]] = f"{found[own[0]]} {value}" if own[0] in found else str(value)
    return found


def grouped(dimensions: Mapping[str, Iterable[Any]]) -> dict[str, tuple[Any, ...]]:
    """Dimensions and their choices as lists show them: those of all layers that have the same stand once, as
    `intermediate_size, layers 1 … 6`."""
    found: dict[str, tuple[Any, ...]] = {}
    layers: dict[tuple[str, tuple[Any, ...]], list[int]] = {}
    for key, listed in dimensions.items():
        own, choices = size_of(key), tuple(listed)
        if own is None:
            found[key] = choices
        else:
            layers.setdefault((own[0], choices), []).append(own[1])
    for (name, choices), which in layers.items():
        whole = len(which) > 1 and which == list(range(which[0], which[-1] + 1))
        told = f"layers {which[0]} … {which[-1]}" if whole else f"layer {', '.join(map(str, which))}"
        found[f"{name}, {told}"] = choices
    return found
