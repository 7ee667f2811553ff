"""The students of an encoder that a study may choose from, and what each of them counts in parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kdnas.models import encoders
from kdnas.models.encoders import Family, Sizes
from kdnas.recipes.spaces import encoder, encoder_layers
from kdnas.recipes.spaces.encoder import layered, sizes_of
from kdnas.recipes.spaces.parameter_count import LayeredCount, ParameterCount
from kdnas.study.space import Candidate, SearchSpace
from kdnas.study.spec import StudySpec
from kdnas.study.spec_recipes import EncoderRecipe
from kdnas.system.errors import BadOptionError


def space_of(spec: StudySpec, family: Family, config: Any) -> SearchSpace:
    """The space for a teacher of this configuration. Raises UsageError."""
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
