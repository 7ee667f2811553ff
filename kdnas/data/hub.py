"""The Hugging Face hub: asked quietly, and given up on quickly where there is no network.

Finds models and single files in the local hub cache first. Loads nothing itself and imports neither torch nor
transformers.
"""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path
from urllib.parse import urlsplit

from kdnas.system.errors import UsageError, first_line

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
MODEL_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.bin"]
REACH_SECONDS = 3.0


def quiet() -> None:
    """No progress bars, no telemetry, short time-outs; before the first import of a Hugging Face library."""
    for name, value in {
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_ETAG_TIMEOUT": "5",
        "HF_HUB_DOWNLOAD_TIMEOUT": "20",
        "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
        "TOKENIZERS_PARALLELISM": "true",
    }.items():
        os.environ.setdefault(name, value)


def offline() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "TRUE", "YES", "ON"}


def reachable() -> bool:
    """Whether the hub answers a connection within a few seconds (taken for granted behind a proxy)."""
    if offline():
        return False
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return True
    from huggingface_hub.constants import ENDPOINT

    address = urlsplit(ENDPOINT)
    port = address.port or (443 if address.scheme == "https" else 80)
    try:
        with socket.create_connection((address.hostname or "", port), timeout=REACH_SECONDS):
            return True
    except OSError:
        return False


def is_id(text: str) -> bool:
    return HUB_ID.fullmatch(text) is not None and ".." not in text


def require_data_set(hub_id: str) -> None:
    """Raise UsageError for a data set that the hub does not know; nothing is said where the hub cannot be asked."""
    if not reachable():
        return
    quiet()
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

    try:
        HfApi().dataset_info(hub_id, timeout=10)
    except RepositoryNotFoundError:
        raise UsageError(f"The hub knows no data set {hub_id!r}.", "Check the spelling of the id.") from None
    except (HfHubHTTPError, OSError, ValueError):
        return  # the worker says it better, if it lasts


def fetch_model(hub_id: str, revision: str | None = None) -> Path:
    """The folder of a hub model's files, from the local hub cache or the network. Raises UsageError."""
    return _fetch(hub_id, revision, config_only=False)


def fetch_config(hub_id: str, revision: str | None = None) -> Path:
    """A folder that holds at least the model's `config.json`. Raises UsageError."""
    return _fetch(hub_id, revision, config_only=True)


def _fetch(hub_id: str, revision: str | None, *, config_only: bool) -> Path:
    quiet()
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    def get(local: bool) -> Path:
        if config_only:
            found = hf_hub_download(hub_id, "config.json", revision=revision, local_files_only=local)
            return Path(found).parent
        patterns = MODEL_FILES
        if not local:
            from huggingface_hub import list_repo_files

            names = list_repo_files(hub_id, revision=revision)
            if any(name.endswith(".safetensors") for name in names):
                patterns = [p for p in MODEL_FILES if p != "*.bin"]
        folder = Path(snapshot_download(hub_id, revision=revision, allow_patterns=patterns, local_files_only=local))
        if local and not [*folder.glob("*.safetensors"), *folder.glob("*.bin")]:
            raise LocalEntryNotFoundError("the cached snapshot holds no weights")
        return folder

    try:
        return get(local=True)
    except (LocalEntryNotFoundError, FileNotFoundError):
        pass
    except Exception as error:
        raise UsageError(f"{hub_id!r} is no model name: {first_line(error)}.", "Give a hub id or a folder.") from None
    if not reachable():
        raise UsageError(
            f"The model {hub_id!r} is not on this machine and the Hugging Face hub cannot be reached.",
            "Connect, or give the folder of a downloaded model.",
        )
    try:
        return get(local=False)
    except GatedRepoError:
        raise UsageError(f"The model {hub_id!r} is gated.", "Accept its terms on the hub and log in there.") from None
    except RevisionNotFoundError:
        raise UsageError(
            f"The model {hub_id!r} has no revision {revision!r}.", "Give a branch, tag or commit."
        ) from None
    except RepositoryNotFoundError:
        raise UsageError(f"The hub knows no model {hub_id!r}.", "Check the spelling of the id.") from None
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise UsageError(
            f"The model {hub_id!r} could not be fetched: {first_line(error)}.", "Try again later."
        ) from None
