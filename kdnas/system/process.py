"""Sets a process of ours up, once and before a library is loaded: commands and workers call it, library code does not.

Who imports kdnas into a program of their own keeps that program's settings. Imports no library.
"""

from __future__ import annotations

import os

SETTINGS = {
    "TRANSFORMERS_VERBOSITY": "error",  # its warnings are about calls that are ours, not the user's
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # what deterministic matrix products on a GPU need
}


def set_up() -> None:
    """Settings that the user has made himself stay."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
