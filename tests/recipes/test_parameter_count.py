"""Parameters counted at a few corners of a space are those of every student that is made."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from transformers import AutoConfig

from kdnas.models import decoders, encoders
from kdnas.recipes.causal import parameters_of
from kdnas.recipes.spaces import decoder, encoder
from kdnas.recipes.spaces.encoder_students import parameters_of as of_encoder
from kdnas.recipes.spaces.parameter_count import ParameterCount
from kdnas.study.space import Candidate, Dimension, SearchSpace
from kdnas.study.spec import SpaceSpec
from tests.encoders import FAMILIES
from tests.recipes.tiny_causal import SIZES

NARROW = SpaceSpec()  # type: ignore[call-arg]


def drawn(space: SearchSpace, count: int = 3) -> list[Candidate]:
    rng = np.random.default_rng(1)
    return [space.sample(rng) for _ in range(count)]


@pytest.mark.parametrize("name", FAMILIES)
def test_of_encoders(name: str) -> None:
    config = AutoConfig.for_model(name, **FAMILIES[name])
    family = encoders.FAMILIES[name]
    space = encoder.space_of(NARROW, family.sizes(config), encoders.closed_widths(family, config))
    counted = of_encoder(space, family, config)
    for candidate in drawn(space):
        values = encoders.config_values(family, config, encoder.sizes_of(candidate))
        body = encoders.build_body(encoders.configure(values))
        assert counted(candidate) == sum(p.numel() for p in body.parameters()), candidate


@pytest.mark.parametrize("name", SIZES)
def test_of_decoders(name: str) -> None:
    config = AutoConfig.for_model(name, vocab_size=40, **SIZES[name])
    space = decoder.space_of(NARROW, config)
    counted = parameters_of(space, config)
    for candidate in drawn(space):
        model: Any = decoders.fresh(decoders.student_config(config, candidate), 0)
        assert counted(candidate) == sum(p.numel() for p in model.parameters()), candidate


def test_only_corners_are_counted_and_what_changes_nothing_is_left_out() -> None:
    space = SearchSpace(
        (
            Dimension("num_hidden_layers", (2, 5, 9)),
            Dimension("intermediate_size", (7,)),
            Dimension("hidden_size", (4, 8)),
            Dimension("hidden_act", ("gelu", "relu"), ordered=False),
        )
    )
    asked = []

    def count(candidate: Candidate) -> int:
        asked.append(candidate)
        return 11 + int(candidate["hidden_size"]) ** 2 * int(candidate["num_hidden_layers"])

    counted = ParameterCount(space, count)
    assert [counted(c) for c in space.candidates()] == [
        11 + int(c["hidden_size"]) ** 2 * int(c["num_hidden_layers"]) for c in space.candidates()
    ]
    assert len(asked) == 4 and {c["num_hidden_layers"] for c in asked} == {2, 5}
