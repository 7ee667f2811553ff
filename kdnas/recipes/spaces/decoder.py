"""Which students a decoder's search may choose from: layers, heads, size of a head, feed-forward width, activation."""

from __future__ import annotations

from transformers import PreTrainedConfig

from kdnas.measuring.block_table import Block, uniform
from kdnas.models.decoders import Sizes, rotates_by_halves, sizes, width_of
from kdnas.recipes.spaces.narrowing import choices_of, dimension, require_whole
from kdnas.study.space import Candidate, SearchSpace, Value
from kdnas.study.spec import SpaceSpec, StudySpec
from kdnas.system.errors import BadOptionError, UsageError

ORDER = ("num_hidden_layers", "num_attention_heads", "head_size", "intermediate_size", "hidden_act")
LAYERS = (1, 2, 3, 4, 6, 8, 10, 12, 16, 20, 24, 32, 40, 48, 64, 80)
GROUPS = (1, 2, 3, 4, 6, 8, 10, 12, 16, 20, 24, 32)
INNER_SHARES = (0.125, 0.25, 0.375, 0.5, 0.75)
ACTIVATIONS = ("silu", "gelu_new", "gelu", "relu")
SMALLEST_HEAD = 16


def space_of(spec: SpaceSpec, config: PreTrainedConfig) -> SearchSpace:
    """Every student of the teacher's family that is no larger than it, as far as the spec allows it.

    The width is heads × size of a head (or the teacher's share of that), so that no invalid point exists. Grouped
    key-value heads keep the teacher's group, so that heads come in multiples of it. Raises UsageError for a dimension
    or value that cannot be.
    """
    own = sizes(config)
    halves = rotates_by_halves(config)
    given = choices_of(spec, ORDER)
    for name, values in given.items():
        for value in values:
            _check(name, value, own, halves)
    choices = {**_whole(own, halves), **given}
    return SearchSpace(tuple(dimension(name, choices[name], ordered=name != "hidden_act") for name in ORDER))


def _whole(own: Sizes, halves: bool) -> dict[str, tuple[Value, ...]]:
    size = own.head_size
    inner = {max(8, round(own.inner * share / 8) * 8) for share in INNER_SHARES}
    activations = (own.activation, *(a for a in ACTIVATIONS if a != own.activation))
    return {
        "num_hidden_layers": _upto(LAYERS, own.layers),
        "num_attention_heads": tuple(own.group * g for g in _upto(GROUPS, own.key_value_heads)),
        "head_size": (size // 2, size) if halves and size % 4 == 0 and size // 2 >= SMALLEST_HEAD else (size,),
        "intermediate_size": (*(i for i in inner if i < own.inner), own.inner),
        "hidden_act": activations[:3],
    }


def _upto(ladder: tuple[int, ...], top: int) -> tuple[int, ...]:
    return (*(step for step in ladder if step < top), top)


def _check(name: str, value: Value, own: Sizes, halves: bool) -> None:
    field = f"space.choices.{name}"
    if name == "hidden_act":
        if value not in (*ACTIVATIONS, own.activation):
            raise BadOptionError(field, f"{name} = {value!r} is no activation.", f"Known: {', '.join(ACTIVATIONS)}.")
        return
    limits = {
        "num_hidden_layers": own.layers,
        "num_attention_heads": own.heads,
        "head_size": own.head_size,
        "intermediate_size": own.inner,
    }
    require_whole(name, value, limits[name], "the teacher's own")
    if name == "num_attention_heads" and int(value) % own.group:
        raise BadOptionError(
            field,
            f"{name} = {value} does not keep the teacher's groups.",
            f"Give multiples of {own.group}: so many heads share one key-value head.",
        )
    if name == "head_size" and value != own.head_size and not halves:
        raise BadOptionError(
            field, f"{name} = {value} does not fit the teacher's rotary positions.", f"Give {own.head_size}, its own."
        )
    if name == "head_size" and (own.head_size % int(value) or int(value) % 2):
        raise BadOptionError(
            field, f"{name} = {value} does not fit.", f"Give an even number that divides the teacher's {own.head_size}."
        )


# ---------------------------------------------------------------------------- students as sums of blocks


def blocks_of(config: PreTrainedConfig, candidate: Candidate) -> tuple[Block, ...]:
    """The blocks of a student of a model of this configuration, of which equal ones take equal time."""
    heads, size = int(candidate["num_attention_heads"]), int(candidate["head_size"])
    words = f"{heads} heads of {size}, {candidate['intermediate_size']} neurons, {candidate['hidden_act']}"
    return uniform(int(candidate["num_hidden_layers"]), Block(width_of(sizes(config), heads, size), words))


def require_alike(spec: StudySpec, config: PreTrainedConfig, name: str) -> None:
    """Raise UsageError where the study adds blocks up, and those of the model attend in different ways."""
    kinds = sorted(set(getattr(config, "layer_types", None) or ()))
    if len(kinds) > 1 and (spec.strategy.predicts() or spec.latency.by == "blocks"):
        raise UsageError(
            f"Layers of {name!r} attend in {len(kinds)} ways ({', '.join(kinds)}), so that latencies of its students "
            "are no sum of equal blocks.",
            "Take another strategy than blocks, and latency.by = model.",
        )
