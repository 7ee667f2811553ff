"""Which parts of a teacher a smaller encoder takes: how much each part carries on real text, and the slices.

Builds no model, and solves nothing (`least_squares_init.py` does). Knows no loss and no data.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from transformers import PretrainedConfig

from kdnas.models.encoders import Family, Sizes


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
