"""How long a full distillation of a candidate may take, by the time of its epochs in the search. Pure arithmetic.

A pass over the held-out text, which each epoch ends with, costs a third of learning from it: forward alone, instead of
forward and backward.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kdnas.study.rows import CurvePoint
from kdnas.system.time_left import Span

FEWEST = 2  # epochs of the search; a single one says nothing of the spread
FORWARD = 1 / 3  # of learning from a token
NONE = "It is written as it was built, without a step."  # of no epochs
UNKNOWN = "How long it takes is unknown until its first steps are measured."  # trained for no two epochs in the search


def full_time(points: Sequence[CurvePoint], provenance: Mapping[str, Any], epochs: int) -> Span | None:
    """Seconds of `epochs` epochs on the whole training part, on the machine of the search: at the speed of its
    fastest and of its slowest epoch. None where the search doesn't say.

    `points` are the candidate's epochs; `provenance` says how many tokens the study's parts have.
    """
    whole, held = (provenance.get(name) for name in ("training_tokens", "held_out_tokens"))
    if not isinstance(whole, int) or not isinstance(held, int) or whole <= 0:
        return None
    speeds = []
    before = (0.0, 0)
    for point in sorted(points, key=lambda p: p.epoch):
        seconds, tokens = point.seconds - before[0], point.tokens - before[1]
        before = point.seconds, point.tokens
        if point.epoch > 0 and seconds > 0 and tokens > 0:
            speeds.append(seconds / (tokens + FORWARD * held))
    if len(speeds) < FEWEST:
        return None
    each = whole + FORWARD * held
    return epochs * each * min(speeds), epochs * each * max(speeds)
