"""A GGUF file as an ordinary model folder: read once, rebuilt from its configuration and weights, kept in the cache.

A model that transformers has read from GGUF still calls itself quantised and cannot be saved; a fresh one with the
same weights can. Needs the packages gguf and accelerate (extra `causal`). Writes no GGUF, chooses no model and trains
nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdnas.data.files import POINTER
from kdnas.models.quiet_transformers import hushed
from kdnas.system import disk_cache, paths
from kdnas.system.errors import UsageError, first_line
from kdnas.system.progress import Progress

MARK = disk_cache.FOLDERS["gguf"]  # written last: a folder without it was never finished
LAYOUT = 1  # of the rebuilt folder; part of its key
LEFT_OUT = {  # sizes in a file that transformers does not read, by the kind of model
    "gpt2": {"context_length": "n_positions", "feed_forward_length": "n_inner"},
    "qwen2": {"attention.key_length": "head_dim"},
    "qwen3": {"attention.key_length": "head_dim"},
}


def gguf_file(folder: Path) -> Path | None:
    """The one GGUF file of a folder that holds no ordinary model, else None. Raises UsageError for several."""
    if (folder / "config.json").is_file():
        return None
    found = sorted(folder.glob("*.gguf"))
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise UsageError(f"{folder} holds {len(found)} GGUF files: {names}.", "Give the path of one of them.")
    return found[0] if found else None


def rebuilt(file: Path, on_progress: Progress | None = None) -> Path:
    """A folder with config.json, model.safetensors (float32) and the tokenizer of a GGUF file.

    Raises UsageError where the packages that read GGUF are missing or the file is not sound.
    """
    folder = paths.cache_folder() / "gguf" / _key(file)
    disk_cache.kept_while_used(folder, lambda: _unpack(file, folder, on_progress))
    return folder


def require(what: str) -> None:
    """Raise UsageError where the packages for GGUF are missing; `what` begins the sentence ("Writing GGUF")."""
    missing = [name for name in ("gguf", "accelerate") if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(f"{what} needs {' and '.join(missing)}.", "Install them with: pip install 'kdnas[causal]'")


def _unpack(file: Path, folder: Path, on_progress: Progress | None) -> None:
    require(f"Reading {file.name}")
    if on_progress is not None:
        on_progress(f"unpacking {file.name} (once)", None)
    with disk_cache.filled(folder) as made:
        _rebuild(file, made)
        (made / MARK).write_text(json.dumps({"file": file.name, "layout": LAYOUT}), encoding="utf-8")


def _key(file: Path) -> str:
    """Of the file's bytes, so that a moved or renamed file is not read again."""
    digest = hashlib.sha256(str(LAYOUT).encode())
    try:
        with file.open("rb") as source:
            if source.read(len(POINTER)) == POINTER:
                raise UsageError(
                    f"{file} is a git-lfs pointer, not the file itself.",
                    "Fetch the file: run git lfs pull in its folder, or download the model again.",
                )
            source.seek(0)
            while block := source.read(1 << 22):
                digest.update(block)
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}.", "Check the file and its permissions.") from None
    return digest.hexdigest()[:32]


def opened(file: Path, rotary: Mapping[str, Any] | None = None) -> tuple[Any, Any]:
    """The model of a GGUF file, in fp32 on the CPU and as if it had never been one, and its tokenizer.

    `rotary`: its scaled rotary positions, where they are known from elsewhere. Raises UsageError for a file that is not
    sound.
    """
    with hushed(), contextlib.redirect_stderr(io.StringIO()):  # for a bar that transformers always draws
        return _opened(file, rotary)


def _rebuild(file: Path, folder: Path) -> None:
    model, tokenizer = opened(file)
    with hushed():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def _opened(file: Path, rotary: Mapping[str, Any] | None) -> tuple[Any, Any]:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    from transformers.initialization import no_init_weights

    where: dict[str, Any] = {"gguf_file": file.name, "local_files_only": True}
    try:
        config = AutoConfig.from_pretrained(file.parent, trust_remote_code=False, **where)
        config.update(_left_out(file) if rotary is None else {"rope_parameters": dict(rotary)})
        read = AutoModelForCausalLM.from_pretrained(
            file.parent, config=config, dtype=torch.float32, trust_remote_code=False, **where
        )
        tokenizer = AutoTokenizer.from_pretrained(file.parent, trust_remote_code=False, **where)
    except UsageError:
        raise
    except Exception as error:  # the readers of GGUF raise types of their own
        raise UsageError(f"{file} cannot be read as GGUF: {first_line(error)}.", "Give a sound GGUF file.") from None
    values = read.config.to_dict()
    for key in ("quantization_config", "_name_or_path", "transformers_version"):
        values.pop(key, None)
    config = AutoConfig.for_model(values.pop("model_type"), **values)
    with no_init_weights():
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(read.state_dict())
    model.tie_weights()
    model.generation_config = read.generation_config
    return model.eval(), tokenizer


def _left_out(file: Path) -> dict[str, Any]:
    """Sizes that stand in a file, and in whose place transformers takes those that models of the kind usually have.

    Raises UsageError for rotary positions that are scaled, of which transformers reads nothing.
    """
    from gguf import GGUFReader

    reader = GGUFReader(file)
    kind = _value(reader, "general.architecture")
    scaling = _value(reader, f"{kind}.rope.scaling.type")
    factors = [tensor.name for tensor in reader.tensors if "rope_f" in tensor.name and (tensor.data != 1).any()]
    if scaling not in (None, "none") or factors or _value(reader, f"{kind}.rope.scale_linear") not in (None, 1.0):
        raise UsageError(
            f"The rotary positions of {file.name} are scaled ({scaling or next(iter(factors), 'linear')}), which "
            "transformers does not read from GGUF.",
            "Give the model's own folder or hub id.",
        )
    found = {own: _value(reader, f"{kind}.{theirs}") for theirs, own in LEFT_OUT.get(str(kind), {}).items()}
    return {own: int(value) for own, value in found.items() if value is not None}


def _value(reader: Any, key: str) -> Any:
    field = reader.get_field(key)
    return None if field is None else field.contents()
