"""The one place where a model folder is opened: what lies in it, its configuration and weights, fingerprints of them.

No code of a folder runs, nothing asks on a terminal, and what cannot be opened as it claims to be is refused in one
line. Knows no teacher and no training; tokenizers are opened in tokenizer.py, adapters in lora_adapters.py.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PretrainedConfig

from kdnas.data import hub, shipped, sources
from kdnas.data.files import POINTER
from kdnas.data.tokens import tokenizer_fingerprint
from kdnas.models.encoders import PER_LAYER_TYPES, body_arguments, position_offset
from kdnas.models.tokenizer import count_ids, ends_no_text
from kdnas.models.tokenizer import open_tokenizer as open_tokenizer
from kdnas.models.tokenizer import pad_id as pad_id
from kdnas.study.spec import TeacherSpec
from kdnas.system.errors import KdnasError, UsageError, first_line, nearest
from kdnas.system.progress import Progress

RECURRENT = "kdnas-recurrent"
OWN_TYPES = (RECURRENT, *PER_LAYER_TYPES)  # models whose code is kdnas's own, though their folders carry a copy of it
# Tables that older checkpoints hold and that every model computes itself.
COMPUTED = ("position_ids", "token_type_ids", "attn.bias", "attn.masked_bias", "attention.bias", "rotary_emb.inv_freq")
FLOATS = ("F64", "F32", "F16", "BF16")  # dtypes of weights, as safetensors calls them
MOST_HEADER = 100 << 20  # bytes, the limit of safetensors


@contextmanager
def loading(what: str, hint: str) -> Iterator[None]:
    """Raise UsageError for files that transformers cannot make a model of: absent, of another kind, or damaged.

    `what` begins the sentence ("The weights of 'bert'"). Only calls of other libraries belong inside: whatever they
    raise is taken for the files' fault. Errors of kdnas pass through.
    """
    try:
        yield
    except (KdnasError, MemoryError):
        raise
    except Exception as error:  # transformers, safetensors, pickle and torch raise types of their own
        damaged = ", the file is damaged" if type(error).__name__ in ("SafetensorError", "UnpicklingError") else ""
        said = first_line(error)
        if "weights_only" in str(error):  # torch explains at length how to run what the file holds
            damaged, said = "", "the file is damaged, or holds more than tensors"
        raise UsageError(f"{what} cannot be loaded{damaged}: {said}.", hint) from None


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.", "Check the file and its permissions.") from None


def files_fingerprint(folder: Path) -> str:
    """Of everything in a model folder that decides its outputs: weights, configuration, tokenizer."""
    digest = hashlib.sha256()
    wanted = ["*.safetensors", "base/*.safetensors", "*.bin", "*.gguf", "config.json", "adapter_config.json"]
    wanted += ["tokenizer*", "vocab*", "merges.txt", "*.model", "special_*"]
    for path in sorted({p for pattern in wanted for p in folder.glob(pattern) if p.is_file()}):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:32]


def longest(config: Any, length: int) -> int:
    """`length`, or as many tokens as the model has positions for."""
    room = int(getattr(config, "max_position_embeddings", None) or length)
    return max(1, min(length, room - position_offset(config)))


def locate(spec: TeacherSpec, on_progress: Progress | None = None, *, config_only: bool = False) -> Path:
    """The folder of a teacher given by shipped name, folder or hub id. Raises UsageError."""
    if sources.teacher(spec.model) == "shipped":
        return shipped.fetch(spec.model, on_progress)
    path = Path(spec.model).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file() and any(path.glob("*.gguf")):
            raise _of_gguf(spec.model)
        sources.require_whole(path)
        return path
    if path.suffix == ".gguf" and path.exists():  # a file, which only causal recipes take
        raise _of_gguf(spec.model)
    if path.exists():
        raise UsageError(
            f"There is no model at {spec.model!r}.",
            f"Give a folder, a hub id, or a shipped one. {nearest(spec.model, shipped.names('teacher'))}",
        )
    if on_progress is not None:
        on_progress(f"looking for {spec.model}", None)
    fetch = hub.fetch_config if config_only else hub.fetch_model
    folder = fetch(spec.model, spec.revision)
    sources.require_whole(folder)
    return folder


def _of_gguf(name: str) -> UsageError:
    return UsageError(
        f"The teacher {name!r} is a causal model in a GGUF file, which this recipe does not take.",
        "Take an encoder of the BERT family.",
    )


# ---------------------------------------------------------------- what a folder claims


def open_config(folder: Path, name: str) -> PretrainedConfig:
    """The configuration of a model folder, its labels named as `class_names` finds them.

    Raises UsageError for what transformers cannot read, and for models that kdnas does not open: those with code of
    their own, and quantised ones.
    """
    if not (folder / "config.json").is_file():
        if any(folder.glob("*.gguf")):
            raise _of_gguf(name)
        raise UsageError(f"The folder {folder} holds no config.json.", sources.model_below(folder))
    _require_no_pointers(folder, name)
    try:
        values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError
    except (OSError, ValueError, RecursionError):
        raise UsageError(f"{folder / 'config.json'} is no JSON object.", "Fetch the model again.") from None
    kind = values.get("model_type")
    if values.get("auto_map") and kind not in OWN_TYPES:
        raise UsageError(
            f"The model {name!r} needs code of its own (auto_map in its config.json), which kdnas never runs.",
            "Take a model of a family that transformers has itself.",
        )
    if kind in PER_LAYER_TYPES:
        import kdnas.models.per_layer  # noqa: F401, registers its classes
    quantised = values.get("quantization_config")
    if quantised:
        how = quantised.get("quant_method") if isinstance(quantised, dict) else None
        raise UsageError(
            f"The model {name!r} is quantised{f' ({how})' if how else ''}.",
            "Give the unquantised model that it was made of.",
        )
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        _name_labels(config, values)
    except Exception as error:  # configurations are checked by libraries with exceptions of their own
        raise UsageError(
            f"The teacher {name!r} has a configuration that transformers does not read (model_type {kind!r}): "
            f"{first_line(error)}.",
            "Take a model of a family that transformers knows: bert, roberta, gpt2, llama and others.",
        ) from None
    return config


def _name_labels(config: PretrainedConfig, values: Mapping[str, Any]) -> None:
    """Labels that the file names in one of its two tables alone stand in both afterwards: transformers fills the other
    with LABEL_0 and so on."""
    own, back = values.get("id2label"), values.get("label2id")
    if isinstance(own, dict) and own and not back:
        config.label2id = {str(label): int(place) for place, label in own.items()}
    elif isinstance(back, dict) and back and not own:
        config.id2label = {int(place): str(label) for label, place in back.items()}
        config.label2id = {str(label): int(place) for label, place in back.items()}


def _require_no_pointers(folder: Path, name: str) -> None:
    """Raise UsageError where git left a pointer in place of a large file."""
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.stat().st_size < 1024:
            with _readable(path), path.open("rb") as file:
                if file.read(len(POINTER)) == POINTER:
                    raise UsageError(
                        f"{path.name} of the model {name!r} is a git-lfs pointer, not the file itself.",
                        "Fetch the file: run git lfs pull in its folder, or download the model again.",
                    )


# ---------------------------------------------------------------- weights


def _require_floats(folder: Path, name: str) -> None:
    """Raise UsageError for weights of whole numbers or of eight bits: what quantising makes, whose scales transformers
    knows nothing of where the configuration does not speak of them. Files that are damaged are left to who opens them.
    """
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with _readable(path), path.open("rb") as file:
                size = int.from_bytes(file.read(8), "little")
                kept = json.loads(file.read(size)) if size <= MOST_HEADER else {}
            dtypes = {tensor: about["dtype"] for tensor, about in kept.items() if tensor != "__metadata__"}
        except (ValueError, TypeError, KeyError, AttributeError):
            continue
        odd = next((t for t, d in sorted(dtypes.items()) if d not in FLOATS and t.endswith("weight")), None)
        if odd is not None:
            raise UsageError(
                f"The weights of {name!r} are quantised: {odd} is of {dtypes[odd]}.",
                "Give the unquantised model that it was made of.",
            )


@dataclass(frozen=True)
class Opened:
    """A model in fp32 on the CPU, in eval mode. `fresh` names the parameters that the folder has no weights for."""

    model: Any
    fresh: frozenset[str]


def open_weights(
    opener: Any, folder: Path, name: str, config: PretrainedConfig, *, other_head: bool = False, **arguments: Any
) -> Opened:
    """A folder opened by one of transformers' Auto classes; with `other_head` a head of another size begins fresh.

    The body must be whole: a weight that is missing, of another size, left over or not a number raises UsageError.
    Heads and poolers may be missing, and heads that the class does not have are left out.
    """
    sources.require_whole(folder)  # transformers would open an adapter's base by the name that stands in it
    _require_no_pointers(folder, name)
    sources.require_weights(folder)
    _require_floats(folder, name)
    with loading(f"The weights of {name!r}", "Fetch the model again."):
        model, report = opener.from_pretrained(
            folder,
            config=config,
            dtype=torch.float32,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # so that the sizes can be said
            **arguments,
        )
    mismatched = {key if isinstance(key, str) else key[0] for key in report["mismatched_keys"]}
    fresh = frozenset({*report["missing_keys"], *mismatched})
    of_head = None if model.base_model is model else f"{model.base_model_prefix}."
    lacking = sorted(n for n in fresh if "pooler" not in n and (of_head is None or n.startswith(of_head)))
    sized = sorted(mismatched.intersection(lacking) if other_head else mismatched)
    if sized:
        shapes = next((key[1:] for key in report["mismatched_keys"] if key[0] == sized[0]), ())
        both = " and ".join(" × ".join(map(str, shape)) for shape in shapes)
        raise UsageError(
            f"The weights of {name!r} do not fit its configuration; {sized[0]} has another size"
            + (f" ({both})." if len(shapes) == 2 else "."),
            "Give the config.json and the weights that belong together.",
        )
    if lacking:
        raise UsageError(
            f"The weights of {name!r} do not fit its configuration; missing: {lacking[0]}.",
            "Give a complete checkpoint.",
        )
    unused = _unused(model, report["unexpected_keys"], with_head=not other_head)
    if unused:
        raise UsageError(
            f"The weights of {name!r} do not fit its configuration; transformers leaves out {len(unused)} of them, "
            f"{unused[0]} among them.",
            "Give a model that transformers computes with all its weights.",
        )
    odd = next((n for n, p in model.named_parameters() if not _finite(p.detach())), None)
    if odd is not None:
        raise UsageError(
            f"The weights of {name!r} hold values that are not finite numbers, in {odd}.",
            "Check the checkpoint; one that overflowed in fp16 cannot be used.",
        )
    return Opened(model.eval(), fresh)


def open_body(folder: Path, name: str, config: PretrainedConfig, *, pooler: bool = False) -> Opened:
    """The body in a folder, its head left out; with `pooler` its pooler too, fresh where the folder has none."""
    arguments = {key: value for key, value in body_arguments(config).items() if key != "dtype"}
    if pooler and "add_pooling_layer" in arguments:
        arguments["add_pooling_layer"] = True
    return open_weights(AutoModel, folder, name, config, **arguments)


def open_causal(folder: Path, name: str, config: PretrainedConfig) -> Any:
    """The causal model in a folder, with all weights of its vocabulary head."""
    opened = open_weights(AutoModelForCausalLM, folder, name, config, attn_implementation="sdpa")
    if opened.fresh:
        raise UsageError(
            f"The weights of {name!r} do not fit its configuration: {len(opened.fresh)} are missing.",
            "Give a complete checkpoint of a causal model.",
        )
    # Where a file holds a head of its own, transformers keeps the two apart whatever the configuration says.
    ends = opened.model.get_input_embeddings(), opened.model.get_output_embeddings()
    if config.tie_word_embeddings and ends[0].weight is not ends[1].weight:
        opened.model.config.tie_word_embeddings = False
    return opened.model


def classifies(config: PretrainedConfig) -> bool:
    """Whether a configuration says that its folder holds a classification head."""
    return any(name.endswith("ForSequenceClassification") for name in config.architectures or ())


def require_vocabulary(tokenizer: Any, config: PretrainedConfig, name: str) -> None:
    """Raise UsageError for a tokenizer with ids that the model has no embeddings for."""
    words = count_ids(tokenizer)
    if words > config.vocab_size:
        raise UsageError(
            f"The tokenizer of {name!r} has {words:,} words, its model only {config.vocab_size:,}.",
            "Give the tokenizer that belongs to the model, or resize the model's embeddings.",
        )


def padded(model: Any, tokenizer: Any) -> Any:
    """A classifier that knows which token is padding.

    A head on the last token reads the last one that is not `pad_token_id`, and the very last where that is None. What
    the folder says is kept, so that each text is read as transformers reads it alone. Where it says nothing, the
    padding is a token that ends no text of the tokenizer.
    """
    own = model.config.pad_token_id
    if own is None or (_reads_last(model) and not 0 <= own < model.config.vocab_size):
        model.config.pad_token_id = 0 if tokenizer is None else ends_no_text(tokenizer)
    return model


def padding(model: Any, otherwise: int) -> int:
    """The id that batches for this classifier are filled with; `otherwise` where any will do, since it is masked."""
    return int(model.config.pad_token_id) if _reads_last(model) else otherwise


def _reads_last(model: Any) -> bool:
    return hasattr(model, "score")


def _unused(model: Any, unexpected: Iterable[str], *, with_head: bool) -> list[str]:
    """Weights of the file that belong to parts which the model has, and that it has no place for."""
    prefix, parts = f"{model.base_model_prefix}.", {name for name, _ in model.base_model.named_children()}
    if with_head:
        parts |= {name for name, _ in model.named_children()}
    found = []
    for name in sorted(unexpected):
        own = name.removeprefix(prefix)
        if own.partition(".")[0] in parts and not own.startswith("pooler.") and not own.endswith(COMPUTED):
            found.append(name)
    return found


def _finite(tensor: torch.Tensor) -> bool:
    return bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all())  # a finite sum needs no second look


# ---------------------------------------------------------------- fingerprints


def model_fingerprint(body: torch.nn.Module, config: PretrainedConfig, tokenizer: Any) -> str:
    """Of weights, configuration and tokenizer: 64 hexadecimal digits."""
    digest = hashlib.sha256()
    values = config.to_dict()
    for key in ("_name_or_path", "transformers_version"):
        values.pop(key, None)
    digest.update(json.dumps(values, sort_keys=True, default=str).encode())
    digest.update(tokenizer_fingerprint(tokenizer).encode())
    for name, tensor in sorted(body.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()
