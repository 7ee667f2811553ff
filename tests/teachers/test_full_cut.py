"""A student of the teacher's own sizes is the teacher, whatever legal oddities the teacher's configuration has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kdnas.models import decoders, encoder_cut
from kdnas.recipes import recipe
from kdnas.recipes.hidden_state import HiddenStateBench
from kdnas.recipes.spaces.decoder import space_of
from kdnas.students.from_config import given
from kdnas.study.spec import SpaceSpec, StudySpec
from kdnas.system.errors import BadOptionError, UsageError
from kdnas.teachers import full_cut
from tests.encoders import FAMILIES, text_folder, tiny_encoder, tiny_spec
from tests.models.test_decoders import SIZES, teacher

CPU = torch.device("cpu")
ODD: list[tuple[str, dict[str, Any]]] = [
    *((family, {}) for family in FAMILIES),
    ("bert", {"hidden_size": 45, "num_attention_heads": 3, "intermediate_size": 77}),
    ("bert", {"num_attention_heads": 1, "num_hidden_layers": 1, "layer_norm_eps": 1e-5, "type_vocab_size": 1}),
    ("roberta", {"pad_token_id": 3}),
    ("electra", {"embedding_size": 32}),
    ("electra", {"embedding_size": 48}),
    ("albert", {"embedding_size": 32}),
    ("distilbert", {"sinusoidal_pos_embds": True}),
]


@pytest.fixture(autouse=True)
def _cache(own_cache: None) -> None:
    return None


def study(place: Path, family: str, **changes: Any) -> StudySpec:
    return tiny_spec(tiny_encoder(place / "m", family, **changes), text_folder(place / "text"))


def prepared(spec: StudySpec) -> HiddenStateBench:
    bench = recipe("hidden-state").prepare(spec, CPU, lambda *_: None)
    assert isinstance(bench, HiddenStateBench)
    return bench


@pytest.mark.parametrize(("family", "changes"), ODD)
def test_a_full_cut_of_every_encoder_repeats_it(family: str, changes: dict[str, Any], tmp_path: Path) -> None:
    bench = prepared(study(tmp_path, family, **changes))
    try:
        own, whole = bench._both_states()
        torch.testing.assert_close(whole, own, rtol=1e-4, atol=1e-5)
    finally:
        bench.close()


@pytest.mark.parametrize("width", [16, 24, 32])
def test_what_enters_the_first_layer_is_the_teachers_at_every_width(width: int, tmp_path: Path) -> None:
    """ELECTRA has no projection where the width is that of its embeddings: no such student is offered."""
    spec = study(tmp_path, "electra", embedding_size=16)
    bench = prepared(spec)
    try:
        widths = next(d.choices for d in bench.space.dimensions if d.name == "hidden_size")
        assert 16 not in widths and 32 in widths
        if width == 16:
            values = spec.model_dump(mode="json") | {"space": {"choices": {"hidden_size": [16]}}}
            with pytest.raises(BadOptionError, match="hidden_size = 16 is the teacher's embedding width"):
                recipe("hidden-state").describe(StudySpec.model_validate(values))
            fresh = {**values, "recipe": {"name": "hidden-state", "init": "random"}}
            recipe("hidden-state").describe(StudySpec.model_validate(fresh))
            return
        sizes = {"num_hidden_layers": 2, "hidden_size": width, "num_attention_heads": width // 8}
        job = given(spec, {**sizes, "intermediate_size": 64, "hidden_act": "gelu"})
        student = bench.build({**job.candidate}, 0).body
        kept = encoder_cut.best(bench._importance.width, width)
        with torch.no_grad():
            first, wanted = (
                m(input_ids=bench._held_ids[:4], output_hidden_states=True).hidden_states[0]
                for m in (student, bench.teacher.body)
            )
        torch.testing.assert_close(first, wanted[..., kept])
    finally:
        bench.close()


def test_a_cut_that_loses_something_is_refused_once_for_all(tmp_path: Path) -> None:
    state = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    full_cut.require_repeated("m", "same", torch.device("cpu"), lambda: (state, state + 1e-6))
    with pytest.raises(UsageError, match="cannot cut students out of 'm'"):
        full_cut.require_repeated("m", "other", torch.device("cpu"), lambda: (state, state.roll(1, 0)))
    with pytest.raises(UsageError):
        full_cut.require_repeated("m", "other", torch.device("cpu"), lambda: pytest.fail("asked twice"))
    with pytest.raises(UsageError):
        full_cut.require_repeated("m", "nan", torch.device("cpu"), lambda: (state, state * float("nan")))


LLAMA = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 3}
DECODERS: list[tuple[str, dict[str, Any]]] = [
    ("gpt2", {"n_inner": None, "tie_word_embeddings": False, "scale_attn_by_inverse_layer_idx": True}),
    ("gpt2", {"scale_attn_weights": False, "n_head": 1}),
    ("llama", {**LLAMA, "hidden_size": 48, "head_dim": 16}),  # heads wider than the model
    ("llama", {**LLAMA, "hidden_size": 96, "head_dim": 16}),  # and narrower
    ("llama", {**LLAMA, "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": False}),
    ("mistral", {**LLAMA, "sliding_window": 4, "head_dim": None, "hidden_size": 64}),
    ("qwen2", {**LLAMA, "use_sliding_window": True, "max_window_layers": 1, "sliding_window": 4}),
]
IDS = torch.tensor([[3, 14, 15, 9, 26, 5, 35]])


@pytest.mark.parametrize(("family", "changes"), DECODERS)
def test_a_full_cut_of_odd_decoders_repeats_them_and_every_point_builds(family: str, changes: dict[str, Any]) -> None:
    model = teacher(family, **changes)
    importance = decoders.importance(model, IDS)
    config = decoders.student_config(model.config, decoders.candidate_of(model.config))
    with torch.no_grad():
        whole = decoders.inherited(model, config, importance).eval()
        torch.testing.assert_close(whole(input_ids=IDS).logits, model(input_ids=IDS).logits)
        space, own = space_of(SpaceSpec(), model.config), decoders.sizes(model.config)
        for point in [space.sample(np.random.default_rng(seed)) for seed in range(12)]:
            made = decoders.student_config(model.config, point)
            assert decoders.sizes(made).width <= own.width
            assert decoders.inherited(model, made, importance)(input_ids=IDS).logits.isfinite().all()


def test_heads_wider_than_the_model_keep_their_share_of_its_width() -> None:
    model = teacher("llama", **LLAMA, hidden_size=48, head_dim=16)
    half = {**decoders.candidate_of(model.config), "num_attention_heads": 2}
    assert decoders.student_config(model.config, half).hidden_size == 24  # not 2 × 16
    plain = teacher("llama")
    half = {**decoders.candidate_of(plain.config), "num_attention_heads": 3}
    assert decoders.student_config(plain.config, half).hidden_size == 3 * SIZES["llama"]["head_dim"]


def test_layers_whose_logits_are_divided_by_their_number_keep_them_where_they_move() -> None:
    """Of three layers the first and the last are kept: the last one's logits were divided by 3 and now are by 2."""
    model = teacher("gpt2", n_layer=3, scale_attn_by_inverse_layer_idx=True)
    with torch.no_grad():  # the layer in between does nothing
        model.transformer.h[1].attn.c_proj.weight.zero_()
        model.transformer.h[1].attn.c_proj.bias.zero_()
        model.transformer.h[1].mlp.c_proj.weight.zero_()
        model.transformer.h[1].mlp.c_proj.bias.zero_()
        config = decoders.student_config(model.config, {**decoders.candidate_of(model.config), "num_hidden_layers": 2})
        student = decoders.inherited(model, config, decoders.importance(model, IDS)).eval()
        torch.testing.assert_close(student(input_ids=IDS).logits, model(input_ids=IDS).logits)


@pytest.mark.parametrize("rope", ["yarn", "longrope"])
def test_heads_of_positions_that_do_not_halve_keep_their_size(rope: str) -> None:
    config = teacher("llama").config
    assert decoders.rotates_by_halves(config)
    config.rope_parameters = {**config.rope_parameters, "rope_type": rope}
    assert not decoders.rotates_by_halves(config)
