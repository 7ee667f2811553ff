"""Which students an encoder's search may choose from: layers, width, heads, feed-forward width, activation."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from math import lcm

from kdnas.models import encoders
from kdnas.models.encoder_sizes import LayerSizes, Sizes
from kdnas.recipes.spaces.narrowing import choices_of, dimension, require_whole
from kdnas.study.space import Candidate, SearchSpace, Value
from kdnas.study.spec import SpaceSpec
from kdnas.system.errors import BadOptionError, UsageError

ACTIVATIONS = ("gelu", "relu", "silu")
KD_NAS: dict[str, tuple[Value, ...]] = {
    "num_hidden_layers": (3, 4, 6, 10, 12),
    "num_attention_heads": (2, 3, 4, 6, 12),
    "hidden_size": (384, 768),
    "intermediate_size": tuple(range(384, 3073, 384)),
    "hidden_act": ACTIVATIONS,
}
ORDER = ("num_hidden_layers", "hidden_size", "head_size", "num_attention_heads", "intermediate_size", "hidden_act")


def space_of(spec: SpaceSpec, own: Sizes, closed: Collection[int] = ()) -> SearchSpace:
    """The product of choices for a teacher of these sizes, narrowed by the spec; every point builds a model.

    Every head size (or number of heads) divides every width, and no width is one of `closed`. Raises UsageError for
    what cannot be so.
    """
    given = choices_of(spec, ORDER, lists=True)
    if "head_size" in given and "num_attention_heads" in given:
        raise BadOptionError(
            "space.choices", "head_size and num_attention_heads are both given.", "Give one of the two."
        )
    by_heads = "num_attention_heads" in given or (spec.preset == "kd-nas" and "head_size" not in given)
    heads_name = "num_attention_heads" if by_heads else "head_size"
    for name, values in given.items():
        _check_values(name, values, own)
    choices: dict[str, tuple[Value, ...]] = _kd_nas(own) if spec.preset == "kd-nas" else _full(own)
    choices["hidden_size"] = _open(choices["hidden_size"], closed)
    for width in given.get("hidden_size", ()):
        if width in closed:
            raise BadOptionError(
                "space.choices.hidden_size",
                f"hidden_size = {width} is the teacher's embedding width, at which its family has no projection.",
                'Give another width, or recipe.init = "random".',
            )
    choices.update(given)
    if heads_name not in choices or heads_name not in given:
        choices[heads_name] = _heads_default(heads_name, choices, given, own, spec.preset)
    if "hidden_size" not in given and heads_name in given:
        fitting = tuple(w for w in choices["hidden_size"] if all(_fits(w, h) for h in given[heads_name]))
        choices["hidden_size"] = fitting or choices["hidden_size"]
    for width in choices["hidden_size"]:
        for heads in choices[heads_name]:
            if not _fits(width, heads):
                raise BadOptionError(
                    "space.choices",
                    f"hidden_size = {width} is not divisible by {heads_name} = {heads}.",
                    f"Narrow one of the two with space.choices, so that each {heads_name} divides each hidden_size.",
                )
    other = "head_size" if by_heads else "num_attention_heads"
    return SearchSpace(
        tuple(
            dimension(name, choices[name], ordered=name != "hidden_act")
            for name in ORDER
            if name != other and name in choices
        )
    )


def _open(widths: tuple[Value, ...], closed: Collection[int]) -> tuple[Value, ...]:
    left = tuple(width for width in widths if width not in closed)
    if not left:
        raise UsageError(
            "The teacher's embeddings have the only width of the space.", "Give space.choices.hidden_size."
        )
    return left


def _fits(width: Value, heads: Value) -> bool:
    return int(width) % int(heads) == 0


def _full(own: Sizes) -> dict[str, tuple[Value, ...]]:
    sizes = _head_sizes(own)
    step = lcm(*sizes)
    return {
        "num_hidden_layers": tuple(range(1, own.layers + 1)),
        "hidden_size": tuple(range(step, own.width + 1, step)),
        "intermediate_size": tuple(sorted({max(1, own.inner * k // 8) for k in range(1, 9)})),
        "hidden_act": tuple(dict.fromkeys((own.act, *ACTIVATIONS))),
    }


def _head_sizes(own: Sizes) -> tuple[int, ...]:
    """Half, the same and twice the teacher's head size, as far as they divide the teacher's width."""
    size = own.head_size
    wanted = [size // 2 if size % 2 == 0 and size >= 16 else size, size, size * 2]
    return tuple(sorted({s for s in wanted if own.width % s == 0}))


def _kd_nas(own: Sizes) -> dict[str, tuple[Value, ...]]:
    """KD-NAS's lists, nothing larger than the teacher."""
    limits = {"num_hidden_layers": own.layers, "hidden_size": own.width, "intermediate_size": own.inner}
    choices = dict(KD_NAS)
    for name, limit in limits.items():
        fitting = tuple(v for v in KD_NAS[name] if int(v) <= limit)
        if not fitting:
            raise UsageError(
                f"The preset kd-nas has no {name} as small as this teacher's {limit}.",
                f"Take the preset full, or give space.choices.{name}.",
            )
        choices[name] = fitting
    del choices["num_attention_heads"]
    return choices


def _heads_default(
    name: str,
    choices: Mapping[str, Sequence[Value]],
    given: Mapping[str, Sequence[Value]],
    own: Sizes,
    preset: str,
) -> tuple[Value, ...]:
    widths = [int(w) for w in choices["hidden_size"]]
    offered = KD_NAS["num_attention_heads"] if preset == "kd-nas" and name != "head_size" else _head_sizes(own)
    fitting = tuple(h for h in offered if all(_fits(w, h) for w in widths))
    if not fitting:
        raise BadOptionError(
            "space.choices",
            f"No default head size divides hidden_size = {', '.join(map(str, widths))}.",
            "Give space.choices.num_attention_heads too.",
        )
    return fitting


def _check_values(name: str, values: Sequence[Value], own: Sizes) -> None:
    limits = {"num_hidden_layers": own.layers, "intermediate_size": own.inner}
    for value in values:
        if name != "hidden_act":
            require_whole(name, value, limits.get(name, own.width), "the teacher's own size")
        elif not isinstance(value, str) or not encoders.known_activation(value):
            raise BadOptionError(
                f"space.choices.{name}",
                f"{name} = {value!r} is no activation.",
                f"Known: {', '.join(ACTIVATIONS)} and others.",
            )


def of_layer(name: str, layer: int) -> str:
    """What a dimension of one layer is called in a space of layers that differ; they are counted from 1, the lowest."""
    return f"{name}_{layer}"


def layered(candidate: Mapping[str, Value]) -> bool:
    """Whether a candidate has sizes for each layer."""
    return of_layer("num_attention_heads", 1) in candidate


def sizes_of(candidate: Candidate) -> Sizes:
    """What a point of the space means, or of one of layers that differ."""
    width = int(candidate["hidden_size"])
    if layered(candidate):
        each = [
            LayerSizes(*(int(candidate[of_layer(name, i)]) for name in ("num_attention_heads", "intermediate_size")))
            for i in range(1, int(candidate["num_hidden_layers"]) + 1)
        ]
        return Sizes.of_layers(width, int(candidate["head_size"]), str(candidate["hidden_act"]), each)
    heads = candidate.get("num_attention_heads")
    return Sizes(
        int(candidate["num_hidden_layers"]),
        width,
        int(heads) if heads is not None else width // int(candidate["head_size"]),
        int(candidate["intermediate_size"]),
        str(candidate["hidden_act"]),
    )
