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
from typing import Any

from kdnas.measuring import device_waits
from kdnas.search.every import Every
from kdnas.store import changes, queries, slots, studies
from kdnas.store.complaints import StoreError
from kdnas.store.database import Store
from kdnas.store.notices import Ear, News
from kdnas.store.patience import Patience
from kdnas.study.states import WorkerState
from kdnas.system import interrupts, liveness
from kdnas.system.errors import KdnasError
from kdnas.system.text import clean

LOOK_S = 0.25  # how often a worker looks at what people want
ASK_S = 1.0  # the same where each look is a query to a server
LISTENING_LOOK_S = 20.0  # the same where the store tells of news by itself
AGAIN_S = 10.0  # how often it is tried to listen again once the connection was lost
TRIM_S = 5.0  # how often it looks whether a file's log has grown large
WRITE_S = 1.0  # how often it writes down how far it is
WAIT_S = 2.0  # how often it looks whether the worker waits for its device


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
        self._ear: Ear | None = None  # where the store tells of news by itself
        self._heard = 0  # notices
        self._all_news = False  # whether those of slots are listened to, too
        self._listened = Every(AGAIN_S)
        self._asked = Every(LISTENING_LOOK_S)
        self._trimmed = Every(TRIM_S)
        self._looked_at_wait = Every(WAIT_S)
        self._wait: device_waits.Wait | None = None
        self._told_of: int | None = None  # the stopped process that the log names already
        self._carried: tuple[int, dict[str, Any]] | None = None  # a trial, and what is still to be written of it
        self._carried_since = 0.0
        self._over = threading.Event()
        self._written: tuple[str, str | None, str | None] | None = None
        self._last = 0.0
        self._version: int | None = None

    def run(self) -> None:
        self._listen()
        while not self._waited():
            # A store that is busy or gone for a moment is the main thread's to complain of.
            with contextlib.suppress(KdnasError):
                self._notice_loss()
                if self._anything_new():
                    self.look()
                self._write()
                self._write_carried()
                self._notice_wait()
                if self._trimmed.due():
                    self._store.trim()
        if self._ear is not None:
            self._ear.close()

    def _waited(self) -> bool:
        """Until the next look; whether the thread is to end."""
        if self._ear is None:
            if self._over.wait(look_s(self._store)):
                return True
            self._listen()
            return False
        try:
            heard = self._ear.wait(ASK_S)
        except StoreError:
            self._ear.close()
            self._ear = None
            heard = set(News)
        if heard:
            with self._news:
                self._heard += 1
                self._news.notify_all()
            if News.WISH in heard:
                self._asked.now()
        return self._over.is_set()

    def _listen(self) -> None:
        """To a store that tells of news, and again where the connection was lost."""
        if self._store.is_sqlite or not self._listened.due():
            return
        with contextlib.suppress(KdnasError):
            self._ear = Ear(self._store, self._study_id)
            if self._all_news:
                self._ear.listen(News.SLOT)
            self._asked.now()
            self._heard += 1  # what happened meanwhile was not heard

    def look(self) -> str:
        """What people want now. Raises StoreError where the store has gone."""
        self._store.require_there()
        wanted = studies.wanted(self._store, self._study_id)
        self.hear(wanted)
        return wanted

    def hear(self, wanted: str) -> None:
        """What somebody has just read that people want."""
        if wanted != self.wanted:
            with self._news:
                self.wanted = wanted
                self._news.notify_all()

    @property
    def listening(self) -> bool:
        """Whether the store tells of news by itself now."""
        return self._ear is not None

    def changed(self) -> object:
        """What differs whenever the store may say something else than at the last call. Where the store tells of news
        by itself, that costs no query."""
        if self._ear is None:
            return queries.changed(self._store)
        return ("heard", self._heard)

    def listen_to_slots(self) -> bool:
        """From now on slots that end or become free are news, too; whether they were none before. For who waits."""
        ear, known, self._all_news = self._ear, self._all_news, True
        if ear is None or known:
            return False
        with contextlib.suppress(StoreError):  # a connection that is lost: the thread beside listens anew
            ear.listen(News.SLOT)
        return True

    def _notice_loss(self) -> None:
        try:
            self._store.require_there()
        except StoreError as gone:
            self.gone = gone
            raise

    def _notice_wait(self) -> None:
        """A worker that waits long for its device says for whom; in the log, too, where it would wait for ever."""
        if not self._looked_at_wait.due():
            return
        self._wait = wait = device_waits.long_wait()
        if wait is None or not wait.stopped:
            self._told_of = None
        elif wait.process != self._told_of:
            self.log("warning", wait.advice)  # again at the next look where the store is busy
            self._told_of = wait.process

    def _anything_new(self) -> bool:
        """Whether the store may say something else than at the last look: on SQLite that costs no query."""
        if self._ear is not None:
            return self._asked.due()
        if not self._store.is_sqlite:
            return True
        before, self._version = self._version, queries.changed(self._store)
        return self._version != before

    def _write(self) -> None:
        now = (self.state, self.doing if self._wait is None else self._wait.words, self.device)
        news = self._written is None or self._written[0] != self.state
        due = 0.0 if news else WRITE_S if now != self._written else liveness.HEARTBEAT_S
        if time.monotonic() - self._last >= due:
            self._last = time.monotonic()
            state, doing, device = now
            one = self._study_id, self.worker_id
            studies.beat(self._store, *one, state=state, doing=doing, device=device, news=news)
            self._written = now

    def carry(self, number: int, **columns: Any) -> None:
        """What is to be written of a running trial with whatever is written of it next, or in a second by itself: most
        phases are shorter."""
        with self._news:
            if self._carried is None or self._carried[0] != number:
                self._carried, self._carried_since = (number, {}), time.monotonic()
            self._carried[1].update(columns)

    def carried(self, number: int) -> dict[str, Any]:
        """What was carried of the trial, which the caller writes."""
        with self._news:
            carried, self._carried = self._carried, None
        return carried[1] if carried is not None and carried[0] == number else {}

    def _write_carried(self) -> None:
        carried = self._carried
        if carried is None or time.monotonic() - self._carried_since < WRITE_S:
            return
        with contextlib.suppress(slots.SlotTaken):  # the main thread will see it
            slots.progress(self._store, self._study_id, carried[0], **self.carried(carried[0]))

    def wait_for_news(self, known: str, seconds: float) -> bool:
        """Waits until people want something else than `known`, the store tells of news, or for so many seconds;
        whether people do."""
        with self._news:
            before = self._heard
            self._news.wait_for(lambda: self.wanted != known or self._heard != before, seconds)
            return self.wanted != known

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
        if (ear := self._ear) is not None:
            ear.wake()
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
