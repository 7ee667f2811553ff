"""Faults of kdnas itself in a thread: the traceback goes to a file, one line to the screen."""

from __future__ import annotations

import contextlib
import time
import traceback

from kdnas.system.errors import KdnasError
from kdnas.system.paths import private_folder, state_folder


def recorded(fault: Exception) -> KdnasError:
    """The fault as one line that names the file with the traceback."""
    path = state_folder() / "logs" / "kdnas-tui.log"
    with contextlib.suppress(OSError):
        private_folder(path.parent)
        with path.open("a", encoding="utf-8") as file:
            file.write(time.strftime("%Y-%m-%dT%H:%M:%S "))
            traceback.print_exception(fault, file=file)
    said = " ".join(str(fault).split())[:120]
    return KdnasError(f"kdnas-tui made a mistake: {type(fault).__name__}: {said}.", f"Please report what is in {path}.")
