"""What became of a copy: a terminal takes it by an escape sequence (OSC 52) and never answers; tmux can be asked."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from kdnas.system import tmux


def outcome(file: Path, environment: Mapping[str, str] | None = None) -> str:
    """What is known of a copy, and the file that holds the text in any case."""
    given = os.environ if environment is None else environment
    if not given.get("TMUX"):
        return f"Sent to the terminal's clipboard, which not every terminal takes. It is also in {file}"
    state = tmux.set_clipboard(given)
    if state == "on":
        return f"Copied through tmux. Also in {file}"
    return (
        f"Not copied: tmux drops it (set-clipboard is {state or 'unknown'}). It is in {file}. "
        f"To change that, put `{tmux.SETTING}` into ~/.tmux.conf"
    )
