"""How a campaign's budget is shared: successive halving over its members (Jamieson and Talwalkar, 2016), by task score.

Pure: no clock, no store, no chance. Losses of different teachers are never compared; only scores on one task are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

EXPLORING = 0.4  # share of the budget that the rounds have which decide; the last stage has the rest
RULE = (
    "Successive halving: each round's share is divided equally among the members in it. After it the better half by "
    "task score goes on, rounded up, ties in the order of the spec. The rounds together have 2/5 of the budget, the "
    "last stage the rest. What a member doesn't use, since it failed or ran out of candidates, is divided among those "
    "that go on. Where the last stage's member fails, the best of those that lost the round before has what is left."
)


def rounds(members: int) -> int:
    """How often is decided: ceil(log2(members)), at least once."""
    return max(1, math.ceil(math.log2(members)))


def least(members: int) -> int:
    """The fewest trials with which every member has a first share of one."""
    trials = math.ceil(rounds(members) * members / EXPLORING)
    while not whole(share(trials, 0.0, 0, members, members)):
        trials += 1
    return trials


def share(budget: float, spent: float, stage: int, members: int, alive: int) -> float:
    """What each of the `alive` members may spend in a stage, 0 to `rounds(members)`, the last of which decides nothing.

    `spent` is what all members spent in earlier stages, so that what nobody used is shared out again.
    """
    number = rounds(members)
    left = budget - spent
    if alive < 1 or left <= 0:
        return 0.0
    if stage >= number:
        return left / alive
    each = EXPLORING / number
    rest = 1 - each * stage  # of the budget, what stages from this one on have
    return left * each / rest / alive


def whole(share: float) -> int:
    """The trials of a share."""
    return math.floor(share + 1e-9)


@dataclass(frozen=True)
class Decision:
    """Who goes on after a round, and who is out and why; both best first."""

    going: tuple[str, ...]
    out: Mapping[str, str]


def decide(scores: Mapping[str, float | None], failed: Sequence[str] = ()) -> Decision:
    """After a round: the better half of its members goes on, rounded up, and at least one that has a score. `scores` in
    the order of the spec; None where a member has no feasible student. `failed` members are out whatever they reached.
    """
    usable = [name for name in scores if name not in failed]
    order = sorted(usable, key=lambda name: -math.inf if scores[name] is None else scores[name] or 0.0, reverse=True)
    scored = [name for name in order if scores[name] is not None]
    going = scored[: max(1, math.ceil(len(scores) / 2))]
    if not scored:  # nobody has a student: more trials may find one
        going = order
    best = scores[going[0]] if scored else None
    out = {}
    for name in (*order, *failed):
        if name in failed:
            out[name] = "failed"
        elif name not in going:
            mine = scores[name]
            out[name] = (
                "no student keeps the constraints"
                if mine is None
                else f"{mine:.4f} on the task; the best has {best:.4f}, and {len(going)} of {len(scores)} go on"
            )
    return Decision(tuple(going), out)


def successor(scores: Mapping[str, float | None], failed: Sequence[str]) -> str | None:
    """Who has what is left once all that the last round let go on have failed: the best of that round that has a score
    and has not failed itself. `scores` of the round, in the order of the spec; None where nobody is left."""
    left = [name for name, score in scores.items() if score is not None and name not in failed]
    return max(left, key=lambda name: scores[name] or 0.0, default=None)
