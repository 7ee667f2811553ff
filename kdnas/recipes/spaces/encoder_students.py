"""The students of an encoder that a study may choose from, and what each of them counts in parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from kdnas.models import encoders
from kdnas.models.encoders import Family, Sizes
from kdnas.recipes.spaces import encoder, encoder_layers
from kdnas.recipes.spaces.encoder import layered, sizes_of
from kdnas.recipes.spaces.parameter_count import LayeredCount, ParameterCount
from kdnas.study.layer_words import KIND, STATIC
from kdnas.study.space import Candidate, Dimension, SearchSpace, Value
from kdnas.study.spec import StudySpec
from kdnas.study.spec_recipes import EncoderRecipe, SentenceEmbeddingRecipe
from kdnas.system.errors import BadOptionError, nearest

KINDS = ("encoder", STATIC)


def space_of(spec: StudySpec, family: Family, config: Any) -> SearchSpace:
    """The space for a teacher of this configuration. Raises UsageError.

    Where the spec names kinds of students, `kind` is its first dimension, and sizes count for encoders alone.
    """
    kinds = _kinds(spec)
    if not kinds:
        return _encoders(spec, family, config)
    others = {name: values for name, values in spec.space.choices.items() if name != KIND}
    space = spec.space.model_copy(update={"choices": others})
    made = _encoders(spec.model_copy(update={"space": space}), family, config)
    when = (KIND, ("encoder",)) if STATIC in kinds else None
    sizes = (replace(one, when=when) for one in made.dimensions)
    return SearchSpace((Dimension(KIND, kinds, ordered=False), *sizes))


def _kinds(spec: StudySpec) -> tuple[Value, ...]:
    """The kinds that the spec names, none where it names none. Raises BadOptionError."""
    kinds = tuple(spec.space.choices.get(KIND, ()))
    field = f"space.choices.{KIND}"
    if kinds and not isinstance(spec.recipe, SentenceEmbeddingRecipe):
        raise BadOptionError(
            field, "Only students of the recipe sentence-embedding are of kinds.", "Leave it out, or take that recipe."
        )
    for kind in kinds:
        if kind not in KINDS:
            raise BadOptionError(field, f"kind = {kind!r} is not known.", nearest(str(kind), KINDS))
    if STATIC in kinds and (spec.space.per_layer or spec.latency.by == "blocks"):
        which = "space.per_layer" if spec.space.per_layer else "latency.by"
        raise BadOptionError(
            field,
            f"kind = 'static' does not go with {which} = {'true' if spec.space.per_layer else 'blocks'}: a static "
            "student has no layers.",
            "Leave out one of the two.",
        )
    return kinds


def _encoders(spec: StudySpec, family: Family, config: Any) -> SearchSpace:
    own, closed = family.sizes(config), _closed(spec, family, config)
    if not spec.space.per_layer:
        return encoder.space_of(spec.space, own, closed)
    if family.shared_layers:
        raise BadOptionError(
            "space.per_layer",
            f"space.per_layer is true, and the layers of {spec.teacher.model!r} share their weights.",
            "Leave it out, or take a teacher of another family.",
        )
    return encoder_layers.space_of(spec.space, own, closed)


def _closed(spec: StudySpec, family: Family, config: Any) -> frozenset[int]:
    """Widths that students of this study cannot have."""
    assert isinstance(spec.recipe, EncoderRecipe)
    return frozenset() if spec.recipe.init == "random" else encoders.closed_widths(family, config)


def parameters_of(space: SearchSpace, family: Family, teacher: Any) -> Callable[[Candidate], int]:
    """Counts the parameters of the space's candidates, as students of a teacher of this configuration."""

    def count(sizes: Sizes) -> int:
        return encoders.count_parameters(encoders.configure(encoders.config_values(family, teacher, sizes)))

    if layered(space.from_ordinal(0)):
        by_layers = LayeredCount(count)
        return lambda candidate: by_layers(sizes_of(candidate))
    return ParameterCount(space, lambda candidate: count(sizes_of(candidate)))
