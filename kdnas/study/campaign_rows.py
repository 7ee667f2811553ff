"""What the store tells of campaigns: frozen rows, decoded, free of any database object. Computes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class CampaignStatus(StrEnum):
    """A campaign's true state, from what its coordinator last said and whether it is alive."""

    NEW = "new"  # begun, never run
    RUNNING = "running"  # a coordinator is alive
    STOPPED = "stopped"  # ended in order before its end; the same command goes on
    FINISHED = "finished"
    FAILED = "failed"  # nothing to compare: every member failed
    DEAD = "dead"  # its coordinator's process is gone; the same command goes on


class MemberState(StrEnum):
    """Where a member stands."""

    WAITING = "waiting"  # for its first share
    SEARCHING = "searching"
    SEARCHED = "searched"  # its share of this stage is spent
    GOING = "going on"  # chosen for the next stage
    OUT = "out"  # lost a round; keeps what it reached
    FAILED = "failed"  # reason says why


@dataclass(frozen=True)
class MemberRow:
    """One member. `granted` and `spent` are trials (or hours, where the campaign has hours)."""

    place: int  # in the spec, from 0
    name: str
    study: str  # the name of its study, which may not exist yet
    study_id: int | None
    state: MemberState
    stage: int  # the stage in which it last had a share
    granted: float  # all shares so far, this stage's among them
    reason: str  # why it is out or failed; empty else
    teacher: str
    recipe: str
    best: float | None  # its best score in the rounds, on the held-out part of the task


@dataclass(frozen=True)
class ScoreRow:
    """One student of a member, scored on the held-out part of the task after a round."""

    stage: int
    member: str
    trial: int
    score: float
    facts: Mapping[str, Any]  # epochs, seed, examples, candidate, latency_ms, parameters, seconds
    time: float


@dataclass(frozen=True)
class DecisionRow:
    """What was decided after a round. `facts`: rule, constants, scores, going, out {member: why}, spent {member: …},
    global_best and previous_best {member, trial, score, stage}, best {member: {trial, score, stage}}.

    From stage `rounds` on it says who takes the place of a member that failed in the stage; its scores are those of the
    last round.
    """

    stage: int
    facts: Mapping[str, Any]
    time: float


@dataclass(frozen=True)
class CampaignRow:
    """One campaign. `result` is empty until its end; then it holds, as plain values:

    rows: a list, best score first, teachers last, each {name, kind ("student" or "teacher"), member, trial, score
    (on the test part, as it is with a solved head), own_head (by its own head, or None), finetuned (or None),
    latency_ms, speedup (over the reference), flag, parameters, size_mib, folder, front (bool), rank (students that keep
    the constraints, from 1, else None), misses (words, empty where it keeps them), state (of its member), reason};
    reference (name of the teacher that latencies are told for), reference_ms, task {source, train, held_out, test,
    classes}, winner (name or None), runner_up (name or None), verdict (sentences), timed (that all were timed in one
    go), constraints (words), device. A row without a score says what it misses, or why it has none in `reason`; so does
    that of a member that failed after it had a student.
    """

    campaign_id: int
    name: str
    spec: Mapping[str, Any]  # CampaignSpec as plain values
    status: CampaignStatus
    stage: int  # 0 … rounds, the last; where its member failed, one more for each that took its place
    rounds: int
    doing: str  # what its coordinator is at, in words
    ending: str  # why it ended or stopped, in words; empty before
    folder: str  # where its models lie
    members: tuple[MemberRow, ...]
    scores: tuple[ScoreRow, ...]
    decisions: tuple[DecisionRow, ...]
    result: Mapping[str, Any]
    created: float
    updated: float
    finished: float | None
    revision: int
    pid: int | None
    host: str | None

    @property
    def budget(self) -> float:
        """Trials, or hours."""
        asked = self.spec["budget"]
        return float(asked["hours"] if asked.get("trials") is None else asked["trials"])

    @property
    def timed(self) -> bool:
        """Whether the budget is hours."""
        return self.spec["budget"].get("trials") is None

    def member(self, name: str) -> MemberRow:
        return next(member for member in self.members if member.name == name)
