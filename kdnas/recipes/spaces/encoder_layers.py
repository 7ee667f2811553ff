"""Which students a search may choose from where each layer has sizes of its own (`space.per_layer`).

Depth, width, head size and activation are one a student. Each layer has a number of heads and of neurons; those of
layers that a student lacks count for nothing. So any number of heads goes with any width, and every point is valid.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from kdnas.models.encoder_sizes import LayerSizes, Sizes
from kdnas.recipes.spaces import encoder
from kdnas.recipes.spaces.encoder import of_layer
from kdnas.recipes.spaces.narrowing import choices_of, dimension, require_whole
from kdnas.study.layer_words import DEPTH as DEPTH
from kdnas.study.layer_words import SIZES
from kdnas.study.space import Candidate, SearchSpace, Value
from kdnas.study.spec import SpaceSpec
from kdnas.system.errors import BadOptionError

WIDTH, HEAD, ACT = "hidden_size", "head_size", "hidden_act"
HEADS, INNER = SIZES
MOST = 10**38  # points of a space, whose numbers are kept as text of 40 digits at most


def space_of(spec: SpaceSpec, own: Sizes, closed: Collection[int] = ()) -> SearchSpace:
    """The product of choices for a teacher of these sizes, narrowed by the spec; every point builds a model.

    Heads are those that the space's widths have in a student of equal layers, unless they are given; the size of a head
    is the teacher's. Raises BadOptionError for what cannot be so.
    """
    if spec.preset != "full":
        raise BadOptionError(
            "space.per_layer",
            f"The preset {spec.preset} has students of equal layers only.",
            "Take the preset full, or leave out space.per_layer.",
        )
    of_layers = [of_layer(name, i) for i in range(1, own.layers + 1) for name in (HEADS, INNER)]
    given = choices_of(spec, (DEPTH, WIDTH, HEAD, ACT, HEADS, INNER, *of_layers))
    of_all = {name: values for name, values in given.items() if name in (DEPTH, WIDTH, INNER, ACT)}
    sizes = given.get(HEAD, (own.head_size,))
    whole = encoder.space_of(spec.model_copy(update={"choices": {**of_all, HEAD: sizes}}), own, closed)
    choices = {d.name: d.choices for d in whole.dimensions}
    heads = given.get(HEADS) or _heads(choices[WIDTH], choices[HEAD], own)
    for name, values in given.items():
        if name == HEADS or name in of_layers:
            _check(name, values, choices[HEAD], own)
    depths = [int(depth) for depth in choices[DEPTH]]
    made = [d for d in whole.dimensions if d.name not in (HEADS, INNER)]
    for layer in range(1, max(depths) + 1):
        deep = tuple(depth for depth in depths if depth >= layer)
        when = (DEPTH, deep) if len(deep) < len(depths) else None
        for name, usual in ((HEADS, heads), (INNER, choices[INNER])):
            named = of_layer(name, layer)
            made.append(dimension(named, given.get(named, usual), ordered=True, when=when))
    beyond = next((name for name in given if name in of_layers and name not in {d.name for d in made}), None)
    if beyond is not None:
        raise BadOptionError(
            f"space.choices.{beyond}",
            f"{beyond} is of a layer that no student has.",
            f"The deepest have {max(depths)} layers.",
        )
    space = SearchSpace(tuple(made))
    if space.product_size > MOST:
        raise BadOptionError(
            "space.per_layer",
            f"The space has {space.product_size:.0e} candidates, more than can be numbered.",
            f"Narrow {HEADS}, {INNER} or {DEPTH} with space.choices.",
        )
    return space


def _heads(widths: Sequence[Value], sizes: Sequence[Value], own: Sizes) -> tuple[Value, ...]:
    """Numbers of heads that students of equal layers have, as far as they are no wider than the teacher whatever the
    size of a head is."""
    numbers = {int(width) // int(size) for width in widths for size in sizes}
    most = own.width // max(map(int, sizes))
    return tuple(sorted(number for number in numbers if number <= most))


def _check(name: str, values: Sequence[Value], sizes: Sequence[Value], own: Sizes) -> None:
    if name.startswith(INNER):
        for value in values:
            require_whole(name, value, own.inner, "the teacher's own size")
        return
    largest = max(map(int, sizes))
    for value in values:
        require_whole(name, value, own.width // largest, f"as many of size {largest} as the teacher's width holds")


def alike(space: SearchSpace, sizes: Sizes, layer: LayerSizes) -> Candidate:
    """A candidate as deep as `sizes` whose layers are all like this one, whether or not the space has it."""
    values: Candidate = {DEPTH: sizes.layers, WIDTH: sizes.width, HEAD: sizes.head_size, ACT: sizes.act}
    for name, number in ((HEADS, layer.heads), (INNER, layer.inner)):
        values |= {d.name: number for d in space.dimensions if d.name.startswith(f"{name}_")}
        values |= {of_layer(name, i): number for i in range(1, sizes.layers + 1)}
    return values


def repeated(space: SearchSpace, candidate: Candidate, depth: int) -> list[Candidate]:
    """For each of the candidate's different layers a candidate of `depth` layers like it."""
    sizes = encoder.sizes_of(candidate)
    kinds = sorted({sizes.layer(i) for i in range(sizes.layers)})
    return [alike(space, replace(sizes, layers=depth), layer) for layer in kinds]


def in_words(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The configuration of a student whose layers differ in the words of such a space; any other as it is."""
    each = [sizes for sizes in (config.get("layer_heads"), config.get("layer_neurons")) if isinstance(sizes, list)]
    if len(each) < 2:
        return config
    named = [(name, i, size) for name, sizes in zip((HEADS, INNER), each, strict=True) for i, size in enumerate(sizes)]
    return {**config, **{of_layer(name, i + 1): size for name, i, size in named}}
