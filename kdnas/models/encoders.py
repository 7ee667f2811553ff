"""What kdnas must know of each encoder family: how its sizes are called, where its weights lie, how a body is built.

BERT (MiniLM too), RoBERTa, XLM-R, ALBERT, DistilBERT and ELECTRA; bodies without heads and poolers. What a student
takes of its teacher is `encoder_cut.py`'s.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, PretrainedConfig
from transformers.activations import ACT2FN

from kdnas.models.encoder_sizes import LayerSizes as LayerSizes
from kdnas.models.encoder_sizes import Sizes as Sizes
from kdnas.models.own_code import carried
from kdnas.system.errors import UsageError

PER_LAYER_FILE = "modeling_per_layer.py"  # in every such folder
PER_LAYER = "kdnas-per-layer-"  # before the family's model_type: models whose layers differ, see per_layer.py


@dataclass(frozen=True)
class Family:
    """Names within one `model_type`. Weight names are relative to a layer, without `.weight` and `.bias`."""

    model_type: str
    layers: str = "num_hidden_layers"
    width: str = "hidden_size"
    heads: str = "num_attention_heads"
    inner: str = "intermediate_size"
    act: str = "hidden_act"
    embedding: str | None = None  # the key of an embedding width of its own
    project: str | None = None  # the layer from embedding width to hidden width
    always_projects: bool = False  # even where the two are equal
    shared_layers: bool = False
    layer: str = "encoder.layer.{}."
    query: str = "attention.self.query"
    key: str = "attention.self.key"
    value: str = "attention.self.value"
    out: str = "attention.output.dense"
    up: str = "intermediate.dense"
    down: str = "output.dense"
    norm: str = "output.LayerNorm"  # at a layer's end
    pooler: str | None = "pooler.dense"
    head: tuple[str, ...] = ("classifier",)  # a classifier's layers after the body and its pooler

    def layer_prefix(self, index: int) -> str:
        return self.layer.format(0 if self.shared_layers else index)

    def length_limit(self, config: PretrainedConfig) -> int:
        """Most tokens that a sequence may have."""
        return int(config.max_position_embeddings) - position_offset(config)

    def sizes(self, config: PretrainedConfig) -> Sizes:
        each: tuple[LayerSizes, ...] = ()
        if config.model_type == PER_LAYER + self.model_type:
            each = tuple(map(LayerSizes, config.layer_heads, config.layer_neurons))
        return Sizes(
            int(getattr(config, self.layers)),
            int(getattr(config, self.width)),
            int(getattr(config, self.heads)),
            int(getattr(config, self.inner)),
            str(getattr(config, self.act)),
            each,
        )


_DENSE_HEAD = ("classifier.dense", "classifier.out_proj")
PADDED_POSITIONS = ("roberta", "xlm-roberta", "camembert")  # families whose positions begin after the padding id
FAMILIES: dict[str, Family] = {
    family.model_type: family
    for family in (
        Family("bert"),
        Family("roberta", head=_DENSE_HEAD),
        Family("xlm-roberta", head=_DENSE_HEAD),
        Family(
            "albert",
            embedding="embedding_size",
            project="encoder.embedding_hidden_mapping_in",
            always_projects=True,
            shared_layers=True,
            layer="encoder.albert_layer_groups.{}.albert_layers.0.",
            query="attention.query",
            key="attention.key",
            value="attention.value",
            out="attention.dense",
            up="ffn",
            down="ffn_output",
            norm="full_layer_layer_norm",
            pooler="pooler",
        ),
        Family(
            "distilbert",
            layers="n_layers",
            width="dim",
            heads="n_heads",
            inner="hidden_dim",
            act="activation",
            layer="transformer.layer.{}.",
            query="attention.q_lin",
            key="attention.k_lin",
            value="attention.v_lin",
            out="attention.out_lin",
            up="ffn.lin1",
            down="ffn.lin2",
            norm="output_layer_norm",
            pooler=None,
            head=("pre_classifier", "classifier"),
        ),
        Family("electra", embedding="embedding_size", project="embeddings_project", pooler=None, head=_DENSE_HEAD),
    )
}


PER_LAYER_TYPES = tuple(PER_LAYER + name for name, family in FAMILIES.items() if not family.shared_layers)


def position_offset(config: PretrainedConfig) -> int:
    """Positions that no token of a text takes."""
    if config.model_type.removeprefix(PER_LAYER) not in PADDED_POSITIONS:
        return 0
    return 2 if config.pad_token_id is None else int(config.pad_token_id) + 1


def family_of(config: PretrainedConfig, name: str) -> Family:
    """The family of a teacher. Raises UsageError for one that the recipe cannot take."""
    family = FAMILIES.get(config.model_type)
    if family is None:
        raise UsageError(
            f"The teacher {name!r} is of the family {config.model_type!r}, which this recipe does not take.",
            f"Take one of: {', '.join(FAMILIES)}.",
        )
    if family.shared_layers and (config.num_hidden_groups != 1 or config.inner_group_num != 1):
        raise UsageError(f"The teacher {name!r} has several groups of shared layers.", "Take an ALBERT with one group.")
    if getattr(config, "is_decoder", False):
        raise UsageError(f"The teacher {name!r} is a decoder.", "Take an encoder for hidden-state distillation.")
    positions = getattr(config, "position_embedding_type", None) or "absolute"
    if positions != "absolute":
        raise UsageError(
            f"The teacher {name!r} has positions of the type {positions!r}, which transformers no longer computes.",
            "Take a model with absolute positions.",
        )
    return family


def config_values(family: Family, teacher: PretrainedConfig, sizes: Sizes) -> dict[str, Any]:
    """The teacher's configuration with other sizes, as plain keys and values, `model_type` among them."""
    values = teacher.to_dict()
    for key in ("_name_or_path", "architectures", "transformers_version", "dtype", "torch_dtype"):
        values.pop(key, None)
    values.update(
        {
            "model_type": family.model_type,
            family.layers: sizes.layers,
            family.width: sizes.width,
            family.heads: sizes.heads,
            family.inner: sizes.inner,
            family.act: sizes.act,
        }
    )
    if family.embedding is not None and getattr(teacher, family.embedding) == getattr(teacher, family.width):
        values[family.embedding] = sizes.width  # without a projection in the teacher, embeddings follow the width
    if sizes.each:
        values["model_type"] = PER_LAYER + family.model_type
        values["layer_heads"] = [layer.heads for layer in sizes.each]
        values["layer_neurons"] = [layer.inner for layer in sizes.each]
    return values


def closed_widths(family: Family, teacher: PretrainedConfig) -> frozenset[int]:
    """Widths that no student cut out of the teacher can have: at its embeddings' own width a model has no projection,
    so that its layers would read embeddings in place of hidden dimensions."""
    if family.embedding is None or family.always_projects:
        return frozenset()
    width = int(getattr(teacher, family.embedding))
    return frozenset() if width == int(getattr(teacher, family.width)) else frozenset({width})


def configure(values: Mapping[str, Any]) -> PretrainedConfig:
    keys = dict(values)
    if str(keys["model_type"]).startswith(PER_LAYER):
        import kdnas.models.per_layer  # noqa: F401, registers its classes
    return AutoConfig.for_model(keys.pop("model_type"), **keys)


def carry_code(config: PretrainedConfig, folder: Path) -> dict[str, str]:
    """Put the code of a model whose layers differ into its folder; the `auto_map` of its configuration."""
    from kdnas.models import per_layer

    own = next(classes for classes in per_layer.CLASSES if classes[0] is type(config))
    autos = ("AutoConfig", "AutoModel", "AutoModelForSequenceClassification")
    return carried(folder, per_layer, PER_LAYER_FILE, dict(zip(autos, own, strict=True)))


def known_activation(name: str) -> bool:
    return name in ACT2FN


def takes_pooler(config: PretrainedConfig) -> bool:
    model: Any = AutoModel._model_mapping[type(config)]
    return "add_pooling_layer" in inspect.signature(model[0] if isinstance(model, tuple) else model).parameters


def body_arguments(config: PretrainedConfig) -> dict[str, Any]:
    """What `from_config` and `from_pretrained` need for a body alone: fp32, SDPA, no pooler."""
    without = {"add_pooling_layer": False} if takes_pooler(config) else {}
    return {"dtype": torch.float32, "attn_implementation": "sdpa", **without}


def build_body(config: PretrainedConfig) -> torch.nn.Module:
    """A body with its family's own random initialisation, without dropout.

    Dropout is off in students, whatever the teacher had: the targets are exact, the budget is short, and noise in
    the student's own path is error that it cannot learn away. The teacher's rates stay in the configuration.
    """
    body = AutoModel.from_config(config, **body_arguments(config))
    return without_dropout(body)


def without_dropout(body: torch.nn.Module) -> torch.nn.Module:
    for module in body.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return body


def count_parameters(config: PretrainedConfig) -> int:
    """Parameters of a body of this configuration, counted without making it."""
    with torch.device("meta"):
        body = AutoModel.from_config(config, **body_arguments(config))
    return sum(p.numel() for p in body.parameters())


def inherit(
    values: Mapping[str, Any], weights: Mapping[str, torch.Tensor], buffers: Mapping[str, torch.Tensor]
) -> torch.nn.Module:
    """A body that holds the given weights, made without a random initialisation that they would overwrite."""
    config = configure(values)
    with torch.device("meta"):
        body = AutoModel.from_config(config, **body_arguments(config))
    own = {name for name, _ in body.named_parameters()}
    body.load_state_dict({n: t for n, t in weights.items() if n in own}, strict=False, assign=True)
    for name, buffer in buffers.items():  # position and segment ids, equal in teacher and student
        module, _, leaf = name.rpartition(".")
        body.get_submodule(module).register_buffer(leaf, buffer.clone(), persistent=False)
    for name, parameter in body.named_parameters():
        if parameter.is_meta:
            raise ValueError(f"the teacher has no weights for {name}")
    body.requires_grad_(True)
    return without_dropout(body)
