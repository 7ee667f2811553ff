"""Fingerprints of plain values: equal fingerprints, equal facts.

Knows nothing of what the facts are about.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any


def digest(*parts: object) -> str:
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()


def run_key(facts: Mapping[str, Any]) -> str:
    """A fingerprint of everything that decides a model; equal keys, equal weights on one machine."""
    text = json.dumps(facts, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]
