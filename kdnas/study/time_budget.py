"""Wall time as a budget: when a study ends, whether one more trial fits, how many there will be. Pure; reads no clock.

A study's end is one moment, so that whoever looks, on whatever machine and after whatever pause, means the same. No
trial is stopped for it: the rule only says which trial is begun last.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kdnas.system import moments
from kdnas.system.errors import UsageError
from kdnas.system.time_left import Span, duration

MOST_TRIALS = 1_000_000  # that a study may have; where time decides alone, it is the number that the spec holds
EVENT = "time"  # kind of the entries of a study's history that say until when it runs
FEWEST = 3  # trials of one group before their own mean is trusted more than the mean of all
RECENT = 48  # the last trials count: a machine's speed changes
WILD = 20.0  # times the median: the machine slept meanwhile, or its clock was set


@dataclass(frozen=True)
class End:
    """When a study ends. `open`: no number of trials ends it before."""

    until: float  # UTC seconds
    open: bool


@dataclass(frozen=True)
class Cost:
    """What a finished trial took. `group`: trials of one group take about as long (of encoders: those of one depth)."""

    seconds: float
    group: str = ""


# ---------------------------------------------------------------------------- the end


def end_of(spec: Mapping[str, Any]) -> End | None:
    """The end that a stored spec has, as plain values; None where it has none, and where it is damaged."""
    budget = spec.get("budget")
    text = budget.get("until") if isinstance(budget, Mapping) else None
    if not isinstance(budget, Mapping) or not isinstance(text, str):
        return None
    try:
        return End(moments.of_utc_text(text), budget.get("trials") == MOST_TRIALS)
    except UsageError:
        return None


def asked_again(values: Mapping[str, Any], created: float) -> dict[str, Any]:
    """The values of a stored spec as they would be asked for again: its end as hours from its beginning, since the
    moment itself has passed or soon will have."""
    end = end_of(values)
    if end is None:
        return dict(values)
    budget = {name: value for name, value in values["budget"].items() if name != "until"}
    return {**values, "budget": {**budget, "hours": max(0.001, round((end.until - created) / 3600, 3))}}


def require_time(name: str, end: End | None, now: float) -> None:
    """Raises UsageError where the study's time is over."""
    if end is not None and end.until <= now:
        raise UsageError(
            f"The time of {name} was over at {moments.full_words(end.until)}.",
            f"Give it more: kdnas search {name} --hours 2, or --until 07:30",
        )


def end_words(end: End, trials: int, now: float) -> str:
    """`until 07:30 tomorrow (7h40)`, and the number of trials that may end it before."""
    most = "" if end.open else f", or until {trials:,} trials are done"
    return f"until {moments.clock_words(end.until, now)} ({duration(max(0.0, end.until - now))}{most})"


# ---------------------------------------------------------------------------- the rule


def told(costs: Sequence[Cost]) -> list[Cost]:
    """The costs that say something of the work: without those that a sleeping machine or a clock that was set made."""
    real = [cost for cost in costs if cost.seconds > 0]
    if not real:
        return []
    most = WILD * statistics.median(cost.seconds for cost in real)
    return [cost for cost in real if cost.seconds <= most]


def expected_s(costs: Sequence[Cost], group: str, estimate: float | None) -> float | None:
    """What a trial of a group is expected to take: the mean of its group where there are enough, else of all, else the
    estimate; None where nothing is known."""
    means = _means(costs)
    return means.get(group, means.get(None, estimate))


def least_s(costs: Sequence[Cost], estimate: float | None) -> float | None:
    """The least that `expected_s` says of any group: where not even that fits, no candidate is worth choosing."""
    return min(_means(costs).values(), default=estimate)


def _means(costs: Sequence[Cost]) -> dict[str | None, float]:
    """Group → mean seconds, of those that have enough trials; under None the mean of all trials."""
    real = told(costs)
    groups: dict[str, list[float]] = defaultdict(list)
    for cost in real:
        groups[cost.group].append(cost.seconds)
    found: dict[str | None, float] = {
        group: statistics.fmean(seconds) for group, seconds in groups.items() if len(seconds) >= FEWEST
    }
    return found | ({None: statistics.fmean(cost.seconds for cost in real)} if real else {})


def fits(left_s: float, expected: float | None) -> bool:
    """Whether a trial may begin: some time is left, and the trial is expected to end in it."""
    return left_s > 0 and (expected is None or expected <= left_s)


def in_time(by_trials: Span | None, end: End, now: float) -> Span | None:
    """How long a study may still take, from and to, whatever ends it first; None where its trials may end it before its
    time does and nothing is known of them."""
    left = max(0.0, end.until - now)
    if end.open:
        return left, left
    return None if by_trials is None else (min(by_trials[0], left), min(by_trials[1], left))


def trials_in(left_s: float, each_s: float, workers: int = 1, begun: Sequence[float] = ()) -> int:
    """How many trials will end in the time that is left, those that run now among them. `begun` are their ages; each
    has what is left of the mean still to go, and all of them end, however late."""
    running = sorted(max(0.0, each_s - age) for age in begun)
    free = [max(0.0, left_s - at) for at in (running[:workers] + [0.0] * workers)[:workers]]
    return len(begun) + sum(int(time / each_s + 1e-9) for time in free)
