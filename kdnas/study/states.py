"""The states of studies, slots, trials, workers and runs, and what people want of a study.

Each equals its string, which is what the database and every file hold.
"""

from __future__ import annotations

from enum import StrEnum


class Status(StrEnum):
    """A study's true state, from what people asked, what its workers last said, and whether they are alive."""

    NEW = "new"  # begun, no worker yet
    RUNNING = "running"
    PAUSING = "pausing"  # asked to; a worker is still in an epoch
    PAUSED = "paused"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FINISHED = "finished"
    FAILED = "failed"  # the last worker ended with an error
    DEAD = "dead"  # a worker's process is gone, or its heartbeat stopped


class Wanted(StrEnum):
    """What people want of a study's workers."""

    RUN = "run"
    PAUSE = "pause"  # the epoch ends, its training is kept
    STOP = "stop"  # the running trial ends
    ABANDON = "abandon"  # the running trial is lost


class SlotState(StrEnum):
    """A place in a study's budget."""

    FREE = "free"
    RUNNING = "running"
    WAITING = "waiting"  # its trial has a score, and its latency is still to be measured
    DONE = "done"
    PRUNED = "pruned"
    FAILED = "failed"


class TrialState(StrEnum):
    """One evaluation of a candidate."""

    RUNNING = "running"
    WAITING = "waiting"  # scored, and its latency is still to be measured; to strategies it runs
    DONE = "done"
    PRUNED = "pruned"
    FAILED = "failed"
    REUSED = "reused"  # another trial's result, at no cost of budget
    LOST = "lost"  # its worker died or was stopped; the slot is evaluated again


class WorkerState(StrEnum):
    """What a worker last said of itself, or what others found."""

    STARTING = "starting"
    RUNNING = "running"
    PAUSED = "paused"
    ENDED = "ended"
    FAILED = "failed"
    DEAD = "dead"


class RunState(StrEnum):
    """A long job on one candidate or folder."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


UNDER_WAY = frozenset({SlotState.RUNNING, SlotState.WAITING})
WAITS, TIMING = "waiting for latency", "timing"  # the phases of a waiting trial, in words for people
ENDED_SLOTS = frozenset({SlotState.DONE, SlotState.PRUNED, SlotState.FAILED})
REWARDED = frozenset({TrialState.DONE, TrialState.PRUNED, TrialState.REUSED})  # trials that have figures
AT_WORK = frozenset({WorkerState.STARTING, WorkerState.RUNNING, WorkerState.PAUSED})
