"""A worker that another process forks, as `subprocess.Popen` would tell of it. Starts nothing.

One pipe leads here from each worker. Its writers are the worker and the process that forked it: `pid N` comes once it
runs, `code N` once it has ended, and the pipe's end where both are gone.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time


class ForkedProcess:
    """A worker, from the moment at which it was ordered."""

    def __init__(self, parent: subprocess.Popen[bytes], pipe: int) -> None:
        """`parent` forks it; `pipe` is read, and closed once nothing can come of it any more."""
        self.returncode: int | None = None
        self._parent = parent
        self._pipe = pipe
        self._began: int | None = None
        self._heard = b""

    @property
    def pid(self) -> int:
        """Waits until it is known. Of a worker that never began it is its parent's."""
        while self._began is None and self.returncode is None:
            self._hear(None)
        return self._parent.pid if self._began is None else self._began

    def poll(self) -> int | None:
        """Its exit code, or minus the signal that ended it; None while it runs."""
        while self.returncode is None and self._hear(0.0):
            pass
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, at its end. Raises subprocess.TimeoutExpired after `timeout` seconds."""
        end = None if timeout is None else time.monotonic() + timeout
        while self.returncode is None:
            left = None if end is None else max(0.0, end - time.monotonic())
            if not self._hear(left) and timeout is not None:
                raise subprocess.TimeoutExpired("worker", timeout)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Before it began, it never will, and neither will those that were to begin with it."""
        if self.poll() is None and self._began is None:
            self._parent.kill()
            while self._began is None and self.returncode is None:
                self._hear(None)
        if self.poll() is None and self._began is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._began, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _hear(self, timeout: float | None) -> bool:
        """Takes in what the pipe says within so many seconds; whether it said anything."""
        if not select.select([self._pipe], [], [], timeout)[0]:
            return False
        read = os.read(self._pipe, 4096)
        self._heard += read
        *lines, self._heard = self._heard.split(b"\n")
        for line in lines:
            what, _, value = line.partition(b" ")
            if what == b"pid":
                self._began = int(value)
            elif self.returncode is None:
                self.returncode = int(value)
        if self.returncode is None and not read:
            # Without a word: it never began, or a signal took it when its parent was dead already.
            self.returncode = -signal.SIGKILL if self._began is not None else (self._parent.wait() or 1)
        if self.returncode is not None:
            os.close(self._pipe)
        return True
