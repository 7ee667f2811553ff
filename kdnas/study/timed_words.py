"""In words, what a study times of its students: the figure that its reward sees. Times nothing itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdnas.system.text import clean

FIRST = "first"  # what every study timed before there was a choice
AUTO = "auto"  # the dtype in which every study timed before there was a choice: the device's own


def what(latency: Mapping[str, Any]) -> str:
    """Of a spec's latency part, or of what an older store or folder has of it."""
    return str(latency.get("what", FIRST))


def dtype(latency: Mapping[str, Any]) -> str:
    """The dtype that was asked for, of the same."""
    return str(latency.get("dtype", AUTO))


def in_dtype(latency: Mapping[str, Any]) -> str:
    """`, in bfloat16`; empty where none was asked for."""
    asked = dtype(latency)
    return "" if asked == AUTO else f", in {clean(asked)}"


def in_words(latency: Mapping[str, Any]) -> str:
    """`one forward pass of the body, batch 1, 128 tokens`, and the dtype where one was asked for"""
    batch, length = latency["batch_size"], latency["length"]
    if what(latency) == FIRST:
        return f"one forward pass of the body, batch {batch}, {length} tokens{in_dtype(latency)}"
    return f"one token generated with the cache, batch {batch}, after {length} tokens{in_dtype(latency)}"
