"""LoRA adapters on encoders that classify, through PEFT: put in, counted, saved, and opened from a folder.

A folder of an adapter holds `adapter_config.json`, `adapter_model.safetensors` and, where kdnas wrote it, the
classifier's `config.json` with its labels. Its base is the one that it names, or lies in the folder's own `base/`:
there a base lies that was cut, and that therefore nobody else has. Trains nothing.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoModelForSequenceClassification, PretrainedConfig

from kdnas.data import hub, sources
from kdnas.data.shipped import ASSETS, fetch
from kdnas.models import classifier_head, encoders
from kdnas.models import open as opening
from kdnas.models.encoders import Family, Sizes
from kdnas.system.errors import UsageError, first_line

CONFIG, WEIGHTS, BASE = sources.ADAPTER, "adapter_model.safetensors", "base"
UNMERGED = ("PREFIX_TUNING", "PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "ADAPTION_PROMPT", "CPT", "XLORA")
PARTS = ("query-value", "query-key-value", "attention", "all")  # what of a layer is adapted, the cheapest first


@dataclass(frozen=True)
class Adapters:
    """Low-rank pairs B·A, scaled by alpha / rank, beside some linear layers of some blocks (Hu et al., 2021)."""

    rank: int
    alpha: float
    layers: tuple[int, ...]  # places of the blocks, from 0
    parts: str  # one of PARTS
    dropout: float  # before A, while training


def require() -> None:
    """Raise UsageError where PEFT is missing."""
    if importlib.util.find_spec("peft") is None:
        raise UsageError("Adapters need the package peft.", "Install it: pip install 'kdnas[lora]'.")


def targets(family: Family, parts: str) -> list[str]:
    """Names of the adapted linear layers within a block."""
    names = [family.query, family.value]
    if parts != "query-value":
        names.insert(1, family.key)
    if parts in ("attention", "all"):
        names.append(family.out)
    if parts == "all":
        names += [family.up, family.down]
    return names


def cost(sizes: Sizes, parts: str) -> int:
    """Parameters that one rank adds to one block: rows and columns of every adapted matrix."""
    square = {"query-value": 2, "query-key-value": 3, "attention": 4, "all": 4}[parts]
    wide = 2 if parts == "all" else 0
    return square * 2 * sizes.width + wide * (sizes.width + sizes.inner)


def trainable(model: torch.nn.Module) -> int:
    """Parameters that learn."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


# ---------------------------------------------------------------- the base


@dataclass(frozen=True)
class Base:
    """A frozen encoder with a classification head that is still to be learned.

    `model` is whole; `cut` shares its tensors. A pooler keeps the weights that the base has for it.
    """

    name: str
    model: Any
    family: Family
    heads: tuple[str, ...]  # names of the head's modules
    fresh: frozenset[str]  # names of parameters that the base had no weights for

    @property
    def config(self) -> PretrainedConfig:
        config: PretrainedConfig = self.model.config
        return config

    @property
    def sizes(self) -> Sizes:
        return self.family.sizes(self.config)

    @property
    def head_size(self) -> int:
        """Parameters of the head."""
        return sum(p.numel() for n, p in self.model.named_parameters() if n.startswith(self._heads()))

    def _heads(self) -> tuple[str, ...]:
        return tuple(f"{name}." for name in self.heads)

    def cut(self, depth: int) -> Any:
        """The same model with its lowest `depth` blocks alone. Frozen tensors are shared, the head is a copy."""
        values = encoders.config_values(self.family, self.config, replace(self.sizes, layers=depth))
        config = encoders.configure(values)
        config._attn_implementation = "sdpa"
        with torch.device("meta"):
            made: Any = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
        own = {name for name, _ in made.named_parameters()}
        heads = self._heads()
        tensors = {
            name: tensor.detach().clone() if name.startswith(heads) else tensor
            for name, tensor in self.model.state_dict().items()
            if name in own
        }
        made.load_state_dict(tensors, strict=False, assign=True)
        for name, buffer in self.model.named_buffers():
            module, _, leaf = name.rpartition(".")
            made.get_submodule(module).register_buffer(leaf, buffer, persistent=False)
        made.requires_grad_(False)
        return made.eval()

    def head_begins(self, model: Any, seed: int) -> None:
        """What the base has no weights for, drawn anew: normal of the configuration's range, biases 0."""
        generator = torch.Generator().manual_seed(seed)
        spread = float(getattr(self.config, "initializer_range", 0.02))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name in self.fresh:
                    drawn = torch.randn(parameter.shape, generator=generator) * spread
                    parameter.copy_(drawn if parameter.dim() > 1 else torch.zeros_like(drawn))


def open_base(folder: Path, name: str, labels: tuple[str, ...], device: torch.device) -> Base:
    """The base in a model folder, with a head for the labels: its own, its rows in their order, where it tells the same
    labels apart. Raises UsageError for what is no encoder."""
    config = opening.open_config(folder, name)
    family = family_of(config, name)
    model, fresh = classifier_head.opened_for(folder, name, config, labels, attn_implementation="sdpa")
    return Base(name, model.requires_grad_(False).eval().to(device), family, heads_of(model), fresh)


def family_of(config: PretrainedConfig, name: str) -> Family:
    """Like encoders.family_of, but refuses families whose layers are one: some of them cannot be adapted alone."""
    family = encoders.family_of(config, name)
    if family.shared_layers:
        raise UsageError(
            f"The layers of {name!r} share their weights, so that an adapter cannot be put on some of them.",
            "Take a model of another family than ALBERT.",
        )
    return family


# ---------------------------------------------------------------- adapters


def adapted(base: Base, depth: int, adapters: Adapters, seed: int) -> Any:
    """A PEFT model on the lowest `depth` blocks of the base; all chance comes from `seed`."""
    model = base.cut(depth)
    base.head_begins(model, seed)
    return put(model, base.family, adapters, seed)


def put(model: Any, family: Family, adapters: Adapters, seed: int) -> Any:
    """A PEFT model around a classifier: adapters and head learn, nothing else does.

    Adapters begin as PEFT's do: A random, B zero, so that nothing is changed yet. Dropout is theirs alone: the frozen
    blocks say what they always say. Raises UsageError where PEFT is missing.
    """
    require()
    from peft import LoraConfig, TaskType, get_peft_model

    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    config = LoraConfig(
        task_type=TaskType.SEQ_CLS,
        r=adapters.rank,
        lora_alpha=adapters.alpha,  # type: ignore[arg-type]  # a float does as well
        lora_dropout=adapters.dropout,
        target_modules=targets(family, adapters.parts),
        layers_to_transform=list(adapters.layers),
        layers_pattern=family.layer.split(".")[-3],
        modules_to_save=[name.rpartition(".")[2] for name in heads_of(model)],
        bias="none",
    )
    with torch.random.fork_rng(devices=[]), _quiet():
        torch.manual_seed(seed)
        made: Any = get_peft_model(model, config)
    return made.eval()


def heads_of(model: Any) -> tuple[str, ...]:
    """Names of the modules after the last block. A pooler is part of the head: RoBERTa's has such a layer too."""
    backbone = model.base_model_prefix
    found = [n for n, child in model.named_children() if n != backbone and any(True for _ in child.parameters())]
    pooled = getattr(getattr(model, backbone), "pooler", None) is not None
    return (f"{backbone}.pooler", *found) if pooled else tuple(found)


def head_size(config: PretrainedConfig) -> int:
    """Parameters of the head that a classifier of this configuration has, counted without making it."""
    with torch.device("meta"):
        model: Any = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
    return sum(p.numel() for name in heads_of(model) for p in model.get_submodule(name).parameters())


def save(model: Any, folder: Path, tokenizer: Any, base: str, *, truncated: bool) -> None:
    """Adapter and head, the classifier's configuration and the tokenizer; the base too where it was cut.

    `base` is the name or folder that the adapter is to give for its base where that is whole.
    """
    folder.mkdir(parents=True, exist_ok=True)
    plain = model.get_base_model()
    config = model.active_peft_config
    # With the dot it can be taken for a folder only, never for a repository of that name.
    config.base_model_name_or_path = f"./{BASE}" if truncated else base
    config.inference_mode = True
    with _quiet():
        model.save_pretrained(folder, safe_serialization=True, save_embedding_layers=False)
    described: PretrainedConfig = plain.config
    described.architectures = [type(plain).__name__]
    described.dtype = torch.float32
    described.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if truncated:
        place = folder / BASE
        described.save_pretrained(place)
        save_file(_untouched(plain), place / "model.safetensors", metadata={"format": "pt"})


def _untouched(plain: Any) -> dict[str, torch.Tensor]:
    """The weights of a base with adapters in it, under the names that it has without them."""
    found = {}
    for name, tensor in plain.state_dict().items():
        if ".lora_" in name or ".modules_to_save." in name:
            continue
        own = name.replace(".base_layer.", ".").replace(".original_module.", ".")
        found[own] = tensor.detach().cpu().contiguous().clone()
    return found


# ---------------------------------------------------------------- folders


def is_adapter(folder: Path) -> bool:
    return sources.there(folder / CONFIG)


def classifies(folder: Path, backbone: str) -> bool:
    """Whether an adapter is of a classifier, in which the body stands as `backbone`, rather than of a body alone."""
    return any(name.startswith(f"base_model.model.{backbone}.") for name in _shapes(folder))


def read(folder: Path) -> dict[str, Any]:
    """The adapter's own configuration. Raises UsageError for one that is broken or of a kind that pickles."""
    try:
        values = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{folder / CONFIG} cannot be read: {first_line(error)}.", "Save the adapter again.") from None
    if not isinstance(values, dict) or not values.get("peft_type"):
        raise UsageError(f"{folder / CONFIG} is no adapter's configuration.", "Give a folder that PEFT saved.")
    if str(values["peft_type"]).upper() in UNMERGED:
        raise UsageError(
            f"The adapter {folder} is of the kind {values['peft_type']}, which cannot be merged into its base.",
            "Give a LoRA adapter, or a whole model.",
        )
    if not (folder / WEIGHTS).is_file():
        raise UsageError(f"The adapter {folder} has no {WEIGHTS}.", "Save it with PEFT as safetensors.")
    return values


def base_of(folder: Path, given: Path | None = None) -> Path:
    """The folder of an adapter's base: its own `base/`, else the given one, else the one that it names.

    Raises UsageError where that is not there.
    """
    values = read(folder)
    if (folder / BASE / "config.json").is_file():
        return folder / BASE
    if given is not None:
        _require_like_named(folder, str(values.get("base_model_name_or_path") or ""), given)
        return given
    named = str(values.get("base_model_name_or_path") or "")
    shipped = next((asset.name for asset in ASSETS.values() if named in (asset.name, asset.hub_id)), None)
    if shipped is not None:
        return fetch(shipped)
    path = Path(named).expanduser()
    for place in (folder / path, path):  # a relative one is meant from the adapter, whatever folder one works in
        if named and (place / "config.json").is_file():
            return place
    if not named or path.is_absolute() or named.startswith((".", "~")) or not hub.is_id(named):
        raise UsageError(
            f"The base of the adapter {folder}, {named!r}, is not there.",
            f"Bring it back, or correct base_model_name_or_path in {CONFIG}.",
        )
    return hub.fetch_model(named, values.get("revision"))


def _require_like_named(folder: Path, named: str, given: Path) -> None:
    """Raise UsageError where an adapter names a base that is there, and is of another family or vocabulary."""
    path = Path(named).expanduser()
    if not named or not (path / "config.json").is_file():
        return
    theirs, ours = (opening.open_config(place, str(place)) for place in (path, given))
    for what in ("model_type", "vocab_size"):
        if getattr(theirs, what, None) != getattr(ours, what, None):
            raise UsageError(
                f"The adapter {folder} was trained on {named}, whose {what} is {getattr(theirs, what, None)}; that of "
                f"{given} is {getattr(ours, what, None)}.",
                "Give the base that it was trained on.",
            )


def public_name(model: str) -> str:
    """What an adapter calls its base, so that others find it: a shipped model by its hub id, a folder by its path."""
    shipped = ASSETS.get(model)
    if shipped is not None:
        return shipped.hub_id or model
    path = Path(model).expanduser()
    return str(path.resolve()) if path.is_dir() else model


def open_classifier(folder: Path, device: torch.device, base: Path | None = None) -> Any:
    """The PEFT model that classifies, frozen. Raises UsageError for what is none, or does not fit its base."""
    weights = _shapes(folder)
    place = base_of(folder, base)
    config = opening.open_config(place, str(place))
    if (folder / "config.json").is_file():
        own = opening.open_config(folder, str(folder))
        config.id2label, config.label2id, config.problem_type = own.id2label, own.label2id, own.problem_type
    rows = _classes(weights)
    if rows is not None and config.num_labels != rows:
        config.num_labels = rows
    if not classifies(folder, _backbone(config)):
        raise UsageError(f"The adapter {folder} is of no classifier.", "Give one that was trained to classify.")
    opened = opening.open_weights(
        AutoModelForSequenceClassification, place, str(place), config, other_head=True, attn_implementation="sdpa"
    )
    return _over(opened.model, folder).to(device)


def _backbone(config: PretrainedConfig) -> str:
    """The name under which a classifier of this configuration holds its body."""
    with torch.device("meta"):
        made: Any = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
    return str(made.base_model_prefix)


def into_body(body: Any, folder: Path, base: Path) -> Any:
    """The body of `base` with an adapter merged into it: one of a body like it, or of a classifier on it.

    Raises UsageError for an adapter that does not fit.
    """
    if not classifies(folder, body.base_model_prefix):
        return _over(body, folder).merge_and_unload()
    whole = merged(folder, torch.device("cpu"), base)
    body.load_state_dict(whole.base_model.state_dict(), strict=False)  # which may have a pooler more, or one less
    return body


def merged(folder: Path, device: torch.device, base: Path | None = None) -> Any:
    """The classifier of an adapter's folder as an ordinary model: what it is served as."""
    return open_classifier(folder, device, base).merge_and_unload()


def _over(model: Any, folder: Path) -> Any:
    require()
    from peft import PeftModel, get_peft_model_state_dict

    try:
        with _quiet():
            made: Any = PeftModel.from_pretrained(model, str(folder))
        kept, found = set(_shapes(folder)), set(get_peft_model_state_dict(made, save_embedding_layers=False))
        if kept != found:
            raise ValueError(f"{min(kept ^ found)} stands on one side alone")
    except (RuntimeError, ValueError, KeyError, TypeError, OSError) as error:
        raise UsageError(
            f"The adapter {folder} does not fit its base {type(model).__name__}: {_why(error)}.",
            "Give the base that it was trained on.",
        ) from None
    odd = next((n for n, p in made.named_parameters() if "lora_" in n and not bool(p.isfinite().all())), None)
    if odd is not None:
        raise UsageError(
            f"The adapter {folder} holds values that are not finite numbers, in {odd}.", "Check how it was trained."
        )
    return made.requires_grad_(False).eval()


def _why(error: Exception) -> str:
    """The line of an error that says which sizes differ, else its first."""
    lines = [line.strip().rstrip(".") for line in str(error).splitlines() if "size mismatch" in line]
    return lines[0] if lines else first_line(error)


def _shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of what the adapter's file holds."""
    read(folder)
    try:
        with safe_open(folder / WEIGHTS, "pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except Exception as error:  # safetensors raises an exception type of its own
        raise UsageError(f"{folder / WEIGHTS} is damaged: {first_line(error)}.", "Save the adapter again.") from None


def _classes(weights: Mapping[str, tuple[int, ...]]) -> int | None:
    """How many classes the saved head tells apart; None where the adapter brings none."""
    rows = [s[0] for n, s in weights.items() if len(s) == 2 and n.endswith((".classifier.weight", ".out_proj.weight"))]
    return rows[-1] if rows else None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """PEFT warns of what is meant here (a base without a hub name, say), and in other libraries' names."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
