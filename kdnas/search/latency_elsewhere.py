"""Latency left to others: workers that lack the study's device ask, and workers that have it answer between two trials.

Both go through the store. Whoever asked waits before its candidate trains, for as long as it takes: it says so, and
ends where people stop the study. A candidate is built again where it is timed, of whatever weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from kdnas.recipes.contract import Workbench
from kdnas.search.candidate import Aside, EvaluationError, Measure, Timed, timed_alone
from kdnas.search.every import Every
from kdnas.search.heartbeat import Leave, Steering, look_s
from kdnas.store.complaints import StoreError
from kdnas.store.database import Store
from kdnas.store.latency_requests import Requests
from kdnas.study.space import Candidate
from kdnas.study.states import Wanted
from kdnas.system import interrupts
from kdnas.system.errors import KdnasError
from kdnas.training.contract import Student

LOOK_S = 2.0  # between two looks at what others ask for


@dataclass(frozen=True)
class Answer:
    """What another worker measured: milliseconds of one pass, and of further passes by name."""

    p50: float
    p90: float | None
    low: float
    high: float
    count: int
    flag: str | None
    teacher_p50: float
    aside: Mapping[str, float] = field(default_factory=dict)


class Asking:
    """A `Measure` that asks for each candidate, and waits for the answer."""

    def __init__(self, store: Store, study_id: int, device: str, steering: Steering) -> None:
        self._store, self._device, self._steering = store, device, steering
        self._requests = Requests.of(store, study_id, device)
        self._last: Answer | None = None

    def __call__(self, bench: Workbench, student: Student, chosen: Candidate) -> Timed:
        """Raises EvaluationError where the candidate could not be timed, Leave where the study is to end."""
        key = bench.space.key(chosen)
        self._requests.ask(key, chosen)
        before, self._steering.doing = self._steering.doing, f"waiting for a worker on {self._device} to time it"
        while (found := self._requests.answered(key)) is None:
            interrupts.check()
            self._steering.leave_what_is_gone()
            if self._steering.wanted in (Wanted.STOP, Wanted.ABANDON):
                raise Leave
            self._steering.wait_for_news(self._steering.wanted, look_s(self._store))
        self._steering.doing = before
        if "error" in found:
            raise EvaluationError(f"It could not be timed on {self._device}: {found['error']}")
        self._last = Answer(**found)
        return self._last

    def aside(self, bench: Workbench, student: Student, chosen: Candidate) -> Mapping[str, float]:
        """The further passes of the candidate that was timed last."""
        return {} if self._last is None else self._last.aside


class Answering:
    """Times what others of the study ask for."""

    def __init__(self, store: Store, study_id: int, device: str, bench: Workbench, steering: Steering) -> None:
        self._requests = Requests.of(store, study_id, device)
        self._bench, self._steering = bench, steering
        self._again = Every(LOOK_S)

    def all_asked(self, measure: Measure, aside: Aside) -> None:
        """Answers every request that there is now. What fails is an answer, too. A worker that finds nothing to do
        comes here again and again: it looks once in `LOOK_S`."""
        if not self._again.due():
            return
        before = self._steering.doing
        for key, candidate in self._requests.asked().items():
            interrupts.check()
            self._steering.doing = "timing a candidate of another worker"
            self._requests.answer(key, self._found(candidate, measure, aside))
        self._steering.doing = before

    def _found(self, candidate: Candidate, measure: Measure, aside: Aside) -> dict[str, Any]:
        try:
            timed, further = timed_alone(self._bench, candidate, measure, aside)
        except (StoreError, KeyboardInterrupt):
            raise
        except Exception as error:
            interrupts.check()
            return {"error": str(error) if isinstance(error, KdnasError) else f"{type(error).__name__}: {error}"}
        answer = Answer(timed.p50, timed.p90, timed.low, timed.high, timed.count, timed.flag, timed.teacher_p50)
        return {**asdict(answer), "aside": further}
