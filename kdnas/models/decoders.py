"""Decoder families: their sizes, which configuration a candidate means, and students cut out of their teacher.

GPT-2 and Llama (with Mistral, Qwen2 and Qwen3, which share its layout). Knows no loss and no data.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights

from kdnas.models.layer_choice import spread
from kdnas.study.space import Candidate
from kdnas.system.errors import UsageError

FAMILIES = ("gpt2", "llama", "mistral", "qwen2", "qwen3")


@dataclass(frozen=True)
class Sizes:
    """The sizes of a decoder, in one vocabulary for all families."""

    layers: int
    heads: int
    key_value_heads: int
    head_size: int
    width: int
    inner: int
    activation: str
    vocabulary: int
    positions: int

    @property
    def group(self) -> int:
        """Query heads that share one key-value head."""
        return self.heads // self.key_value_heads


def sizes(config: PreTrainedConfig) -> Sizes:
    """The sizes in a configuration. Raises UsageError for a family that is not a known decoder."""
    if config.model_type not in FAMILIES:
        raise UsageError(
            f"{config.model_type!r} models are no decoders that this recipe knows.",
            f"Give a teacher of one of these families: {', '.join(FAMILIES)}.",
        )
    if config.model_type == "gpt2":
        if config.add_cross_attention:
            raise UsageError("A GPT-2 with cross-attention is no causal language model.", "Give a plain GPT-2.")
        return Sizes(
            layers=config.n_layer,
            heads=config.n_head,
            key_value_heads=config.n_head,
            head_size=config.n_embd // config.n_head,
            width=config.n_embd,
            inner=config.n_inner if config.n_inner is not None else 4 * config.n_embd,
            activation=config.activation_function,
            vocabulary=config.vocab_size,
            positions=config.n_positions,
        )
    heads = config.num_attention_heads
    return Sizes(
        layers=config.num_hidden_layers,
        heads=heads,
        key_value_heads=config.num_key_value_heads or heads,
        head_size=getattr(config, "head_dim", None) or config.hidden_size // heads,
        width=config.hidden_size,
        inner=config.intermediate_size,
        activation=config.hidden_act,
        vocabulary=config.vocab_size,
        positions=config.max_position_embeddings,
    )


def rotates_by_halves(config: PreTrainedConfig) -> bool:
    """Whether every second rotary frequency of a head is what a head of half the size has; True without any."""
    rotary = getattr(config, "rope_parameters", None) or {}
    plain = rotary.get("rope_type", "default") in ("default", "linear", "dynamic", "llama3")
    return plain and float(rotary.get("partial_rotary_factor") or 1.0) == 1.0


def student_config(
    teacher: PreTrainedConfig, candidate: Mapping[str, Any], sources: Sequence[int] | None = None
) -> PreTrainedConfig:
    """The teacher's configuration with the candidate's sizes: what is not a size (eps, positions, rotary base, special
    tokens) stays the teacher's. `sources` are the teacher's layers that it keeps, by default evenly spaced ones."""
    whole = sizes(teacher)
    layers, heads = int(candidate["num_hidden_layers"]), int(candidate["num_attention_heads"])
    width = width_of(whole, heads, int(candidate["head_size"]))
    size, inner = int(candidate["head_size"]), int(candidate["intermediate_size"])
    values = copy.deepcopy(teacher.to_dict())
    for key in ("_name_or_path", "quantization_config", "transformers_version", "architectures", "torch_dtype"):
        values.pop(key, None)
    values["dtype"] = "float32"
    if teacher.model_type == "gpt2":
        values |= {"n_layer": layers, "n_head": heads, "n_embd": width, "n_inner": inner}
        values["activation_function"] = str(candidate["hidden_act"])
    else:
        values |= {"num_hidden_layers": layers, "num_attention_heads": heads, "hidden_size": width}
        values |= {"num_key_value_heads": heads // whole.group, "intermediate_size": inner, "head_dim": size}
        values["hidden_act"] = str(candidate["hidden_act"])
        if values.get("layer_types"):
            kept = spread(layers, whole.layers) if sources is None else sources
            values["layer_types"] = [values["layer_types"][i] for i in kept]
    values.pop("model_type")
    return AutoConfig.for_model(teacher.model_type, **values)


def width_of(whole: Sizes, heads: int, size: int) -> int:
    """The student's hidden size: its heads side by side where the teacher's is that. Else the share of the teacher's
    that its heads have of the teacher's heads, in multiples of their number."""
    attended, own = heads * size, whole.heads * whole.head_size
    if whole.width == own or attended == own:
        return attended if whole.width == own else whole.width
    return max(1, whole.width * attended // own // heads) * heads


def fresh(config: PreTrainedConfig, seed: int) -> PreTrainedModel:
    """A student with random weights, drawn from the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _model(config)


def _model(config: PreTrainedConfig) -> PreTrainedModel:
    """Without dropout, whatever the teacher had: the targets are exact and the budget is short."""
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="sdpa")
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


# ---------------------------------------------------------------------------- cutting a student out of its teacher


@dataclass(frozen=True)
class Importance:
    """How much each part of a decoder carries on real text; larger is kept first.

    `channels` [width]: variance of the blocks' outputs over tokens, each layer scaled to one, summed over layers.
    `groups` [layers, key-value heads]: mean squared context of the group's heads times that of their outgoing weights.
    `units` [layers, inner]: mean |activation| times the norm of the unit's outgoing weights.
    """

    channels: Tensor
    groups: Tensor
    units: Tensor

    def tensors(self) -> dict[str, Tensor]:
        return {"channels": self.channels, "groups": self.groups, "units": self.units}


@dataclass(frozen=True)
class DecoderCut:
    """What a student keeps of its teacher. Heads and feed-forward units are chosen layer by layer."""

    layers: tuple[int, ...]
    channels: Tensor  # [student width] of the residual stream, the same in every layer
    groups: tuple[Tensor, ...]  # per kept layer: key-value heads, with all query heads of each
    units: tuple[Tensor, ...]  # per kept layer: feed-forward units
    sharpen: tuple[float, ...]  # per kept layer: factor on the queries, so that the kept logits stay what they were
    normed: bool = False  # whether queries and keys have norms of their own, which undo such a factor before them


@torch.inference_mode()
def importance(teacher: PreTrainedModel, ids: Tensor, batch_size: int = 8) -> Importance:
    """Measured on the chunks `ids` [chunks, length], on the teacher's device."""
    whole = sizes(teacher.config)
    gpt2 = teacher.config.model_type == "gpt2"
    body, _ = body_and_head(teacher)
    first = torch.zeros(whole.layers, whole.width, dtype=torch.float64)
    second = torch.zeros_like(first)
    context = torch.zeros(whole.layers, whole.heads * whole.head_size, dtype=torch.float64)
    active = torch.zeros(whole.layers, whole.inner, dtype=torch.float64)
    outs: list[Tensor] = []
    downs: list[Tensor] = []
    hooks = []

    def watch(module: torch.nn.Module, into: Tensor, absolute: bool) -> None:
        def hook(_module: torch.nn.Module, given: tuple[Tensor, ...]) -> None:
            value = given[0].flatten(0, -2).to("cpu", torch.float64)  # not every accelerator has float64
            into.add_((value.abs() if absolute else value.square()).sum(0))

        hooks.append(module.register_forward_pre_hook(hook))

    for i in range(whole.layers):
        out = body.get_submodule(f"h.{i}.attn.c_proj" if gpt2 else f"layers.{i}.self_attn.o_proj")
        down = body.get_submodule(f"h.{i}.mlp.c_proj" if gpt2 else f"layers.{i}.mlp.down_proj")
        watch(out, context[i], False)
        watch(down, active[i], True)
        for module, norms in ((out, outs), (down, downs)):
            weight = module.get_parameter("weight").detach().to("cpu", torch.float64)
            norms.append(weight.square().sum(1 if gpt2 else 0))  # Conv1D keeps [in, out], Linear [out, in]
    tokens = 0
    try:
        for part in ids.split(batch_size):
            states = body(input_ids=part.to(teacher.device), use_cache=False, output_hidden_states=True).hidden_states
            tokens += part.numel()
            for i, state in enumerate(states[1:]):
                flat = state.flatten(0, 1).to("cpu", torch.float64)
                first[i] += flat.sum(0)
                second[i] += flat.square().sum(0)
    finally:
        for one in hooks:
            one.remove()
    variance = (second / tokens - (first / tokens).square()).clamp_min(0)
    channels = (variance / variance.mean(1, keepdim=True).clamp_min(1e-12)).sum(0)
    carried = context / tokens * torch.stack(outs)
    groups = carried.view(whole.layers, whole.key_value_heads, -1).sum(-1)
    return Importance(channels, groups, active / tokens * torch.stack(downs).sqrt())


def inherited(teacher: PreTrainedModel, config: PreTrainedConfig, importance: Importance) -> PreTrainedModel:
    """A student that starts as its teacher's most important part, in float32 on the CPU, without dropout."""
    student = unset(config)
    cut = cut_of(teacher.config, config, importance)
    student.load_state_dict(sliced(teacher.state_dict(), student.state_dict(), teacher.config, config, cut))
    student.tie_weights()
    return student


def unset(config: PreTrainedConfig) -> PreTrainedModel:
    """A student whose weights are still to be written, in float32 on the CPU, without dropout."""
    with no_init_weights():
        student = _model(config)
    student.tie_weights()
    return student


def cut_of(
    teacher: PreTrainedConfig, config: PreTrainedConfig, importance: Importance, sources: Sequence[int] | None = None
) -> DecoderCut:
    """What a student of the configuration keeps of its teacher: its most important parts, in the layers `sources`, by
    default evenly spaced ones."""
    whole, part = sizes(teacher), sizes(config)
    layers = tuple(spread(part.layers, whole.layers)) if sources is None else tuple(sources)
    return DecoderCut(
        layers,
        _top(importance.channels, part.width),
        tuple(_top(importance.groups[i], part.key_value_heads) for i in layers),
        tuple(_top(importance.units[i], part.inner) for i in layers),
        tuple(_sharpen(teacher, whole, part, i, source) for i, source in enumerate(layers)),
        normed=teacher.model_type == "qwen3",
    )


def sliced(
    weights: Mapping[str, Tensor],
    names: Iterable[str],
    teacher: PreTrainedConfig,
    config: PreTrainedConfig,
    cut: DecoderCut,
) -> dict[str, Tensor]:
    """Of the student's state by these names, what the cut leaves of the teacher's `weights`: float32 on the CPU."""
    whole, part = sizes(teacher), sizes(config)
    slicer = _gpt2_slice if teacher.model_type == "gpt2" else _llama_slice
    state = {}
    for name in names:
        place = _layer_of(name)
        source = name if place is None else name.replace(f".{place}.", f".{cut.layers[place]}.", 1)
        state[name] = slicer(weights[source].detach().float().cpu(), name, place, cut, whole, part).contiguous()
    return state


def _layer_of(name: str) -> int | None:
    """`transformer.h.3.…` and `model.layers.3.…` → 3."""
    for step in name.split("."):
        if step.isdigit():
            return int(step)
    return None


def _top(importance: Tensor, count: int) -> Tensor:
    """The places of the `count` largest, in their old order (the first of equals wins)."""
    order = torch.sort(importance, descending=True, stable=True).indices[:count]
    return order.sort().values


def _rows(heads: Tensor, whole: Sizes, part: Sizes, per_head: int, *, rotary: bool) -> Tensor:
    """Rows of a projection that belong to these key-value heads, `per_head` query heads each.

    Where a head shrinks, a rotary one keeps every second frequency: its pairs are (j, j + size/2), and every second of
    the teacher's frequencies θ^(−2j/size) is exactly the smaller head's own.
    """
    query = (heads[:, None] * per_head + torch.arange(per_head)).flatten()
    return (query[:, None] * whole.head_size + _within(whole, part, rotary=rotary)).flatten()


def _within(whole: Sizes, part: Sizes, *, rotary: bool) -> Tensor:
    """The places of a head that a smaller one keeps."""
    size, kept = whole.head_size, part.head_size
    if not rotary or kept == size:
        return torch.arange(kept)
    pairs = torch.arange(0, size // 2, size // kept)
    return torch.cat([pairs, pairs + size // 2])


def _sharpen(config: PreTrainedConfig, whole: Sizes, part: Sizes, layer: int, source: int) -> float:
    """Factor on the queries of a student's layer: undoes what the model divides the kept logits by in another place
    than in the teacher's, the root of a head's size and, in some GPT-2, the layer's number."""
    factor = float((part.head_size / whole.head_size) ** 0.5) if getattr(config, "scale_attn_weights", True) else 1.0
    if getattr(config, "scale_attn_by_inverse_layer_idx", False):
        factor *= (layer + 1) / (source + 1)
    return factor


def _llama_slice(tensor: Tensor, name: str, layer: int | None, cut: DecoderCut, whole: Sizes, part: Sizes) -> Tensor:
    if layer is None:  # embeddings, last norm, vocabulary head
        return tensor[..., cut.channels]
    groups, units, channels = cut.groups[layer], cut.units[layer], cut.channels
    if ".q_norm." in name or ".k_norm." in name:  # over the places of one head, the same for all heads
        kept = tensor[_within(whole, part, rotary=True)]
        return kept * cut.sharpen[layer] if ".q_norm." in name else kept
    if ".self_attn." in name:
        per_head = 1 if ".k_proj." in name or ".v_proj." in name else whole.group
        # Values meet only the output projection, which is cut the same way, so that any choice would do for them.
        rows = _rows(groups, whole, part, per_head, rotary=True)
        if ".o_proj." in name:
            return tensor[channels][:, rows] if tensor.ndim == 2 else tensor[channels]
        cut_down = tensor[rows][:, channels] if tensor.ndim == 2 else tensor[rows]
        return cut_down * cut.sharpen[layer] if ".q_proj." in name and not cut.normed else cut_down
    if ".mlp." in name:
        if ".down_proj." in name:
            return tensor[channels][:, units] if tensor.ndim == 2 else tensor[channels]
        return tensor[units][:, channels] if tensor.ndim == 2 else tensor[units]
    return tensor[channels]  # norms


def _gpt2_slice(tensor: Tensor, name: str, layer: int | None, cut: DecoderCut, whole: Sizes, part: Sizes) -> Tensor:
    if layer is None:
        return tensor[..., cut.channels]
    groups, units, channels = cut.groups[layer], cut.units[layer], cut.channels
    if ".attn." in name:
        rows = _rows(groups, whole, part, 1, rotary=False)
        if ".c_proj." in name:  # Conv1D keeps [in, out]
            return tensor[rows][:, channels] if tensor.ndim == 2 else tensor[channels]
        inner = whole.heads * whole.head_size
        three = torch.cat([rows + i * inner for i in range(3)])  # queries, keys and values side by side
        cut_down = tensor[channels][:, three] if tensor.ndim == 2 else tensor[three]
        cut_down[..., : len(rows)] *= cut.sharpen[layer]
        return cut_down
    if ".mlp." in name:
        if ".c_proj." in name:
            return tensor[units][:, channels] if tensor.ndim == 2 else tensor[channels]
        return tensor[channels][:, units] if tensor.ndim == 2 else tensor[units]
    return tensor[channels]


def body_and_head(model: PreTrainedModel) -> tuple[torch.nn.Module, torch.nn.Linear]:
    """The part that ends in hidden states [batch, length, width], and the vocabulary head over it."""
    head = model.get_output_embeddings()
    assert isinstance(head, torch.nn.Linear)
    body = model.get_decoder() if model.config.model_type != "gpt2" else model.transformer
    assert isinstance(body, torch.nn.Module)
    return body, head


def candidate_of(config: PreTrainedConfig) -> Candidate:
    """The point of the space that a configuration stands for."""
    own = sizes(config)
    return {
        "num_hidden_layers": own.layers,
        "num_attention_heads": own.heads,
        "head_size": own.head_size,
        "intermediate_size": own.inner,
        "hidden_act": own.activation,
    }


def count_parameters(config: PreTrainedConfig) -> int:
    """Parameters of a model of this configuration, tied ones once, counted without making it."""
    with torch.device("meta"):
        model = _model(config)
    model.tie_weights()
    return sum(p.numel() for p in model.parameters())


def flops(config: PreTrainedConfig, length: int) -> float:
    """Of one token in a forward pass with the vocabulary head: twice the weights that it meets, and its attention."""
    own = sizes(config)
    attended = own.heads * own.head_size
    projections = own.width * attended * 2 + own.width * own.key_value_heads * own.head_size * 2
    feed_forward = own.width * own.inner * (2 if config.model_type == "gpt2" else 3)
    return 2.0 * (own.layers * (projections + feed_forward + length * attended) + own.width * own.vocabulary)
