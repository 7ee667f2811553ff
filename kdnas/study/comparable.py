"""Whether figures of several studies may stand beside each other: their losses, their latencies, their rewards.

A loss is a distance to its own teacher on its own data, so that losses of different teachers rank nothing. A latency is
a time on one device by one protocol. Compares what was recorded, and where nothing was, what was asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kdnas.study import timed_words
from kdnas.study.ground import ground_of
from kdnas.study.rows import StudyRow

_LOSSES = {  # recipe → what its loss measures; recipes of one measure may be compared, any other one with itself only
    "causal-divergence": "the next token's cross-entropy",
    "causal-policy-gradient": "the next token's cross-entropy",
    "rnn-hybrid": "the divergence from the teacher's classes",
    "lora": "the divergence from the teacher's classes",
}
_TIMED = {"batch_size": "batch size", "length": "length", "threads": "threads"}


@dataclass(frozen=True)
class Side:
    """A study and what its workers found; the provenance is empty before the first one."""

    row: StudyRow
    provenance: Mapping[str, Any]

    @property
    def name(self) -> str:
        return self.row.name


@dataclass(frozen=True)
class Verdict:
    """Why losses, latencies and rewards may not be compared, a sentence each; "" where they may."""

    loss: str
    latency: str

    @property
    def reward(self) -> str:
        return self.loss or self.latency


def verdict(sides: Sequence[Side]) -> Verdict:
    """Of all the studies together: the first two that do not go together decide."""
    first, *others = sides
    return Verdict(
        next((why for other in others if (why := _losses(first, other))), ""),
        next((why for other in others if (why := _latencies(first, other))), ""),
    )


def _losses(a: Side, b: Side) -> str:
    both = f"{a.name} and {b.name}"
    recipes = [str(side.row.spec["recipe"]["name"]) for side in (a, b)]
    if _LOSSES.get(recipes[0], recipes[0]) != _LOSSES.get(recipes[1], recipes[1]):
        return f"{both} measure different losses: {recipes[0]}, {recipes[1]}."
    kinds = [str(side.row.spec["reward"]["loss"]) for side in (a, b)]
    if kinds[0] != kinds[1]:
        return f"{both} are rewarded for different losses: {kinds[0]}, {kinds[1]}."
    if said := _other(a, b, "teacher", "model"):
        return f"{both} have {said}, and a loss is a distance to its own teacher."
    if said := _other(a, b, "data", "source"):
        return f"{both} have {said}, and a loss is a mean over its own data."
    fingerprints = [ground_of(side.provenance).get("tokenizer_fingerprint") for side in (a, b)]
    if None not in fingerprints and fingerprints[0] != fingerprints[1]:
        return f"{both} have different tokenizers, and a loss is a mean over its own tokens."
    return ""


def _other(a: Side, b: Side, part: str, field: str) -> str:
    """What differs in teacher or data, in words: by fingerprint where both are recorded, else by the spec."""
    found = [ground_of(side.provenance).get(f"{part}_fingerprint") for side in (a, b)]
    specs = [side.row.spec.get(part) for side in (a, b)]
    if (found[0] == found[1]) if None not in found else (specs[0] == specs[1]):
        return ""
    names = [str(side.row.spec[part][field]) for side in (a, b)]
    what = "teachers" if part == "teacher" else "data"
    if names[0] != names[1]:
        return f"different {what}: {names[0]}, {names[1]}"
    return f"different versions of the teacher {names[0]}" if part == "teacher" else f"different parts of {names[0]}"


def _latencies(a: Side, b: Side) -> str:
    both = f"{a.name} and {b.name}"
    devices = [side.provenance.get("device") for side in (a, b)]
    for side, device in zip((a, b), devices, strict=True):
        if device is None:
            return f"It is not recorded on which device {side.name} was timed."
    if devices[0] != devices[1]:
        return f"{both} were timed on different devices: {devices[0]}, {devices[1]}."
    asked = [_timing(side, str(devices[0])) for side in (a, b)]
    for name, value in asked[0].items():
        if value != asked[1][name]:
            return f"{both} were timed with different {name}: {value}, {asked[1][name]}."
    return ""


def _timing(side: Side, device: str) -> dict[str, Any]:
    """What decides a latency beside the student and the device; how narrow its interval is does not."""
    latency = side.row.spec["latency"]
    versions = side.provenance.get("versions") or {}
    found = {said: latency.get(name) for name, said in _TIMED.items()}
    found["figures"] = timed_words.what(latency)
    found["dtypes"] = timed_words.dtype(latency)
    if found["dtypes"] == timed_words.AUTO and _all_in_float32(side, device):
        found["dtypes"] = "float32"
    if device.startswith("cuda"):
        found["kinds of pass"] = latency.get("gpu", "eager")
    # A study of an earlier version did not record which protocol it was: the version of kdnas stands for it.
    recorded = side.provenance.get("latency_protocol")
    found["versions of the protocol"] = f"kdnas {versions.get('kdnas')}" if recorded is None else recorded
    found["versions of torch"] = versions.get("torch")
    return found


def _all_in_float32(side: Side, device: str) -> bool:
    """Whether a study that asked for no dtype timed in float32: its device does not time in half, and its teacher lies
    on no other one."""
    return not device.startswith("cuda") and side.row.spec.get("teacher", {}).get("device") is None
