"""What a folder of sentence-transformers says of itself: pooling, dense layers, normalisation, length and prompts.

Reads and writes its small files (modules.json and what it names); runs no model, and no code that a folder names.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from kdnas.data.shipped import MARK
from kdnas.system.errors import UsageError, first_line

MODULES, SETTINGS, LENGTH = "modules.json", "config_sentence_transformers.json", "sentence_bert_config.json"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
# In the order in which that library joins them where a folder asks for several by switches.
POOLINGS = {
    "cls": "pooling_mode_cls_token",
    "max": "pooling_mode_max_tokens",
    "mean": "pooling_mode_mean_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}
ACTIVATIONS = {
    "Identity": nn.Identity,
    "Tanh": nn.Tanh,
    "ReLU": nn.ReLU,
    "GELU": nn.GELU,
    "Sigmoid": nn.Sigmoid,
    "SiLU": nn.SiLU,
}
PLAIN = "Give --for transformers to have the student as a plain encoder."


@dataclass(frozen=True)
class Dense:
    """A linear layer on embeddings: weight [out, in], bias [out] or None, and the name of its activation."""

    weight: Tensor
    bias: Tensor | None
    activation: str = "Identity"

    def __call__(self, embeddings: Tensor) -> Tensor:
        """[rows, in] → [rows, out]."""
        bias = None if self.bias is None else self.bias.to(embeddings.device)
        made: Tensor = ACTIVATIONS[self.activation]()(
            nn.functional.linear(embeddings, self.weight.to(embeddings.device), bias)
        )
        return made


@dataclass(frozen=True)
class Normalise:
    """Embeddings divided by their length; a vector of nothing stays one."""

    def __call__(self, embeddings: Tensor) -> Tensor:
        return nn.functional.normalize(embeddings, dim=1)


Step = Dense | Normalise


@dataclass(frozen=True)
class Layout:
    """How a sentence encoder makes one vector of a text's hidden states. `steps` follow the pooling."""

    pooling: tuple[str, ...] = ("mean",)
    steps: tuple[Step, ...] = (Normalise(),)
    include_prompt: bool = True  # whether the tokens of a prompt are pooled too
    max_seq_length: int | None = None  # tokens, special ones among them
    do_lower_case: bool = False
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    similarity: str | None = None

    @property
    def normalised(self) -> bool:
        return bool(self.steps) and isinstance(self.steps[-1], Normalise)

    def width(self, hidden: int) -> int:
        """Of the embeddings, of states of width `hidden`."""
        dense = [step for step in self.steps if isinstance(step, Dense)]
        return int(dense[-1].weight.shape[0]) if dense else hidden * len(self.pooling)

    def finished(self, vectors: Tensor) -> Tensor:
        """What the steps make of pooled states [rows, width · poolings]: embeddings [rows, width]."""
        for step in self.steps:
            vectors = step(vectors)
        return vectors

    def facts(self) -> dict[str, Any]:
        """What `kdnas.json` says of it."""
        dense = [step for step in self.steps if isinstance(step, Dense)]
        return {
            "library": "sentence-transformers",
            "pooling": list(self.pooling),
            "width": dense[-1].weight.shape[0] if dense else None,
            "normalised": self.normalised,
            "max_seq_length": self.max_seq_length,
            "prompts": dict(self.prompts),
        }

    def student(self, weight: Tensor, bias: Tensor) -> Layout:
        """A student's: pooled as here, then one linear layer into this space, then normalised where this is."""
        last: tuple[Step, ...] = (Normalise(),) if self.normalised else ()
        return replace(self, steps=(Dense(weight, bias), *last))


# Folders that an earlier version unpacked hold no modules.json. Both wheels of this model do, with the 1_Pooling and
# the sentence_bert_config.json that say what stands here.
EARLIER = {"all-minilm-l6-v2": Layout(max_seq_length=256)}


def read(folder: Path, name: str) -> Layout | None:
    """The layout of a model folder; None for one that is no folder of sentence-transformers. `name` is for messages.

    Raises UsageError for files that cannot be read, and for modules that kdnas has no student for.
    """
    if not (folder / MODULES).is_file():
        return EARLIER.get(str(_object(folder / MARK, name).get("asset"))) if (folder / MARK).is_file() else None
    modules = _json(folder / MODULES, name)
    if not isinstance(modules, list) or not all(isinstance(one, dict) for one in modules):
        raise UsageError(f"The {MODULES} of {name!r} is no list of modules.", "Fetch the model again.")
    kinds = [_kind(one, name) for one in modules]
    if kinds[:2] != ["Transformer", "Pooling"]:
        raise UsageError(
            f"The model {name!r} begins with the modules {', '.join(kinds[:2]) or 'of nothing'}; kdnas takes a "
            "Transformer and a Pooling.",
            PLAIN,
        )
    pooling = _object(_below(folder, modules[1], name) / "config.json", name)
    steps: list[Step] = []
    for module, kind in zip(modules[2:], kinds[2:], strict=True):
        if kind == "Normalize":
            steps.append(Normalise())
        elif kind == "Dense":
            steps.append(_dense(_below(folder, module, name), name))
        elif kind != "Dropout":  # which does nothing to a model that is not in training
            raise UsageError(f"The model {name!r} has a module {kind!r}, which kdnas does not know.", PLAIN)
    lengths = _object(folder / LENGTH, name) if (folder / LENGTH).is_file() else {}
    settings = _object(folder / SETTINGS, name) if (folder / SETTINGS).is_file() else {}
    longest = lengths.get("max_seq_length")
    return Layout(
        pooling=_pooling(pooling, name),
        steps=tuple(steps),
        include_prompt=bool(pooling.get("include_prompt", True)),
        max_seq_length=longest if isinstance(longest, int) else None,
        do_lower_case=bool(lengths.get("do_lower_case", False)),
        prompts={str(key): str(text) for key, text in (settings.get("prompts") or {}).items()},
        default_prompt_name=settings.get("default_prompt_name"),
        similarity=settings.get("similarity_fn_name"),
    )


def begins_with(folder: Path, kind: str) -> bool:
    """Whether a folder's first module is of this kind. False too for what cannot be read."""
    try:
        first = json.loads((folder / MODULES).read_text(encoding="utf-8"))[0]
        return str(first["type"]).rpartition(".")[2] == kind
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return False


def read_static(folder: Path, name: str) -> Layout:
    """The layout of a folder whose first module gives vectors of whole texts. Raises UsageError."""
    modules = _json(folder / MODULES, name)
    kinds = [_kind(one, name) for one in modules]
    if kinds[1:] not in ([], ["Normalize"]):
        raise UsageError(f"The model {name!r} has the modules {', '.join(kinds)}, which kdnas does not know.", PLAIN)
    steps: tuple[Step, ...] = (Normalise(),) if kinds[1:] else ()
    settings = _object(folder / SETTINGS, name) if (folder / SETTINGS).is_file() else {}
    prompts = {str(key): str(text) for key, text in (settings.get("prompts") or {}).items()}
    return Layout(steps=steps, prompts=prompts, default_prompt_name=settings.get("default_prompt_name"))


def no_sentence_encoder(name: str) -> UsageError:
    return UsageError(
        f"The model {name!r} is no sentence encoder: it has no {MODULES}.",
        "Give a folder of sentence-transformers.",
    )


def _kind(module: Mapping[str, Any], name: str) -> str:
    kind = str(module.get("type", ""))
    if not kind.startswith("sentence_transformers."):
        raise UsageError(f"The model {name!r} has a module of its own code ({kind!r}), which kdnas never runs.", PLAIN)
    return kind.rpartition(".")[2]


def _pooling(values: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """The poolings that are asked for: by one name or a list of them, or by a switch for each."""
    named = values.get("pooling_mode")
    if named is not None:
        found = (named,) if isinstance(named, str) else tuple(map(str, named))
        odd = [one for one in found if one not in POOLINGS]
    else:
        odd = [key for key, on in values.items() if key.startswith("pooling_mode") and on and key not in _SWITCHES]
        found = tuple(one for one, key in POOLINGS.items() if values.get(key, False))
    if odd or not found:
        said = f"the pooling {', '.join(odd)}" if odd else "no pooling"
        raise UsageError(
            f"The model {name!r} has {said}; kdnas knows {', '.join(POOLINGS)}.",
            PLAIN,
        )
    return found


_SWITCHES = frozenset(POOLINGS.values())


def _dense(folder: Path, name: str) -> Dense:
    values = _object(folder / "config.json", name)
    activation = str(values.get("activation_function", "torch.nn.modules.activation.Tanh")).rpartition(".")[2]
    if activation not in ACTIVATIONS:
        raise UsageError(
            f"A Dense module of {name!r} has the activation {activation!r}; kdnas knows {', '.join(ACTIVATIONS)}.",
            PLAIN,
        )
    for key in ("module_input_name", "module_output_name"):
        if values.get(key) not in (None, "sentence_embedding"):
            raise UsageError(f"A Dense module of {name!r} works on {values[key]!r}, not on embeddings.", PLAIN)
    weights = _weights(folder, name)
    if "linear.weight" not in weights:
        raise UsageError(f"{folder} holds no weights of a Dense module.", "Fetch the model again.")
    bias = weights.get("linear.bias")
    return Dense(weights["linear.weight"].float(), None if bias is None else bias.float(), activation)


def _weights(folder: Path, name: str) -> dict[str, Tensor]:
    path = next((folder / file for file in WEIGHTS if (folder / file).is_file()), None)
    if path is None:
        raise UsageError(f"{folder} holds no weights ({' or '.join(WEIGHTS)}).", "Fetch the model again.")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except (OSError, SafetensorError, RuntimeError, ValueError, KeyError, EOFError, _unpickling()) as error:
        raise UsageError(f"{path} of {name!r} cannot be loaded: {first_line(error)}.", "Fetch it again.") from None


def _unpickling() -> type[Exception]:
    """What torch raises on a file that holds more than tensors."""
    from pickle import UnpicklingError

    return UnpicklingError


def _below(folder: Path, module: Mapping[str, Any], name: str) -> Path:
    """The folder of a module, which lies in the model's own."""
    path = (folder / str(module.get("path", ""))).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise UsageError(f"{MODULES} of {name!r} names a folder outside the model's.", "Take the model as published.")
    return folder / str(module.get("path", ""))


def _json(path: Path, name: str) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path.name} of {name!r} cannot be read: {first_line(error)}.", "Fetch it again.") from None


def _object(path: Path, name: str) -> dict[str, Any]:
    found = _json(path, name)
    if not isinstance(found, dict):
        raise UsageError(f"{path} of {name!r} is no JSON object.", "Fetch the model again.")
    return found


# ------------------------------------------------------------------------------------------------- writing


def write(folder: Path, layout: Layout, width: int) -> None:
    """Lay out a model folder, which holds the encoder already, for sentence-transformers. `width` is the encoder's."""
    modules: list[tuple[str, str]] = [("", "Transformer"), ("1_Pooling", "Pooling")]
    switches: dict[str, Any] = {key: one in layout.pooling for one, key in POOLINGS.items()}
    if tuple(one for one in POOLINGS if one in layout.pooling) != layout.pooling:  # an order that switches cannot say
        switches = {"pooling_mode": list(layout.pooling)}
    pooling = {"word_embedding_dimension": width, **switches, "include_prompt": layout.include_prompt}
    _write(folder / "1_Pooling" / "config.json", pooling)
    for place, step in enumerate(layout.steps, 2):
        if isinstance(step, Normalise):
            modules.append((f"{place}_Normalize", "Normalize"))
            (folder / f"{place}_Normalize").mkdir()
            continue
        path = folder / f"{place}_Dense"
        modules.append((path.name, "Dense"))
        weights = {"linear.weight": step.weight} | ({} if step.bias is None else {"linear.bias": step.bias})
        _write(path / "config.json", {
            "in_features": step.weight.shape[1],
            "out_features": step.weight.shape[0],
            "bias": step.bias is not None,
            "activation_function": _path_of(step.activation),
        })  # fmt: skip
        save_file({key: tensor.detach().cpu().contiguous() for key, tensor in weights.items()}, path / WEIGHTS[0])
    write_modules(folder, modules)
    _write(folder / LENGTH, {"max_seq_length": layout.max_seq_length, "do_lower_case": layout.do_lower_case})
    write_settings(folder, layout)


def write_modules(folder: Path, modules: Sequence[tuple[str, str]]) -> None:
    """The list of modules, each with its path and its kind."""
    _write(folder / MODULES, [
        {"idx": place, "name": str(place), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for place, (path, kind) in enumerate(modules)
    ])  # fmt: skip


def write_settings(folder: Path, layout: Layout) -> None:
    """Prompts and the similarity that is meant."""
    _write(folder / SETTINGS, {
        "prompts": dict(layout.prompts),
        "default_prompt_name": layout.default_prompt_name,
        "similarity_fn_name": layout.similarity or "cosine",
    })  # fmt: skip


def _path_of(activation: str) -> str:
    kind = ACTIVATIONS[activation]
    return f"{kind.__module__}.{kind.__name__}"


def _write(path: Path, values: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
