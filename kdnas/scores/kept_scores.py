"""Scores that are worked out once: kept on the disk under a fingerprint of all that they depend on.

So that an evaluation that was cut off goes on where it was. Works out nothing itself.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

from kdnas.system import disk_cache, paths
from kdnas.system.files import write_atomically


def kept(identity: Mapping[str, Any], make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `make` gives, as plain values; from the disk where it was made before for the same `identity`."""
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:40]
    path = paths.cache_folder() / "scores" / f"{key}.json"
    try:
        before: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["outcome"]
    except (OSError, ValueError, KeyError):
        pass
    else:
        disk_cache.used(path)
        return before
    outcome = make()
    paths.own_folder(path.parent)
    write_atomically(path, json.dumps({"identity": identity, "outcome": outcome}, indent=1))
    disk_cache.trim()
    return outcome
