"""What the store tells: frozen rows, decoded, free of any database object."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kdnas.study.states import Status
from kdnas.study.time_budget import End
from kdnas.system.time_left import Span

if TYPE_CHECKING:
    from kdnas.study.space import Candidate  # an alias; its module loads numpy, which the first screen does without

RUNG = "rung"  # among a trial's own figures
PREDICTED = "predicted"  # the first word of the flag of a latency that was not measured


@dataclass(frozen=True)
class StudyRow:
    study_id: int
    name: str
    spec: Mapping[str, Any]  # StudySpec as plain values; validate only where needed
    status: Status
    trials: int  # the budget
    done: int  # slots that ended: done, pruned or failed
    pruned: int
    failed: int
    reused: int
    running: int
    alpha: float
    beta: float
    best_reward: float | None
    best_number: int | None
    workers: int  # alive
    hosts: tuple[str, ...]
    heartbeat: float | None  # the latest, UTC seconds
    teacher_latency_ms: float | None
    space_size: int | None
    ending: str | None
    created: float
    updated: float
    revision: int
    eta_s: float | None  # seconds until the budget is spent; None while too little is known (system/time_left.py)
    eta_spread_s: float | None = None  # two standard errors of it, to each side
    tags: tuple[str, ...] = ()
    note: str = ""
    until: float | None = None  # when its time ends, UTC seconds; None where it has no such end
    open: bool = False  # the time decides alone: `trials` is the number that there are so far
    expected: int | None = None  # trials by that end, as they take now; None while that is not known
    trial_s: float | None = None  # what a trial has taken, the mean of those that were evaluated here
    waiting: int = 0  # trials that have their score and wait for their latency

    @property
    def end(self) -> End | None:
        return None if self.until is None else End(self.until, self.open)

    @property
    def spent(self) -> bool:
        """Whether all trials of its budget have ended; where its time alone limits them, once it has ended."""
        return self.status is Status.FINISHED if self.open else self.done >= self.trials

    @property
    def counted(self) -> str:
        """Trials that ended, of how many: `12/100`; where the time decides, `12/≈40`, or `12` while that is unknown."""
        if not self.open:
            return f"{self.done}/{self.trials}"
        return f"{self.done}" if self.expected is None else f"{self.done}/≈{self.expected}"

    @property
    def counted_words(self) -> str:
        """`12 of 100 trials`, `12 of about 40 trials`, `12 trials`."""
        if not self.open:
            return f"{self.done} of {self.trials} trials"
        of = "" if self.expected is None else f" of about {self.expected}"
        return f"{self.done}{of} trial{'' if self.done == 1 and not of else 's'}"

    @property
    def share(self) -> float | None:
        """How much of it is done, by trials; None where that is not known."""
        most = self.expected if self.open else self.trials
        return None if not most else min(1.0, self.done / most)

    @property
    def eta(self) -> Span | None:
        """Seconds until the budget is spent, from and to."""
        if self.eta_s is None or self.eta_spread_s is None:
            return None
        return max(0.0, self.eta_s - self.eta_spread_s), self.eta_s + self.eta_spread_s


@dataclass(frozen=True)
class TrialRow:
    number: int
    slot: int
    state: str  # a TrialState
    candidate: Candidate
    config: Mapping[str, Any]
    origin: str | None
    predicted: float | None
    seed: int | None
    reward: float | None  # at the α/β that it was told with; re-score with reward.reward for others
    alpha: float | None
    beta: float | None
    loss: float | None
    raw_loss: float | None
    latency_ms: float | None
    latency_p90_ms: float | None
    latency_low_ms: float | None
    latency_high_ms: float | None
    latency_count: int | None
    latency_flag: str | None
    teacher_latency_ms: float | None
    parameters: int | None
    memory_mib: float | None
    extra: Mapping[str, float]
    epoch: int
    epochs: int
    progress: float
    phase: str | None
    error: str | None
    reused_from: int | None
    started: float
    ended: float | None
    revision: int
    # from kdnas_repeat and kdnas_remark, joined in
    repeats: int = 0
    mean_loss: float | None = None  # over the trial and its repeats, as are the next two
    mean_raw_loss: float | None = None
    loss_spread: float | None = None  # sample standard deviation
    marked: bool = False
    tags: tuple[str, ...] = ()
    note: str = ""
    worker_id: int | None = None  # who evaluated it; None where nobody wrote it down

    @property
    def speedup(self) -> float | None:
        """Teacher's latency over the student's."""
        if self.latency_ms and self.teacher_latency_ms:
            return self.teacher_latency_ms / self.latency_ms
        return None

    @property
    def latency_predicted(self) -> bool:
        """Whether the latency, and so reward and speed-up, comes from a table of blocks and was never measured."""
        return (self.latency_flag or "").startswith(PREDICTED)

    @property
    def rung(self) -> int | None:
        """How far the budget's rungs took it, 0 for the score as built; None in a study without rungs."""
        reached = self.extra.get(RUNG)
        return None if reached is None else int(reached)

    @property
    def scored_after(self) -> str:
        """What came before its last score, in words: `as built`, `after 1 epoch`."""
        return "as built" if not self.epoch else f"after {self.epoch} epoch{'s' if self.epoch > 1 else ''}"


@dataclass(frozen=True)
class CurvePoint:
    number: int
    epoch: int
    loss: float
    raw_loss: float
    train_loss: float
    seconds: float
    tokens: int


@dataclass(frozen=True)
class WorkerRow:
    worker_id: int
    host: str
    pid: int
    device: str | None
    state: str  # a WorkerState
    doing: str | None
    task: str
    error: str | None
    started: float
    heartbeat: float
    ended: float | None
    alive: bool


@dataclass(frozen=True)
class EpisodeRow:
    episode: int
    epsilon: float
    pool_size: int
    controller_loss: float | None
    global_best: float | None
    previous_best: float | None
    facts: Mapping[str, Any]
    time: float


@dataclass(frozen=True)
class LogRow:
    log_id: int
    worker_id: int | None
    time: float
    level: str
    line: str


@dataclass(frozen=True)
class EventRow:
    time: float
    kind: str
    detail: Mapping[str, Any]


@dataclass(frozen=True)
class RunRow:
    run_id: int
    kind: str
    number: int | None
    folder: str
    state: str  # a RunState
    progress: float
    doing: str | None
    result: Mapping[str, Any]
    error: str | None
    started: float
    ended: float | None
