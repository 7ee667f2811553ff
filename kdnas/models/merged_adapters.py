"""An adapter's folder as a plain model's: what the adapter learned added to its base, the adapter itself beside it.

A base that was cut lies nowhere else, so that only a merged model opens as every other one does. Trains nothing.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

from kdnas.models import lora_adapters

ADAPTER = "adapter"  # the folder within a merged one
_OWN = ("config.json", lora_adapters.CONFIG, lora_adapters.WEIGHTS, lora_adapters.BASE, "README.md")


def cut(folder: Path) -> bool:
    """Whether an adapter's folder holds a base of its own."""
    return (folder / lora_adapters.BASE / "config.json").is_file()


def merge(folder: Path) -> None:
    """The adapter in `folder` moves into `adapter/`, complete with base and tokenizer; a plain classifier takes its
    place, with the tokenizer."""
    model: Any = lora_adapters.merged(folder, torch.device("cpu"))
    place = folder / ADAPTER
    place.mkdir()
    for path in [path for path in folder.iterdir() if path != place]:
        path.rename(place / path.name)
    model.save_pretrained(folder)
    for path in place.iterdir():
        if path.is_file() and path.name not in _OWN:
            shutil.copyfile(path, folder / path.name)
