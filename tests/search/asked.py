"""What a worker asks of its store, counted, and waits that take no time."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import torch

from kdnas.search import heartbeat
from kdnas.search.begin import begin
from kdnas.search.heartbeat import Steering
from kdnas.search.worker import Worker
from kdnas.store import changes, slots, studies
from kdnas.store import tables as t
from kdnas.store.database import Store, open_store
from kdnas.study.spec import StudySpec
from kdnas.study.states import Wanted
from kdnas.system import liveness
from tests import fakes

LOOKS = 40
MANY = 300  # trials that have ended
TRIALS = re.compile(r"\b(kdnas_trial|kdnas_curve|kdnas_repeat|trials|trial_\w+)\b")  # ours and Optuna's


class Asked:
    """The statements of one thread to all stores but `others`."""

    def __init__(self, others: Store | None = None) -> None:
        self.statements: list[str] = []
        self._but = None if others is None else others.engine
        self._thread = threading.get_ident()

    def _note(self, connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if connection.engine is not self._but and threading.get_ident() == self._thread:
            self.statements.append(statement)

    @contextmanager
    def listening(self) -> Iterator[Asked]:
        sa.event.listen(sa.Engine, "before_cursor_execute", self._note)
        try:
            yield self
        finally:
            sa.event.remove(sa.Engine, "before_cursor_execute", self._note)

    def count(self, word: str) -> int:
        return sum(one.startswith(word) for one in self.statements)

    @property
    def of_trials(self) -> list[str]:
        return [one for one in self.statements if TRIALS.search(one)]


class Looks:
    """So many waits, of a clock that only they move on."""

    def __init__(self, number: int = LOOKS, before: Callable[[int], None] = lambda _: None) -> None:
        self.now, self.done, self._number, self._before = 100.0, 0, number, before
        self.seconds: set[float] = set()  # that were waited at a time

    def wait(self, seconds: float) -> bool:
        """As of an event that is set in the end."""
        self._before(self.done)
        self.now += seconds
        self.seconds.add(seconds)
        self.done += 1
        return self.done > self._number

    def monotonic(self) -> float:
        return self.now


def long_study(place: str | Path, **budget: Any) -> StudySpec:
    """A study of MANY trials that are done, and one slot that is free."""
    spec = fakes.spec(budget={"trials": MANY + 1, **budget})
    begin(spec, place)
    with open_store(place) as store, store.begin() as connection:
        same = {"study_id": 1, "state": "done", "candidate": "{}"}
        rows = [{**same, "slot": n, "candidate_key": str(n)} for n in range(MANY)]
        connection.execute(sa.delete(t.slot).where(t.slot.c.slot < MANY))
        connection.execute(t.slot.insert(), [{**row, "trial": row["slot"], "attempts": 1} for row in rows])
        figures = {"reward": 0.5, "loss": 0.5, "raw_loss": 0.6, "latency_ms": 2.0, "teacher_latency_ms": 9.0}
        figures |= {"alpha": -0.06, "beta": 0.6, "epoch": 1, "epochs": 1, "progress": 1.0}
        figures |= {"started": 0.0, "ended": 1.0, "revision": 1}
        connection.execute(t.trial.insert(), [{**row, **figures, "number": row["slot"]} for row in rows])
    return spec


def steered(store: Store) -> Steering:
    return Steering(store, 1, studies.enter(store, 1, lock=None, device=None, task="search"))


def looked(store: Store, monkeypatch: pytest.MonkeyPatch, looks: Looks, others: Store | None = None) -> Asked:
    """What the thread beside an idle worker asks in these looks."""
    steering = steered(store)
    steering._over = looks  # type: ignore[assignment]
    monkeypatch.setattr(heartbeat, "time", looks)
    with Asked(others).listening() as asked:
        steering.run()
    return asked


def waited(
    place: str | Path, spec: StudySpec, before: Callable[[Store, int], None], wanted: str = Wanted.RUN
) -> tuple[Asked, Looks]:
    """What a worker, without the thread beside it, asks from its first wait on: another one holds the last slot and
    does `before` each look. In the end people want it to stop."""
    with open_store(place) as store, open_store(place) as others:
        asked = Asked(others)

        def begin_look(look: int) -> None:
            if look == 0:
                asked.statements.clear()
            before(others, look)

        def wait(known: str, seconds: float) -> bool:
            if looks.wait(seconds):
                changes.set_wanted(others, 1, Wanted.STOP)
                return True
            return False

        looks = Looks(before=begin_look)
        one = Worker(store, 1, spec, steered(store), fakes.measure)
        one.prepare(fakes.prepare, torch.device("cpu"))
        one.steering.wait_for_news = wait  # type: ignore[method-assign]
        hold = liveness.Hold()
        try:
            slots.claim(others, 1, studies.enter(others, 1, lock=str(hold.path), device=None, task="search"))
            changes.set_wanted(others, 1, wanted)
            with asked.listening():
                one.search()
        finally:
            one.close()
            hold.release()
    return asked, looks
