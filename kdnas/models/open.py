"""Model folders found and opened: where a model lies, its configuration, tokenizer and fingerprints.

What goes wrong while files are read is said in one line. Knows no teacher and no training.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoTokenizer, PretrainedConfig

from kdnas.data import hub, shipped, sources
from kdnas.data.tokens import tokenizer_fingerprint
from kdnas.study.spec import TeacherSpec
from kdnas.system.errors import UsageError, first_line, nearest
from kdnas.system.progress import Progress


@contextmanager
def loading(what: str, hint: str) -> Iterator[None]:
    """Raise UsageError for files that transformers cannot make a model of: absent, of another kind, or damaged.

    `what` begins the sentence ("The weights of 'bert'"). Faults of kdnas pass through.
    """
    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise UsageError(f"{what} cannot be loaded: {first_line(error)}.", hint) from None
    except Exception as error:
        if type(error).__name__ != "SafetensorError":  # by name: this module stays light
            raise
        raise UsageError(f"{what} cannot be loaded, the file is damaged: {first_line(error)}.", hint) from None


def files_fingerprint(folder: Path) -> str:
    """Of everything in a model folder that decides its outputs: weights, configuration, tokenizer."""
    digest = hashlib.sha256()
    wanted = ["*.safetensors", "base/*.safetensors", "*.bin", "config.json", "adapter_config.json"]
    wanted += ["tokenizer*", "vocab*", "merges.txt", "*.model", "special_*"]
    for path in sorted({p for pattern in wanted for p in folder.glob(pattern) if p.is_file()}):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:32]


def longest(config: Any, length: int) -> int:
    """`length`, or as many tokens as the model has positions for."""
    room = int(getattr(config, "max_position_embeddings", None) or length)
    # RoBERTa's positions begin after its padding id.
    offset = 2 if config.model_type in ("roberta", "xlm-roberta", "camembert") else 0
    return min(length, room - offset)


def locate(spec: TeacherSpec, on_progress: Progress | None = None, *, config_only: bool = False) -> Path:
    """The folder of a teacher given by shipped name, folder or hub id. Raises UsageError."""
    if sources.teacher(spec.model) == "shipped":
        return shipped.fetch(spec.model, on_progress)
    path = Path(spec.model).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise UsageError(f"The folder {path} holds no config.json.", "Give the folder of a Hugging Face model.")
        return path
    if path.exists():  # a file, which only causal recipes take
        raise UsageError(
            f"There is no model at {spec.model!r}.",
            f"Give a folder, a hub id, or a shipped one. {nearest(spec.model, shipped.names('teacher'))}",
        )
    if on_progress is not None:
        on_progress(f"looking for {spec.model}", None)
    fetch = hub.fetch_config if config_only else hub.fetch_model
    return fetch(spec.model, spec.revision)


def open_config(folder: Path, name: str) -> PretrainedConfig:
    if not (folder / "config.json").is_file():
        if any(folder.glob("*.gguf")):
            raise UsageError(
                f"The teacher {name!r} is a causal model in a GGUF file, which this recipe does not take.",
                "Take an encoder of the BERT family.",
            )
        raise UsageError(f"The folder {folder} holds no config.json.", "Give the folder of a Hugging Face model.")
    try:
        values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise UsageError(f"{folder / 'config.json'} is no JSON.", "Fetch the model again.") from None
    try:
        return AutoConfig.from_pretrained(folder)
    except (ValueError, OSError, KeyError, TypeError) as error:
        kind = values.get("model_type")
        raise UsageError(
            f"The teacher {name!r} has a configuration that transformers does not read (model_type {kind!r}): "
            f"{first_line(error)}.",
            "Take an encoder of the BERT family.",
        ) from None


def open_tokenizer(folder: Path, name: str) -> Any:
    """The fast tokenizer of a model folder. Raises UsageError."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except Exception as error:
        raise UsageError(
            f"The tokenizer of {name!r} cannot be loaded: {first_line(error)}.", "Give a folder with its tokenizer."
        ) from None
    if not getattr(tokenizer, "is_fast", False):
        raise UsageError(f"The tokenizer of {name!r} has no fast form.", "Take a model with a tokenizer.json.")
    # Without its files transformers makes a tokenizer of nothing but special tokens, and says nothing.
    if len(tokenizer) <= len(tokenizer.all_special_tokens):
        raise UsageError(f"The tokenizer of {name!r} has no words.", "Give a folder with its tokenizer.json.")
    return tokenizer


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
