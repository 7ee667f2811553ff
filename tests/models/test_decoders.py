"""Decoders' students: every point of the space builds, and a student cut to full size is its teacher."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, BertConfig, PreTrainedModel

from kdnas.models import decoders
from kdnas.models.layer_choice import spread
from kdnas.recipes.spaces.decoder import space_of
from kdnas.study.spec import SpaceSpec
from kdnas.system.errors import UsageError

SIZES: dict[str, dict[str, Any]] = {
    "gpt2": {"n_layer": 5, "n_head": 4, "n_embd": 64, "n_inner": 96, "vocab_size": 61, "n_positions": 32},
    "llama": {
        "num_hidden_layers": 5,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "hidden_size": 6 * 32,
        "head_dim": 32,
        "intermediate_size": 128,
        "vocab_size": 61,
        "tie_word_embeddings": True,
        "max_position_embeddings": 64,
    },
}
SIZES["qwen2"] = SIZES["llama"] | {"tie_word_embeddings": False}
SIZES["mistral"] = dict(SIZES["llama"])
SIZES["qwen3"] = dict(SIZES["llama"])


def teacher(family: str, **changes: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **(SIZES[family] | changes))
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    for parameter in model.parameters():  # norms and biases start as ones and zeros, which any slice would hit
        parameter.data.add_(torch.randn_like(parameter) * 0.05)
    return model


@pytest.fixture(params=list(SIZES))
def some(request: pytest.FixtureRequest) -> PreTrainedModel:
    return teacher(request.param)


ids = torch.tensor([[3, 14, 15, 9, 26, 5, 35]])


def test_every_point_builds_both_ways_and_predicts(some: PreTrainedModel) -> None:
    space = space_of(SpaceSpec(), some.config)
    rng = np.random.default_rng(0)
    for candidate in [space.sample(rng) for _ in range(8)]:
        config = decoders.student_config(some.config, candidate)
        assert decoders.candidate_of(config) == candidate
        for student in (decoders.inherited(some, config, decoders.importance(some, ids)), decoders.fresh(config, 1)):
            logits = student(input_ids=ids, use_cache=False).logits
            assert logits.shape == (1, 7, 61) and bool(logits.isfinite().all())


def test_nothing_is_larger_than_the_teacher(some: PreTrainedModel) -> None:
    whole = decoders.candidate_of(some.config)
    for dimension in space_of(SpaceSpec(), some.config).dimensions:
        if dimension.ordered:
            assert max(dimension.choices) == whole[dimension.name]
        assert whole[dimension.name] in dimension.choices


def test_the_student_of_full_size_is_the_teacher(some: PreTrainedModel) -> None:
    config = decoders.student_config(some.config, decoders.candidate_of(some.config))
    student = decoders.inherited(some, config, decoders.importance(some, ids)).eval()
    with torch.no_grad():
        torch.testing.assert_close(student(input_ids=ids).logits, some(input_ids=ids).logits)


def test_grouped_heads_keep_their_groups() -> None:
    space = space_of(SpaceSpec(), teacher("llama").config)
    heads = next(d for d in space.dimensions if d.name == "num_attention_heads")
    assert heads.choices == (3, 6)
    config = decoders.student_config(teacher("llama").config, {**candidate_of("llama"), "num_attention_heads": 3})
    assert (config.num_attention_heads, config.num_key_value_heads, config.hidden_size) == (3, 1, 96)


def candidate_of(family: str) -> dict[str, Any]:
    return dict(decoders.candidate_of(teacher(family).config))


def test_gpt2_without_n_inner_has_four_times_its_width() -> None:
    config = teacher("gpt2", n_inner=None).config
    assert decoders.sizes(config).inner == 256
    narrow = {**candidate_of("gpt2"), "num_attention_heads": 2, "intermediate_size": 256}
    student = decoders.student_config(config, narrow)
    assert student.n_inner == 256  # not 4 × the student's own width


def test_removed_parts_that_did_nothing_are_not_missed(some: Any) -> None:
    """Silence one key-value head with its queries and half of the units in the teacher: the cut leaves those out."""
    family = some.config.model_type
    whole = decoders.sizes(some.config)
    size = whole.head_size * whole.group
    with torch.no_grad():
        for i in range(whole.layers):
            if family == "gpt2":
                some.transformer.h[i].attn.c_proj.weight[size : 2 * size] = 0
                some.transformer.h[i].mlp.c_proj.weight[::2] = 0
            else:
                some.model.layers[i].self_attn.o_proj.weight[:, size : 2 * size] = 0
                some.model.layers[i].mlp.down_proj.weight[:, ::2] = 0
    narrow = {**decoders.candidate_of(some.config), "intermediate_size": whole.inner // 2}
    config = decoders.student_config(some.config, narrow)
    student = decoders.inherited(some, config, decoders.importance(some, ids)).eval()
    with torch.no_grad():
        torch.testing.assert_close(student(input_ids=ids).logits, some(input_ids=ids).logits)
    assert (decoders.importance(some, ids).groups.argmin(1) == 1).all()


def test_a_halved_rotary_head_keeps_whole_frequencies() -> None:
    whole = decoders.sizes(teacher("llama").config)
    part = decoders.sizes(decoders.student_config(teacher("llama").config, {**candidate_of("llama"), "head_size": 16}))
    rows = decoders._rows(torch.tensor([0]), whole, part, 1, rotary=True)
    base = 10000.0
    teacher_frequencies = base ** (-2 * torch.arange(16) / 32)
    student_frequencies = base ** (-2 * torch.arange(8) / 16)
    torch.testing.assert_close(teacher_frequencies[rows[:8]], student_frequencies)
    assert rows[8:].tolist() == (rows[:8] + 16).tolist()


@pytest.mark.parametrize(("teacher_layers", "student_layers"), [(30, 1), (30, 2), (30, 4), (12, 6), (5, 5), (24, 16)])
def test_kept_layers_are_spread_and_different(teacher_layers: int, student_layers: int) -> None:
    kept = spread(student_layers, teacher_layers)
    assert len(set(kept)) == student_layers and list(kept) == sorted(kept) and kept[0] == 0
    if student_layers > 1:
        assert kept[-1] == teacher_layers - 1


def test_one_seed_one_student(some: PreTrainedModel) -> None:
    config = decoders.student_config(some.config, decoders.candidate_of(some.config))
    one, same, other = (decoders.fresh(config, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_an_encoder_is_refused_in_one_line() -> None:
    with pytest.raises(UsageError, match=r"'bert' models are no decoders.*gpt2"):
        space_of(SpaceSpec(), BertConfig())
