"""A process at work on a study, as others see it: its row, its heartbeat, what people want of it, and how it ends.

Searching, rechecking and every other task enter and leave by `at_work`. Knows nothing of what the work is.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator

from kdnas.store import changes, queries, studies
from kdnas.store.complaints import StoreError
from kdnas.store.database import Store
from kdnas.store.patience import Patience
from kdnas.study.states import WorkerState
from kdnas.system import interrupts, liveness
from kdnas.system.errors import KdnasError
from kdnas.system.text import clean

LOOK_S = 0.25  # how often a worker looks at what people want
ASK_S = 1.0  # the same where each look is a query to a server
WRITE_S = 1.0  # how often it writes down how far it is


def look_s(store: Store) -> float:
    """Seconds between two looks at the store."""
    return LOOK_S if store.is_sqlite else ASK_S


class Leave(Exception):  # noqa: N818 - no error: people asked for it
    """The worker is to end now, in the middle of whatever it does."""


class Steering(threading.Thread):
    """Writes that the worker lives and what it is at; reads what people want of it."""

    def __init__(self, store: Store, study_id: int, worker_id: int) -> None:
        super().__init__(name="steering", daemon=True)
        self.worker_id = worker_id
        self.calm: Callable[[], None] = lambda: None  # call it, and no signal interrupts the clearing up
        self.state = WorkerState.STARTING
        self.doing: str | None = "starting"
        self.device: str | None = None
        self.wanted = studies.wanted(store, study_id)
        self.gone: StoreError | None = None  # the main thread raises it at its next step
        self._store = store
        self._study_id = study_id
        self._news = threading.Condition()
        self._over = threading.Event()
        self._written: tuple[str, str | None, str | None] | None = None
        self._last = 0.0
        self._version: int | None = None

    def run(self) -> None:
        while not self._over.wait(look_s(self._store)):
            # A store that is busy or gone for a moment is the main thread's to complain of.
            with contextlib.suppress(KdnasError):
                self._notice_loss()
                if self._anything_new():
                    self.look()
                self._write()

    def look(self) -> str:
        """What people want now. Raises StoreError where the store has gone."""
        self._store.require_there()
        wanted = studies.wanted(self._store, self._study_id)
        if wanted != self.wanted:
            with self._news:
                self.wanted = wanted
                self._news.notify_all()
        return wanted

    def _notice_loss(self) -> None:
        try:
            self._store.require_there()
        except StoreError as gone:
            self.gone = gone
            raise

    def _anything_new(self) -> bool:
        """Whether the store may say something else than at the last look: on SQLite that costs no query."""
        if not self._store.is_sqlite:
            return True
        before, self._version = self._version, queries.changed(self._store)
        return self._version != before

    def _write(self) -> None:
        now = (self.state, self.doing, self.device)
        due = liveness.HEARTBEAT_S if now == self._written else (0.0 if self._changed_state(now) else WRITE_S)
        if time.monotonic() - self._last >= due:
            self._last = time.monotonic()
            studies.beat(self._store, self._study_id, self.worker_id, state=now[0], doing=now[1], device=now[2])
            self._written = now

    def _changed_state(self, now: tuple[str, str | None, str | None]) -> bool:
        return self._written is None or self._written[0] != now[0]

    def wait_for_news(self, known: str, seconds: float) -> bool:
        """Waits until people want something else than `known`, or for so many seconds; whether they do."""
        with self._news:
            return self._news.wait_for(lambda: self.wanted != known, seconds)

    def log(self, level: str, line: str) -> None:
        """A line for the study's log, under this worker's number."""
        changes.add_log(self._store, self._study_id, level, line, self.worker_id)

    def tell(self, line: str, back: bool) -> None:
        """That the store is away, or back: where the process's output goes, and then in the study's log."""
        print(clean(f"kdnas: {line}"), file=sys.stderr, flush=True)
        if back:
            self.log("warning", line)

    def leave_what_is_gone(self) -> None:
        """Raises StoreError where the store was deleted or replaced."""
        if self.gone is not None:
            raise self.gone

    def end(self) -> None:
        self._over.set()
        self.join()


@contextlib.contextmanager
def at_work(store: Store, study_id: int, task: str) -> Iterator[Steering]:
    """Inside, this process has a row among the study's workers. `task`: search, recheck, finalize or evaluate.

    Signals that end a process raise KeyboardInterrupt inside, once. What fails inside is written to the row and raised
    as KdnasError; Leave and KeyboardInterrupt pass through and count as a proper end.
    """
    with interrupts.interruptible() as quiet:
        hold = liveness.Hold()
        worker_id = studies.enter(store, study_id, lock=str(hold.path), device=None, task=task)
        steering = Steering(store, study_id, worker_id)
        steering.calm = quiet.set
        steering.start()
        error: str | None = None
        at_fault = True  # the study, and not its store
        try:
            store.patience = Patience(steering.tell, steering.leave_what_is_gone)
            yield steering
        except Leave:
            raise
        except KdnasError as problem:
            interrupts.check()
            error, at_fault = str(problem), not isinstance(problem, StoreError)
            raise
        except Exception as fault:
            interrupts.check()
            error = f"A fault of kdnas: {type(fault).__name__}: {fault}"
            with contextlib.suppress(KdnasError):
                steering.log("error", traceback.format_exc())
            raise KdnasError(error) from fault
        finally:
            quiet.set()
            store.patience = None
            steering.end()
            known = False
            with contextlib.suppress(StoreError):
                if error is not None:
                    steering.log("error", error)
                studies.leave(store, study_id, worker_id, device=steering.device, error=error, at_fault=at_fault)
                known = True
            store.settle()
            hold.release(known=known)
