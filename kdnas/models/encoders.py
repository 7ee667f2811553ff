"""What kdnas must know of each encoder family: how its sizes are called, where its weights lie, how to slice them.

BERT (MiniLM too), RoBERTa, XLM-R, ALBERT, DistilBERT and ELECTRA. Builds bodies without heads and poolers. Knows no
loss and no data.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
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


# ---------------------------------------------------------------- importance and slices


@dataclass(frozen=True)
class Importance:
    """How much each part of the teacher carries on real text; larger is kept first.

    `width` [hidden]: variance of the block outputs over tokens, each layer scaled to one, summed over layers.
    `inner` [layers, intermediate]: mean |activation| times the norm of the neuron's outgoing weights.
    `query` [layers, heads, head size]: root of E[q²]·E[k²], the share of a dimension in the attention's logits.
    `value` [layers, heads, head size]: root of E[context²] times the norm of the outgoing weights; its norm over a
    head is the head's own importance.
    """

    width: torch.Tensor
    inner: torch.Tensor
    query: torch.Tensor
    value: torch.Tensor

    def tensors(self) -> dict[str, torch.Tensor]:
        return {"width": self.width, "inner": self.inner, "query": self.query, "value": self.value}


@torch.inference_mode()
def importance(body: torch.nn.Module, family: Family, ids: torch.Tensor, batch_size: int = 8) -> Importance:
    """Measured on the chunks `ids` [chunks, length], on the body's device."""
    config: PretrainedConfig = body.config  # type: ignore[assignment]
    sizes = family.sizes(config)
    modules = dict(body.named_modules())
    calls: dict[str, torch.Tensor] = {}
    counts: dict[str, int] = {}

    def watch(module_name: str, of_input: bool, absolute: bool):  # type: ignore[no-untyped-def]
        def hook(_module: torch.nn.Module, given: tuple[torch.Tensor, ...], result: torch.Tensor) -> None:
            # A shared layer is called once for each depth: the calls of one pass are numbered.
            depth = counts.get(module_name, 0)
            counts[module_name] = depth + 1
            # Summed on the CPU: not every accelerator has float64.
            value = (given[0] if of_input else result).flatten(0, -2).to("cpu", torch.float64)
            figure = value.abs().sum(0) if absolute else value.square().sum(0)
            name = f"{module_name}@{depth}" if family.shared_layers else module_name
            calls[name] = calls.get(name, 0) + figure

        return modules[module_name].register_forward_hook(hook)

    names = {family.layer_prefix(i) for i in range(sizes.layers)}
    hooks = []
    for prefix in sorted(names):
        hooks.append(watch(prefix + family.query, False, False))
        hooks.append(watch(prefix + family.key, False, False))
        hooks.append(watch(prefix + family.out, True, False))
        hooks.append(watch(prefix + family.down, True, True))
    first = torch.zeros(sizes.layers, sizes.width, dtype=torch.float64)
    second = torch.zeros_like(first)
    tokens = 0
    try:
        for part in ids.split(batch_size):
            counts.clear()
            states = body(input_ids=part.to(body.device), output_hidden_states=True).hidden_states[1:]
            tokens += part.numel()
            for i, state in enumerate(states):
                flat = state.flatten(0, 1).to("cpu", torch.float64)
                first[i] += flat.sum(0)
                second[i] += flat.square().sum(0)
    finally:
        for hook in hooks:
            hook.remove()
    variance = (second / tokens - (first / tokens).square()).clamp_min(0)
    width = (variance / variance.mean(1, keepdim=True).clamp_min(1e-12)).sum(0)
    shape = (sizes.heads, sizes.head_size)
    query, value, inner = [], [], []
    weights = body.state_dict()
    for i in range(sizes.layers):
        prefix = family.layer_prefix(i)
        at = f"@{i}" if family.shared_layers else ""
        q, k = calls[prefix + family.query + at] / tokens, calls[prefix + family.key + at] / tokens
        context, activation = calls[prefix + family.out + at] / tokens, calls[prefix + family.down + at] / tokens
        query.append((q * k).sqrt().view(shape))
        value.append((context.sqrt() * weights[prefix + family.out + ".weight"].cpu().double().norm(dim=0)).view(shape))
        inner.append(activation * weights[prefix + family.down + ".weight"].cpu().double().norm(dim=0))
    return Importance(width, torch.stack(inner), torch.stack(query), torch.stack(value))


def best(scores: torch.Tensor, count: int) -> torch.Tensor:
    """Places of the `count` largest scores, in their own order; ties go to the earlier place."""
    return torch.sort(torch.sort(scores, descending=True, stable=True).indices[:count]).values


def attention_rows(
    query: torch.Tensor, value: torch.Tensor, heads: int, head_size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Which of the teacher's attention dimensions the student takes: (for query and key, for value and output).

    Given `query` and `value` [heads, head size] of the importance. As many or fewer heads of the same or a smaller
    size: the best heads, and in each its best dimensions. Otherwise the best heads laid end to end and cut anew.
    """
    own_heads, own_size = query.shape
    strength = value.norm(dim=1)
    if heads <= own_heads and head_size <= own_size:
        rows = best(strength, heads)
        narrow = [torch.cat([r * own_size + best(s[r], head_size) for r in rows.tolist()]) for s in (query, value)]
        return narrow[0], narrow[1]
    total = heads * head_size
    used = -(-total // own_size)
    rows = best(strength, used)
    flat = (rows[:, None] * own_size + torch.arange(own_size)[None]).flatten()[:total]
    return flat, flat


@dataclass(frozen=True)
class KeptParts:
    """What layer `index` of a student takes from the teacher's layer `source`, as places among the teacher's."""

    index: int
    source: int
    logits: torch.Tensor  # dimensions of query and key
    context: torch.Tensor  # dimensions of value and of attention's output
    neurons: torch.Tensor


@dataclass(frozen=True)
class EncoderCut:
    """Which of a teacher's parts a student takes: the best hidden dimensions everywhere, the best heads and neurons in
    each layer, layer i from the teacher's `sources[i]` (shared layers: from themselves)."""

    family: Family
    teacher: PretrainedConfig
    sizes: Sizes
    importance: Importance
    sources: Sequence[int]

    @cached_property
    def own(self) -> Sizes:
        """The teacher's sizes."""
        return self.family.sizes(self.teacher)

    @cached_property
    def width(self) -> torch.Tensor:
        return best(self.importance.width, self.sizes.width)

    @property
    def sharpen(self) -> float:
        """The queries' factor: what the kept dimensions give the logits stays as it was, though the student divides by
        its own √head size."""
        return (self.sizes.head_size / self.own.head_size) ** 0.5

    def layers(self) -> Iterator[KeptParts]:
        """What each layer of the student takes; shared layers come once."""
        for index, source in enumerate([0] if self.family.shared_layers else self.sources):
            depth = slice(None) if self.family.shared_layers else slice(source, source + 1)
            query, value, inner = (
                s[depth].mean(0) for s in (self.importance.query, self.importance.value, self.importance.inner)
            )
            own = self.sizes.layer(index)
            logits, context = attention_rows(query, value, own.heads, self.sizes.head_size)
            yield KeptParts(index, source, logits, context, best(inner, own.inner))


def sliced(weights: Mapping[str, torch.Tensor], cut: EncoderCut) -> dict[str, torch.Tensor]:
    """The student's weights as they are in the teacher's. Fresh tensors of the teacher's dtype."""
    family, width = cut.family, cut.width
    made: dict[str, torch.Tensor] = {}
    separate = family.embedding is not None and getattr(cut.teacher, family.embedding) != cut.own.width
    every_layer = tuple(family.layer_prefix(i) for i in range(cut.own.layers))
    for name, tensor in weights.items():
        if name.startswith(every_layer):
            continue
        if family.pooler is not None and name.startswith(family.pooler + "."):
            made[name] = _cut(tensor, width, width)
        elif family.project is not None and name.startswith(family.project + "."):
            made[name] = _cut(tensor, width, None if separate else width)
        elif separate:  # embeddings of a width of their own
            made[name] = tensor.clone()
        else:
            made[name] = tensor.index_select(-1, width)
    for parts in cut.layers():
        prefix, target = family.layer_prefix(parts.source), family.layer_prefix(parts.index)
        for name, tensor in weights.items():
            if not name.startswith(prefix):
                continue
            part = name.removeprefix(prefix)
            where = part.rpartition(".")[0]
            if where == family.query:
                kept = _cut(tensor, parts.logits, width) * cut.sharpen
            elif where == family.key:
                kept = _cut(tensor, parts.logits, width)
            elif where == family.value:
                kept = _cut(tensor, parts.context, width)
            elif where == family.out:
                kept = _cut(tensor, width, parts.context)
            elif where == family.up:
                kept = _cut(tensor, parts.neurons, width)
            elif where == family.down:
                kept = _cut(tensor, width, parts.neurons)
            else:  # layer norms
                kept = tensor.index_select(0, width)
            made[target + part] = kept
    return made


def _cut(tensor: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor | None) -> torch.Tensor:
    cut = tensor.index_select(0, rows)
    return cut if tensor.dim() == 1 or columns is None else cut.index_select(1, columns)


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
