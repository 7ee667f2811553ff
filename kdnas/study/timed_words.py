"""In words, what a study times of its students: the figure that its reward sees. Times nothing itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FIRST = "first"  # what every study timed before there was a choice


def what(latency: Mapping[str, Any]) -> str:
    """Of a spec's latency part, or of what an older store or folder has of it."""
    return str(latency.get("what", FIRST))


def in_words(latency: Mapping[str, Any]) -> str:
    """`one forward pass of the body, batch 1, 128 tokens`"""
    batch, length = latency["batch_size"], latency["length"]
    if what(latency) == FIRST:
        return f"one forward pass of the body, batch {batch}, {length} tokens"
    return f"one token generated with the cache, batch {batch}, after {length} tokens"
