"""Processes as on other hosts: of another name, with a state folder of their own, so that they see no lock of ours."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

from kdnas.system import liveness

SILENT_S = 6.0  # instead of a minute, after which a silent worker of another host counts as dead


def on_host(name: str, folder: Path, work: Callable[[], int]) -> Callable[[], int]:
    """What a forked process does as on the host of that name."""

    def there() -> int:
        socket.gethostname = lambda: name
        os.environ["KDNAS_STATE"] = str(folder / name)
        liveness.HEARTBEAT_S, liveness.STALE_S, liveness.GAP_S = 0.5, SILENT_S, SILENT_S - 1.5
        return work()

    return there
