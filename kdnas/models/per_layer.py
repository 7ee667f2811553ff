"""Encoders whose layers differ in attention heads and in neurons: BERT, RoBERTa, XLM-R, DistilBERT and ELECTRA.

This file is all that such a model needs besides transformers. A copy of it lies in every folder that kdnas writes, as
`modeling_per_layer.py`, so that `AutoModel.from_pretrained(FOLDER, trust_remote_code=True)` opens it where kdnas is not
installed; where it is, importing this module registers the classes. Each is its family's own class with other linear
layers: width and head size are the configuration's, `layer_heads` and `layer_neurons` are lists of one number a layer.
Trains nothing.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    DistilBertModel,
    ElectraConfig,
    ElectraForSequenceClassification,
    ElectraModel,
    RobertaConfig,
    RobertaForSequenceClassification,
    RobertaModel,
    XLMRobertaConfig,
    XLMRobertaForSequenceClassification,
    XLMRobertaModel,
)

USUAL = ("attention.self", ("query", "key", "value"), "attention.output.dense", "intermediate.dense", "output.dense")
DISTILBERT = ("attention", ("q_lin", "k_lin", "v_lin"), "attention.out_lin", "ffn.lin1", "ffn.lin2")


def resize(body: Any) -> None:
    """Give each layer of a body its own numbers of heads and neurons, in fresh linear layers. In place."""
    config = body.config
    layers = body.transformer.layer if hasattr(body, "transformer") else body.encoder.layer
    attention, reads, out, up, down = DISTILBERT if hasattr(body, "transformer") else USUAL
    width, spread = config.hidden_size, config.initializer_range
    size = width // config.num_attention_heads
    for layer, heads, neurons in zip(layers, config.layer_heads, config.layer_neurons, strict=True):
        inner = heads * size
        itself = layer.get_submodule(attention)
        for name in reads:
            setattr(itself, name, _linear(width, inner, spread))
        for name, inputs, outputs in ((out, inner, width), (up, width, neurons), (down, neurons, width)):
            parent, _, leaf = name.rpartition(".")
            setattr(layer.get_submodule(parent), leaf, _linear(inputs, outputs, spread))
        # What the families' classes say of themselves; some releases of transformers compute with it.
        told = {"n_heads": heads, "num_attention_heads": heads, "dim": inner, "all_head_size": inner}
        for name, value in told.items():
            if hasattr(itself, name):
                setattr(itself, name, value)


def _linear(inputs: int, outputs: int, spread: float) -> nn.Linear:
    made = nn.Linear(inputs, outputs)
    nn.init.normal_(made.weight, std=spread)
    nn.init.zeros_(made.bias)
    return made


class PerLayerBertConfig(BertConfig):
    model_type = "kdnas-per-layer-bert"


class PerLayerBertModel(BertModel):
    config_class = PerLayerBertConfig

    def __init__(self, config: PerLayerBertConfig, add_pooling_layer: bool = True) -> None:
        super().__init__(config, add_pooling_layer=add_pooling_layer)
        resize(self)


class PerLayerBertForSequenceClassification(BertForSequenceClassification):
    config_class = PerLayerBertConfig

    def __init__(self, config: PerLayerBertConfig) -> None:
        super().__init__(config)
        resize(self.bert)


class PerLayerRobertaConfig(RobertaConfig):
    model_type = "kdnas-per-layer-roberta"


class PerLayerRobertaModel(RobertaModel):
    config_class = PerLayerRobertaConfig

    def __init__(self, config: PerLayerRobertaConfig, add_pooling_layer: bool = True) -> None:
        super().__init__(config, add_pooling_layer=add_pooling_layer)
        resize(self)


class PerLayerRobertaForSequenceClassification(RobertaForSequenceClassification):
    config_class = PerLayerRobertaConfig

    def __init__(self, config: PerLayerRobertaConfig) -> None:
        super().__init__(config)
        resize(self.roberta)


class PerLayerXLMRobertaConfig(XLMRobertaConfig):
    model_type = "kdnas-per-layer-xlm-roberta"


class PerLayerXLMRobertaModel(XLMRobertaModel):
    config_class = PerLayerXLMRobertaConfig

    def __init__(self, config: PerLayerXLMRobertaConfig, add_pooling_layer: bool = True) -> None:
        super().__init__(config, add_pooling_layer=add_pooling_layer)
        resize(self)


class PerLayerXLMRobertaForSequenceClassification(XLMRobertaForSequenceClassification):
    config_class = PerLayerXLMRobertaConfig

    def __init__(self, config: PerLayerXLMRobertaConfig) -> None:
        super().__init__(config)
        resize(self.roberta)


class PerLayerDistilBertConfig(DistilBertConfig):
    model_type = "kdnas-per-layer-distilbert"


class PerLayerDistilBertModel(DistilBertModel):
    config_class = PerLayerDistilBertConfig

    def __init__(self, config: PerLayerDistilBertConfig) -> None:
        super().__init__(config)
        resize(self)


class PerLayerDistilBertForSequenceClassification(DistilBertForSequenceClassification):
    config_class = PerLayerDistilBertConfig

    def __init__(self, config: PerLayerDistilBertConfig) -> None:
        super().__init__(config)
        resize(self.distilbert)


class PerLayerElectraConfig(ElectraConfig):
    model_type = "kdnas-per-layer-electra"


class PerLayerElectraModel(ElectraModel):
    config_class = PerLayerElectraConfig

    def __init__(self, config: PerLayerElectraConfig) -> None:
        super().__init__(config)
        resize(self)


class PerLayerElectraForSequenceClassification(ElectraForSequenceClassification):
    config_class = PerLayerElectraConfig

    def __init__(self, config: PerLayerElectraConfig) -> None:
        super().__init__(config)
        resize(self.electra)


CLASSES: tuple[tuple[Any, Any, Any], ...] = (
    (PerLayerBertConfig, PerLayerBertModel, PerLayerBertForSequenceClassification),
    (PerLayerRobertaConfig, PerLayerRobertaModel, PerLayerRobertaForSequenceClassification),
    (PerLayerXLMRobertaConfig, PerLayerXLMRobertaModel, PerLayerXLMRobertaForSequenceClassification),
    (PerLayerDistilBertConfig, PerLayerDistilBertModel, PerLayerDistilBertForSequenceClassification),
    (PerLayerElectraConfig, PerLayerElectraModel, PerLayerElectraForSequenceClassification),
)
for _config, _body, _classifier in CLASSES:
    AutoConfig.register(_config.model_type, _config, exist_ok=True)
    AutoModel.register(_config, _body, exist_ok=True)
    AutoModelForSequenceClassification.register(_config, _classifier, exist_ok=True)
