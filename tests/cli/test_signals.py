"""What `kdnas search` does about signals: whose terminal goes away hears that the search goes on, and how to end it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from kdnas.cli.search import steered


@pytest.fixture
def hung_up() -> Iterator[list[int]]:
    """The signals that came to the handler that was there before."""
    heard: list[int] = []
    before = signal.signal(signal.SIGHUP, lambda number, _: heard.append(number))
    yield heard
    signal.signal(signal.SIGHUP, before)


def test_a_dropped_terminal_is_told_that_the_search_goes_on(
    hung_up: list[int], capfd: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(signal.SIGHUP), signal.getsignal(signal.SIGTERM)
    with steered("films", "sqlite:///k 1.db"):
        os.kill(os.getpid(), signal.SIGHUP)
    said = capfd.readouterr().err
    assert "films goes on without this command." in said
    assert "Watch it with: kdnas-tui films --storage 'sqlite:///k 1.db'." in said
    assert "End it with: kdnas stop films --storage 'sqlite:///k 1.db'" in said
    assert hung_up == [signal.SIGHUP]  # which ends the process, where nobody tests
    assert (signal.getsignal(signal.SIGHUP), signal.getsignal(signal.SIGTERM)) == before


def test_sigterm_is_an_interrupt_and_who_ignores_sighup_goes_on_ignoring_it() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with pytest.raises(KeyboardInterrupt), steered("films", None):
            os.kill(os.getpid(), signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
            os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGHUP, before)
