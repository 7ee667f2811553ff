"""A signal that ends a process does so, wherever it arrives."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from kdnas.system import interrupts
from kdnas.system.interrupts import check, deferred, interruptible


class Thing:
    pass


def hit(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0)  # the handler runs here


class Finalized:
    def __del__(self) -> None:
        hit()


def in_a_finalizer() -> None:
    Finalized()


def in_a_callback_of_a_weak_reference() -> None:
    thing = Thing()
    gone = weakref.ref(thing, hit)
    del thing
    assert gone() is None


def in_the_garbage_collector() -> None:
    gc.callbacks.append(hit)
    try:
        gc.collect()
    finally:
        gc.callbacks.remove(hit)


def wait() -> None:
    for _ in range(6000):
        time.sleep(0.01)
    raise AssertionError("the interrupt was lost")


@pytest.mark.parametrize("where", [hit, in_a_finalizer, in_a_callback_of_a_weak_reference, in_the_garbage_collector])
def test_an_interrupt_arrives_wherever_the_signal_did(where: Callable[[], None]) -> None:
    with pytest.raises(KeyboardInterrupt), interruptible():
        where()
        wait()


def swallowed() -> None:
    with contextlib.suppress(BaseException):
        hit()


def test_what_a_library_swallowed_is_raised_at_the_next_step() -> None:
    check()
    with interruptible() as quiet:
        check()
        swallowed()
        with pytest.raises(KeyboardInterrupt):
            check()
        with pytest.raises(KeyboardInterrupt), interruptible():
            check()
        quiet.set()
        check()
    check()


def test_it_waits_for_the_end_of_what_is_not_to_be_left_in_its_midst() -> None:
    whole = []
    with interruptible(), pytest.raises(KeyboardInterrupt), deferred():
        with deferred():
            hit()
            whole.append("inner")
        check()
        whole.append("outer")
    assert whole == ["inner", "outer"]
    with deferred():  # nothing of it is left
        pass


def test_it_comes_in_place_of_the_error_that_ends_what_it_waited_for() -> None:
    with interruptible(), pytest.raises(KeyboardInterrupt), deferred():
        hit()
        raise ValueError("the store is gone")


def test_a_later_signal_waits_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interrupts, "DEFERRED_S", 0.0)
    with interruptible(), deferred():
        hit()
        with pytest.raises(KeyboardInterrupt):
            hit()


def test_what_waited_is_forgotten_where_things_are_cleared_up() -> None:
    with interruptible() as quiet, deferred():
        hit()
        quiet.set()


def test_it_comes_once_and_not_while_things_are_cleared_up() -> None:
    with interruptible() as quiet:
        with pytest.raises(KeyboardInterrupt):
            hit()
        hit()
        in_a_finalizer()
        quiet.set()
        hit()


def test_what_else_is_dropped_goes_where_it_went_before(monkeypatch: pytest.MonkeyPatch) -> None:
    class Faulty:
        def __del__(self) -> None:
            raise ValueError("of its own")

    seen = []
    monkeypatch.setattr(sys, "unraisablehook", lambda what: seen.append(str(what.exc_value)))
    hook = sys.unraisablehook
    with interruptible():
        Faulty()
    assert seen == ["of its own"] and sys.unraisablehook is hook


def test_all_is_as_before_afterwards(request: pytest.FixtureRequest) -> None:
    outside = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it is ignored, and stays so
    request.addfinalizer(lambda: signal.signal(signal.SIGHUP, outside))
    before = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)]
    with interruptible():
        assert signal.getsignal(signal.SIGHUP) != before[2]
    with interruptible(hangup=False):
        assert signal.getsignal(signal.SIGHUP) == before[2]
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)] == before


def test_elsewhere_than_in_the_main_thread_signals_are_left_alone() -> None:
    seen: list[Any] = []

    def enter() -> None:
        with interruptible():
            seen.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [before]
