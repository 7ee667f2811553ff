"""What became of a copy: a terminal takes it by an escape sequence (OSC 52) and never answers; tmux can be asked."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

ASK_S = 2.0  # the longest that tmux may take to answer
ON = ("on",)  # by default it is "external": tmux drops what programs inside it send


def outcome(file: Path, environment: Mapping[str, str] | None = None) -> str:
    """One sentence for the user: what is known, and the file that holds the text in any case."""
    given = os.environ if environment is None else environment
    if not given.get("TMUX"):
        return f"Sent to the terminal's clipboard, which not every terminal takes. It is also in {file}"
    state = set_clipboard(given)
    if state in ON:
        return f"Copied through tmux. Also in {file}"
    return (
        f"Not copied: tmux drops it (set-clipboard is {state or 'unknown'}). It is in {file}. "
        "To change that, put `set -s set-clipboard on` into ~/.tmux.conf"
    )


def set_clipboard(environment: Mapping[str, str]) -> str:
    """tmux's option of that name; empty where it does not answer."""
    try:
        asked = subprocess.run(
            ["tmux", "show-options", "-sv", "set-clipboard"],
            capture_output=True, text=True, timeout=ASK_S, env=dict(environment), stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return ""
    return asked.stdout.strip() if asked.returncode == 0 else ""
