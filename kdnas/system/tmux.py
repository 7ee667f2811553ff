"""Whether tmux passes on what a program inside it copies. Asks tmux, and changes nothing."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping

ASK_S = 2.0  # the longest that it may take to answer
SETTING = "set -s set-clipboard on"  # the line of ~/.tmux.conf; by default tmux drops such copies ("external")


def set_clipboard(environment: Mapping[str, str]) -> str:
    """tmux's option of that name: on, external or off; empty where it does not answer."""
    try:
        asked = subprocess.run(
            ["tmux", "show-options", "-sv", "set-clipboard"],
            capture_output=True,
            text=True,
            timeout=ASK_S,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return asked.stdout.strip() if asked.returncode == 0 else ""
