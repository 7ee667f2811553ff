"""Uploads a model folder to the Hugging Face hub; says plainly where there is no network or no login."""

from __future__ import annotations

from pathlib import Path

from kdnas.data import hub
from kdnas.system.errors import KdnasError, UsageError, first_line


def check_push(repository: str) -> None:
    """Raise UsageError, before anything is trained, where an upload could not succeed."""
    if repository.count("/") != 1 or not hub.is_id(repository):
        raise UsageError(f"{repository!r} is no name of a model on the hub.", "Give it as USER/NAME.")
    from huggingface_hub import get_token

    if not hub.reachable():
        raise UsageError(
            f"{repository} cannot be uploaded: the Hugging Face hub cannot be reached.",
            "Connect to the network, or leave out --push; the folder can be uploaded later with `hf upload`.",
        )
    if get_token() is None:
        raise UsageError(
            f"{repository} cannot be uploaded: there is no login.", "Log in with `hf auth login`, or set HF_TOKEN."
        )


def push(folder: Path, repository: str) -> str:
    """Upload a folder; the address of the model. Raises KdnasError; the folder stays as it is."""
    hub.quiet()
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        api = HfApi()
        api.create_repo(repository, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=folder, commit_message="A student distilled by kdnas")
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise KdnasError(
            f"{folder} is written, but the upload to {repository} failed: {first_line(error)}.",
            f"Try again with: hf upload {repository} {folder}",
        ) from None
    return f"{api.endpoint}/{repository}"
