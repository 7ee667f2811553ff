"""Puts a new worker where one was killed, until the study has ended. Starts and ends none otherwise."""

from __future__ import annotations

from collections.abc import Callable

from kdnas.search.launch import Process, Started

MOST = 10  # new workers on one place: what kills so many is no accident


class Kept:
    """A worker process, and whatever comes after it where a signal that it could not heed ended it. One that ends by
    itself, with whatever code, is not replaced: another would end just so."""

    def __init__(
        self,
        started: Started,
        start: Callable[[], Started],
        goes_on: Callable[[], bool],
        tell: Callable[[str], None],
    ) -> None:
        """`started` is the first one, and `start` starts another; `goes_on` says whether the study still has something
        to do; `tell` gets a line for each death."""
        self.started = started
        self._start, self._goes_on, self._tell = start, goes_on, tell
        self.replaced = 0

    @property
    def process(self) -> Process:
        return self.started.process

    def poll(self) -> int | None:
        """The last one's exit code; None while one runs."""
        code = self.process.poll()
        if code is None or code >= 0 or self.replaced == MOST or not self._goes_on():
            return code
        self.replaced += 1
        self._tell(f"A worker was killed by signal {-code}; another one takes its place.")
        self.started = self._start()
        return None

    def wait(self, timeout: float | None = None) -> int:
        """The end of the present one. Raises subprocess.TimeoutExpired."""
        return self.process.wait(timeout)
