"""A student's configuration and body: the teacher's with other sizes, its own family's names, no pooler, no dropout."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModel, PretrainedConfig

from kdnas.models import encoders
from kdnas.models.encoders import Sizes
from kdnas.system.errors import UsageError
from tests.encoders import FAMILIES

SIZES = Sizes(layers=2, width=24, heads=3, inner=40, act="relu")
FORGOTTEN = {"_name_or_path", "architectures", "transformers_version", "dtype", "torch_dtype"}
FAMILIES_WITH_POOLER = {"bert", "roberta", "xlm-roberta", "albert"}


def config_of(family: str, **changes: Any) -> PretrainedConfig:
    return AutoConfig.for_model(family, **{**FAMILIES[family], **changes})


def student_of(family: str, **changes: Any) -> dict[str, Any]:
    return encoders.config_values(encoders.FAMILIES[family], config_of(family, **changes), SIZES)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_student_is_configured_as_its_teacher_but_for_the_sizes(family: str) -> None:
    names = encoders.FAMILIES[family]
    teacher = config_of(family, architectures=["A"], dtype=torch.float16, _name_or_path="somewhere", pad_token_id=0)
    values = encoders.config_values(names, teacher, SIZES)
    assert not FORGOTTEN & set(values)
    assert values["model_type"] == family
    sizes = {names.layers: 2, names.width: 24, names.heads: 3, names.inner: 40, names.act: "relu"}
    assert {name: values[name] for name in sizes} == sizes
    kept = {name: value for name, value in teacher.to_dict().items() if name not in {*sizes, *FORGOTTEN, "model_type"}}
    assert {name: values[name] for name in kept} == kept
    config = encoders.configure(values)
    assert type(config) is type(teacher) and names.sizes(config) == SIZES


@pytest.mark.parametrize("family", ["albert", "electra"])
def test_embeddings_follow_the_width_only_where_the_teacher_does_not_project_them(family: str) -> None:
    assert student_of(family)["embedding_size"] == 16
    assert student_of(family, embedding_size=32)["embedding_size"] == 24


def test_an_electra_at_its_embeddings_width_cannot_be_cut() -> None:
    def closed(family: str, **changes: Any) -> frozenset[int]:
        return encoders.closed_widths(encoders.FAMILIES[family], config_of(family, **changes))

    assert closed("electra") == {16}
    assert closed("electra", embedding_size=32) == closed("albert") == closed("bert") == frozenset()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_body_has_neither_pooler_nor_dropout_and_its_size_is_counted_without_making_it(family: str) -> None:
    config = encoders.configure(student_of(family))
    assert encoders.takes_pooler(config) == (family in FAMILIES_WITH_POOLER)
    body = encoders.build_body(config)
    assert not [name for name, _ in body.named_parameters() if "pooler" in name]
    assert {module.p for module in body.modules() if isinstance(module, torch.nn.Dropout)} == {0.0}
    assert {parameter.dtype for parameter in body.parameters()} == {torch.float32}
    assert body.config._attn_implementation == "sdpa"  # type: ignore[union-attr]
    assert encoders.count_parameters(config) == sum(parameter.numel() for parameter in body.parameters())


def test_a_model_type_of_two_classes_is_asked_for_its_first() -> None:
    assert not encoders.takes_pooler(AutoConfig.for_model("funnel"))


@pytest.mark.parametrize("family", FAMILIES)
def test_an_inherited_body_is_the_one_whose_weights_it_is_given(family: str) -> None:
    config = config_of(family)
    whole = AutoModel.from_config(config, dtype=torch.float32).eval()  # with a pooler, whose weights are not wanted
    weights = {name: tensor.clone() for name, tensor in whole.state_dict().items()}
    buffers = {name: buffer for name, buffer in whole.named_buffers() if name not in weights}
    values = encoders.config_values(encoders.FAMILIES[family], config, encoders.FAMILIES[family].sizes(config))
    body = encoders.inherit(values, weights, buffers)
    ids = torch.arange(10, 26)[None]
    with torch.inference_mode():
        assert torch.equal(body.eval()(input_ids=ids)[0], whole(input_ids=ids)[0])
    assert body.training is False and all(parameter.requires_grad for parameter in body.parameters())
    assert {module.p for module in body.modules() if isinstance(module, torch.nn.Dropout)} == {0.0}
    assert body.config._attn_implementation == "sdpa"  # type: ignore[union-attr]
    assert not set(buffers) & set(body.state_dict())  # they are made anew when the folder is opened
    assert buffers.keys() == {name for name, _ in body.named_buffers()}
    del weights["embeddings.word_embeddings.weight"]
    with pytest.raises(ValueError, match=r"the teacher has no weights for embeddings\.word_embeddings\.weight"):
        encoders.inherit(values, weights, buffers)


def test_positions_that_no_token_takes_are_those_of_the_family() -> None:
    assert encoders.position_offset(config_of("bert", pad_token_id=5)) == 0
    assert encoders.position_offset(config_of("roberta", pad_token_id=0)) == 1
    assert encoders.position_offset(config_of("xlm-roberta", pad_token_id=1)) == 2
    without = config_of("roberta")
    without.pad_token_id = None
    assert encoders.position_offset(without) == 2


def test_a_teacher_that_the_recipe_cannot_take_is_refused_by_its_name() -> None:
    for config, what, hint in (
        (AutoConfig.for_model("gpt2"), "'T' is of the family 'gpt2'", "bert, roberta, xlm-roberta, albert, distilbert"),
        (config_of("albert", num_hidden_groups=2), "'T' has several groups of shared layers", "one group"),
        (config_of("albert", inner_group_num=2), "'T' has several groups of shared layers", "one group"),
        (config_of("bert", is_decoder=True), "'T' is a decoder", "an encoder"),
        (config_of("bert", position_embedding_type="relative_key"), "of the type 'relative_key'", "absolute positions"),
    ):
        with pytest.raises(UsageError) as refused:
            encoders.family_of(config, "T")
        assert what in str(refused.value) and hint in (refused.value.hint or "")
    for family in FAMILIES:
        assert encoders.family_of(config_of(family), "T") is encoders.FAMILIES[family]
