"""Signals that end a process, as one KeyboardInterrupt in its main thread that is not lost.

It may be: in a finalizer Python only prints what is raised, and libraries in C clear it or say something else. So
whatever takes long calls `check` between its steps, and so does whoever is about to blame an error on something else.
What must not be left in its midst, such as a transaction whose locks nobody would free, is `deferred`.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, NoReturn

AGAIN_S = 0.05  # how soon an interrupt that was lost is raised again
DEFERRED_S = 2.0  # a signal that comes so long after the first one waits for nothing


class _Interrupts:
    """Raises KeyboardInterrupt once, and again where Python dropped it: what is raised inside a finalizer, or inside a
    callback of a weak reference or of the garbage collector, only reaches `sys.unraisablehook`."""

    def __init__(self, quiet: threading.Event, elsewhere: Callable[[Any], object]) -> None:
        self._quiet = quiet
        self._raised: KeyboardInterrupt | None = None
        self._waits_since: float | None = None
        self._lock = threading.Lock()
        self._over = False
        self._number = signal.SIGTERM
        self.elsewhere = elsewhere  # where everything else goes that Python dropped

    def handle(self, number: int, _frame: FrameType | None) -> None:
        if self._quiet.is_set() or self._raised is not None:
            return
        self._number = signal.Signals(number)
        now = time.monotonic()
        if _deferring and (self._waits_since is None or now - self._waits_since < DEFERRED_S):
            self._waits_since = self._waits_since or now
        else:
            self._raise()

    def arrive(self) -> None:
        """Raises what waited."""
        if self._waits_since is not None and self._raised is None and not self._quiet.is_set():
            self._raise()

    def _raise(self) -> NoReturn:
        self._raised = KeyboardInterrupt()
        raise self._raised

    def dropped(self, what: Any) -> None:
        """In place of `sys.unraisablehook`."""
        if what.exc_value is None or what.exc_value is not self._raised:
            self.elsewhere(what)
            return
        self._raised = None
        timer = threading.Timer(AGAIN_S, self._send)
        timer.daemon = True
        timer.start()

    def _send(self) -> None:
        with self._lock:
            if not self._over:
                signal.pthread_kill(threading.main_thread().ident or 0, self._number)

    def check(self) -> None:
        if self._raised is not None and not self._quiet.is_set():
            raise KeyboardInterrupt

    def end(self) -> None:
        with self._lock:
            self._over = True


_active: list[_Interrupts] = []
_deferring = 0  # how many `deferred` the main thread is in


def check() -> None:
    """Raises KeyboardInterrupt again where a signal's was raised inside `interruptible`, and yet the work goes on."""
    if threading.current_thread() is threading.main_thread():
        for interrupts in _active:
            interrupts.check()


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """A signal's KeyboardInterrupt waits until what runs inside is over; that of a signal DEFERRED_S later does not."""
    global _deferring
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _deferring += 1
    try:
        yield
    finally:
        _deferring -= 1
        if not _deferring:
            for interrupts in _active:
                interrupts.arrive()


@contextlib.contextmanager
def interruptible(*, hangup: bool = True) -> Iterator[threading.Event]:
    """SIGTERM, SIGINT and, with `hangup`, a terminal that goes away raise KeyboardInterrupt inside, once, so that what
    runs ends properly. Setting the event keeps them from it. Who asked for SIGHUP to be ignored (nohup) gets that.

    Outside the main thread nothing is changed.
    """
    quiet = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield quiet
        return
    wanted = [signal.SIGTERM, signal.SIGINT]
    if hangup and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        wanted.append(signal.SIGHUP)
    interrupts = _Interrupts(quiet, sys.unraisablehook)
    sys.unraisablehook = interrupts.dropped
    before = {number: signal.signal(number, interrupts.handle) for number in wanted}
    _active.append(interrupts)
    try:
        yield quiet
    finally:
        _active.remove(interrupts)
        interrupts.end()
        for number, handler in before.items():
            signal.signal(number, handler)
        sys.unraisablehook = interrupts.elsewhere
