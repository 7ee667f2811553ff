"""What a teacher's name stands for: a shipped model, a place on this disk, or a model of the hub.

The command line and the form of a new study check by this. Looks at the disk only: fetches and opens nothing.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from kdnas.data import hub, shipped
from kdnas.system.errors import UsageError, nearest

Place = Literal["shipped", "disk", "hub"]

GGUF = ".gguf"
ADAPTER = "adapter_config.json"  # stands in a folder that holds a PEFT adapter
FOREIGN = (".h5", ".msgpack", ".onnx", ".tflite", ".ot", ".gguf", ".pb", ".mlmodel")  # files of weights
MISSPELT = 0.8  # likeness to a shipped name from which a name without an owner is taken for a slip


def teacher(name: str) -> Place:
    """Where the teacher of this name would come from. Raises UsageError for a name that can stand for none."""
    if name in shipped.ASSETS:
        if shipped.ASSETS[name].kind != "teacher":
            raise UsageError(f"{name!r} is a data set, no teacher.", f"Known: {', '.join(shipped.names('teacher'))}.")
        return "shipped"
    path = Path(name).expanduser()
    if there(path, Path.is_dir):
        if not any(path.glob(f"*{GGUF}")):
            require_whole(path)
        return "disk"
    if path.suffix == GGUF and path.is_file():
        return "disk"
    teachers = shipped.names("teacher")
    slip = "/" not in name and difflib.get_close_matches(name, teachers, n=1, cutoff=MISSPELT)
    if path.exists() or path.is_absolute() or name.startswith((".", "~")) or not hub.is_id(name) or slip:
        raise UsageError(
            f"There is no model at {name!r}.",
            f"Give a folder, a hub id, or a shipped one. {nearest(name, teachers)}",
        )
    return "hub"


def there(path: Path, what: Callable[[Path], bool] = Path.is_file) -> bool:
    """Whether a file, or what else is asked for, is there. Raises UsageError for a path that may not be looked at."""
    try:
        return what(path)
    except OSError as error:
        raise UsageError(f"{path} cannot be looked up: {error.strerror}.", "Check the folder's permissions.") from None


def require_whole(folder: Path) -> None:
    """Raise UsageError for a folder that holds no configuration of a model, or an adapter alone."""
    if there(folder / ADAPTER):
        raise UsageError(
            f"The folder {folder} holds a PEFT adapter, no whole model.",
            "Give its base as the teacher, and this folder as --teacher-checkpoint (teacher.checkpoint).",
        )
    if not (folder / "config.json").is_file():
        raise UsageError(f"The folder {folder} holds no config.json.", model_below(folder))


def model_below(folder: Path) -> str:
    """The hint for a folder without a configuration: the model that lies one level below it, where one does."""
    found = sorted(path.parent for path in folder.glob("*/config.json"))
    if not found:
        return "Give the folder of a Hugging Face model."
    if len(found) == 1:
        return f"Give {found[0]}, where a model lies."
    return f"Give one of the models below it: {', '.join(path.name for path in found[:5])}."


def require_weights(folder: Path) -> None:
    """Raise UsageError for a folder without weights that torch reads, naming those of other frameworks."""
    if any(folder.glob("*.safetensors")) or any(folder.glob("*.bin")):
        return
    others = sorted(path.name for path in folder.iterdir() if path.suffix in FOREIGN or ".ckpt" in path.name)
    if others:
        raise UsageError(
            f"The weights in {folder} are of another framework: {', '.join(others[:3])}.",
            "Give the model with model.safetensors, or convert it.",
        )
    raise UsageError(
        f"The folder {folder} is not a model: it has no weights.", "Give a folder with model.safetensors in it."
    )
