"""Blocks of decoders fitted in place: nothing is left where nothing is cut, more where more is, and no wrong number."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from kdnas.models import decoders
from kdnas.models.decoder_block_scores import block_config, in_place, unexplained, untold
from kdnas.models.decoder_blocks import parts_of
from kdnas.models.decoder_fit import heard_in
from kdnas.models.decoder_measures import unit_order
from kdnas.models.decoders import sizes
from kdnas.models.stream_directions import directions_of
from kdnas.system.errors import KdnasError
from tests.models.test_fitted_decoders import FAMILIES, IDS, Fitting, teacher

PARTS = parts_of(len(IDS), 16)


@pytest.fixture(scope="module", params=list(FAMILIES))
def fitting(request: pytest.FixtureRequest) -> Fitting:
    return Fitting(teacher(request.param))


def scored(fitting: Fitting, source: int, ends: list[int], counts: list[int], **cut: Any) -> Tensor:
    whole = sizes(fitting.model.config)
    shape = {"heads": whole.heads, "head_size": whole.head_size, "act": whole.activation, **cut}
    config = block_config(fitting.model.config, shape["heads"], shape["head_size"], shape["act"], source)
    norm = fitting.blocks.body.get_submodule(fitting.blocks.layout.last)
    states = fitting._states.__getitem__
    with torch.no_grad():
        heard = heard_in(fitting.blocks, source, states, PARTS)
    directions = directions_of(fitting.measured.moments, norm.weight, sizes(config).width)
    fit = in_place(fitting.blocks, config, source, fitting.importance, directions, states(source).shape[1])
    order = unit_order(fitting.blocks, source, states(source), 16)
    return unexplained(fit, states, heard, PARTS, order, ends, counts)


def test_a_block_of_which_nothing_is_cut_leaves_nothing(fitting: Fitting) -> None:
    # GPT-2's weights also write what its norms leave out; what is solved is held to them, and wants it no more.
    rounding = 1e-3 if fitting.model.config.model_type == "gpt2" else 1e-6
    for source in (0, 2):
        assert float(scored(fitting, source, [source + 1], [48])) < rounding


def test_more_units_and_more_heads_leave_less(fitting: Fitting) -> None:
    whole, half = (scored(fitting, 1, [2, 4], [4, 16, 32, 48], heads=heads) for heads in (4, 2))
    for found in (whole, half):
        assert (
            found.shape == (2, 4) and bool((found.diff(dim=1) <= 0).all()) and bool((found[:, 0] > found[:, 3]).all())
        )
        assert bool(((found >= 0) & (found < 1.5)).all())
    assert bool((half[0] > whole[0]).all())
    assert float(whole[1, 3]) > float(whole[0, 3])  # two more blocks of the teacher to stand for


@pytest.mark.parametrize("cut", [{"head_size": 4}, {"act": "relu"}], ids=["heads of half the size", "relu"])
def test_every_way_of_cutting_leaves_something(fitting: Fitting, cut: dict[str, Any]) -> None:
    found = scored(fitting, 0, [1], [16, 48], **cut)
    assert bool(found.isfinite().all()) and bool((found > 1e-4).all())


def test_what_a_width_no_longer_tells_of_the_logits_is_nothing_for_all_of_it(fitting: Fitting) -> None:
    blocks, norm = fitting.blocks, fitting.blocks.body.get_submodule(fitting.blocks.layout.last)
    whole = sizes(fitting.model.config).width

    def left(width: int) -> float:
        directions = directions_of(fitting.measured.moments, norm.weight, width)
        return untold(blocks, directions, fitting._states[4], PARTS, fitting.measured.likely)

    assert left(whole) < 1e-6 < left(whole // 2) < left(whole // 4) < 1


def test_what_is_no_number_is_refused() -> None:
    fitting = Fitting(teacher("llama"))
    decoders.body_and_head(fitting.model)[0].get_submodule("layers.1.mlp.gate_proj").weight.data[0, 0] = float("nan")
    with pytest.raises(KdnasError, match="what its layers give is not finite numbers"):
        scored(fitting, 1, [2], [48])
