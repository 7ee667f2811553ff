"""Encoders whose layers differ in heads and neurons: cut as uniform ones are, of the family's own classes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from kdnas.models import encoders
from kdnas.models.encoder_cut import sliced
from kdnas.models.encoders import PER_LAYER, LayerSizes, Sizes, position_offset
from tests.encoders import FAMILIES
from tests.models.test_encoder_cut import cut_of

OPEN = [name for name, family in encoders.FAMILIES.items() if not family.shared_layers]
DIFFER = Sizes.of_layers(24, 8, "gelu", [LayerSizes(2, 40), LayerSizes(4, 16)])
UNIFORM = Sizes.of_layers(24, 8, "gelu", [LayerSizes(3, 40), LayerSizes(3, 40)])


def test_layers_that_are_alike_and_as_wide_as_the_model_are_no_list() -> None:
    assert Sizes(2, 24, 3, 40, "gelu") == UNIFORM and not UNIFORM.each
    assert "each" not in UNIFORM.values() and len(DIFFER.values()["each"]) == 2
    fewer = Sizes.of_layers(24, 8, "gelu", [LayerSizes(2, 40), LayerSizes(2, 40)])
    assert fewer.each and (fewer.heads, fewer.head_size, fewer.layer(1)) == (3, 8, LayerSizes(2, 40))
    assert (DIFFER.heads, DIFFER.inner, UNIFORM.layer(1)) == (3, 40, LayerSizes(3, 40))


@pytest.mark.parametrize("name", OPEN)
def test_each_layer_is_cut_as_one_of_a_uniform_student_of_its_sizes(name: str) -> None:
    """Heads and neurons are those that a student with as many of them in all its layers would keep."""
    body, cut = cut_of(name, DIFFER)
    made = sliced(body.state_dict(), cut)
    family = cut.family
    for index, own in enumerate(DIFFER.each):
        _, alike = cut_of(name, Sizes(2, own.heads * 8, own.heads, own.inner, "gelu"))
        uniform = sliced(body.state_dict(), alike)
        prefix = family.layer_prefix(index)
        query = made[f"{prefix}{family.query}.weight"]
        assert query.shape == (own.heads * 8, 24)
        assert torch.equal(made[f"{prefix}{family.query}.bias"], uniform[f"{prefix}{family.query}.bias"])
        assert torch.equal(made[f"{prefix}{family.value}.bias"], uniform[f"{prefix}{family.value}.bias"])
        assert torch.equal(made[f"{prefix}{family.up}.bias"], uniform[f"{prefix}{family.up}.bias"])
        assert made[f"{prefix}{family.out}.weight"].shape == (24, own.heads * 8)
        assert made[f"{prefix}{family.down}.weight"].shape == (24, own.inner)


@pytest.mark.parametrize("name", OPEN)
def test_the_model_holds_these_weights_and_says_its_sizes(name: str) -> None:
    body, cut = cut_of(name, DIFFER)
    values = encoders.config_values(cut.family, cut.teacher, DIFFER)
    assert values["model_type"] == PER_LAYER + name
    weights = sliced(body.state_dict(), cut)
    made = encoders.inherit(values, weights, dict(body.named_buffers())).eval()
    own = made.state_dict()
    assert all(torch.equal(own[key], weights[key]) for key in own if "pooler" not in key)
    config = made.config
    assert cut.family.sizes(config) == DIFFER  # type: ignore[arg-type]
    assert position_offset(config) == position_offset(cut.teacher)  # type: ignore[arg-type]
    ids = torch.randint(5, 60, (2, 9), generator=torch.Generator().manual_seed(0))
    out = made(input_ids=ids, output_hidden_states=True)
    assert out.last_hidden_state.shape == (2, 9, 24) and len(out.hidden_states) == 3
    assert out.last_hidden_state.isfinite().all()
    parameters = sum(p.numel() for p in made.parameters())
    assert encoders.count_parameters(encoders.configure(values)) == parameters


@pytest.mark.parametrize("name", OPEN)
def test_a_uniform_list_computes_what_the_familys_own_class_does(name: str, tmp_path: Path) -> None:
    """All weights under the same names, so that one model's state is the other's."""
    values = {**FAMILIES[name], "layer_heads": [4] * 4, "layer_neurons": [64] * 4}
    import kdnas.models.per_layer  # noqa: F401, registers its classes

    own = AutoModelForSequenceClassification.from_config(AutoConfig.for_model(PER_LAYER + name, **values)).eval()
    plain = AutoModelForSequenceClassification.from_config(AutoConfig.for_model(name, **FAMILIES[name])).eval()
    plain.load_state_dict(own.state_dict())
    ids = torch.randint(5, 60, (2, 9), generator=torch.Generator().manual_seed(0))
    assert torch.equal(own(input_ids=ids).logits, plain(input_ids=ids).logits)
    code = encoders.carry_code(own.config, tmp_path)
    assert (
        code["AutoModel"].startswith("modeling_per_layer.PerLayer") and (tmp_path / "modeling_per_layer.py").is_file()
    )
    assert json.loads(json.dumps(own.config.to_dict(), default=str))["layer_heads"] == [4] * 4
