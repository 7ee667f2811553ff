"""The model folder: written whole or not at all, with `kdnas.json` for programs and a model card for people.

Trains nothing and loads no model; the recipe writes weights and tokenizer into the folder that is opened here.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdnas import __version__
from kdnas.data import sources
from kdnas.students.model_card import adapter_card, card
from kdnas.students.origin import origin
from kdnas.system import folders
from kdnas.system.errors import UsageError, first_line
from kdnas.system.files import write_atomically

FACTS = folders.MODEL_FACTS
CARD = "README.md"
RESULTS = "results.json"
FORMAT = "kdnas-model"
VERSION = 1


def finished(output: Path, key: str | None = None) -> bool:
    """Whether the folder stands complete (from this very run, where a key is given).

    Raises UsageError where something else is under its name, or where a folder could not be made there.
    """
    if (output / FACTS).is_file() and (key is None or read_facts(output).get("run") == key):
        return True
    folders.require_vacant(output)
    return False


# ------------------------------------------------------------------------------------------------- kdnas.json


def stamp(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of a folder with format, version and time in front."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "kdnas": __version__,
        "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        **facts,
    }


def write_facts(folder: Path, facts: Mapping[str, Any]) -> None:
    """`kdnas.json` and the model card, which say the same."""
    write_atomically(folder / FACTS, json.dumps(facts, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    write_card(folder)


def read_facts(folder: Path) -> dict[str, Any]:
    """What `kdnas.json` of a folder says. Raises UsageError for one that is missing, broken or of a newer version."""
    path = folder / FACTS
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{folder} holds no {FACTS}.", "Give a folder that kdnas finalize or distill wrote.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(
            f"{path} cannot be read: {first_line(error)}.", "Write the folder again with kdnas finalize."
        ) from None
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        raise UsageError(f"{path} is not from kdnas.", "Give a folder that kdnas finalize or distill wrote.")
    if not isinstance(facts.get("version"), int) or facts["version"] > VERSION:
        raise UsageError(f"{path} was written by a newer kdnas.", "Update kdnas to read it.")
    return facts


def require_model(folder: Path) -> None:
    """Raise UsageError for a path that holds no Hugging Face model."""
    if not folder.is_dir():
        raise UsageError(f"There is no folder {folder}.", "Give a model folder.")
    if not (folder / "config.json").is_file():
        raise UsageError(f"The folder {folder} is not a model: it has no config.json.", sources.model_below(folder))
    sources.require_weights(folder)


# ------------------------------------------------------------------------------------------------ model card


def write_card(folder: Path) -> None:
    """The model card from `kdnas.json` and, where the folder was evaluated, `results.json`."""
    results: dict[str, Any] | None = None
    with contextlib.suppress(OSError, ValueError):
        results = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
    facts = read_facts(folder)
    found = origin(facts["spec"])
    write_atomically(folder / CARD, card(facts, found, results))
    if facts.get("adapter"):
        adapter = folder / facts["adapter"]
        base = json.loads((adapter / sources.ADAPTER).read_text(encoding="utf-8"))["base_model_name_or_path"]
        write_atomically(adapter / CARD, adapter_card(str(base), found))  # in place of what PEFT says of it
