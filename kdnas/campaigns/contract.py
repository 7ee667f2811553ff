"""What a coordinator needs done and how it is told of it: workers started, students scored, the final table made.

The loop knows no model; `kdnas.campaigns.scoring` and `ending` do the real work, and tests put formulas in their place.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from kdnas.study.campaign_rows import CampaignRow
from kdnas.study.spec import StudySpec

Beat = Callable[[str], None]
"""Hears what is being done, in words, now and then; the store is told that the coordinator lives."""


class Process(Protocol):
    """As much of subprocess.Popen as is needed of a worker."""

    def poll(self) -> int | None: ...

    def wait(self, timeout: float | None = None) -> int | None: ...

    def terminate(self) -> None: ...

    def kill(self) -> None: ...


@dataclass(frozen=True)
class Hands:
    """Who does the work. `member` gives the spec of a member's study, and `start` the processes of its workers. `score`
    distils a member's trial shortly and scores it on the held-out part of the task: the score, and facts of it.
    `finish` makes the final table, as `CampaignRow.result` has it."""

    member: Callable[[CampaignRow, str], StudySpec]
    start: Callable[[str], Sequence[Process]]
    score: Callable[[CampaignRow, str, int, Beat], tuple[float, Mapping[str, Any]]]
    finish: Callable[[CampaignRow, Beat], Mapping[str, Any]]


def ended_in_order(process: Process, seconds: float) -> bool:
    """Whether a process has ended within so many seconds."""
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        return False
    return True
