"""Versions of the libraries that decide figures."""

from __future__ import annotations

import contextlib
from importlib import metadata

LIBRARIES = ("kdnas", "torch", "transformers", "datasets", "optuna", "peft", "safetensors", "numpy")


def versions() -> dict[str, str]:
    """Versions of the libraries that decide figures."""
    found = {}
    for name in LIBRARIES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found
