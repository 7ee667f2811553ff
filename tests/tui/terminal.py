"""A real terminal for tests: `kdnas-tui` on a pseudo-terminal, its screen kept by an emulator."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pexpect
import pyte

PATIENCE_S = 120.0
KEYS = {"enter": "\r", "escape": "\x1b", "tab": "\t", "left": "\x1b[D", "down": "\x1b[B", "^s": "\x13"}


class Terminal:
    """A process on a pseudo-terminal of its own session, started by the command `through` where one is given."""

    def __init__(
        self,
        arguments: list[str],
        folder: Path,
        environment: Mapping[str, str],
        size: tuple[int, int] = (120, 36),
        through: Sequence[str] = (),
    ) -> None:
        columns, rows = size
        self.screen = pyte.Screen(columns, rows)
        self.stream = pyte.ByteStream(self.screen)
        self.bytes = b""
        # Several tests at once run with a size of their own there, which Textual believes before the terminal's.
        inherited = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
        command = [*through, sys.executable, "-m", "kdnas_tui", *arguments]
        self.child: Any = pexpect.spawn(
            command[0],
            command[1:],
            cwd=str(folder),
            env={**inherited, "TERM": "xterm-256color", "COLORTERM": "truecolor", **environment},
            dimensions=(rows, columns),
            timeout=1,
        )

    @property
    def pid(self) -> int:
        return int(self.child.pid)

    @property
    def text(self) -> str:
        return "\n".join(line.rstrip() for line in self.screen.display)

    def read(self, seconds: float = 0.05) -> None:
        """Take in what the process has written meanwhile."""
        try:
            chunk = self.child.read_nonblocking(65536, timeout=seconds)
        except (pexpect.TIMEOUT, pexpect.EOF):
            return
        self.bytes += chunk
        self.stream.feed(chunk)

    def until(self, condition: str | Callable[[], Any], what: str = "") -> None:
        """Read until a text is shown or a condition holds."""
        holds = condition if callable(condition) else (lambda: condition in self.text)
        end = time.monotonic() + PATIENCE_S
        while not holds():
            assert time.monotonic() < end, f"waited in vain for {what or condition!r}\n{self.text}"
            self.read()

    def press(self, *keys: str) -> None:
        for key in keys:
            self.child.send(KEYS.get(key, key))

    def hang_up(self) -> None:
        """What the kernel does when the connection drops: the terminal is gone, and the process is told."""
        os.close(self.child.child_fd)
        self.child.child_fd, self.child.closed = -1, True

    def ended(self) -> int:
        """Wait for the end; the exit code, negative for a signal."""
        end = time.monotonic() + PATIENCE_S
        while self.child.isalive():
            assert time.monotonic() < end, f"it does not end\n{self.text}"
            self.read()
        while True:
            before = len(self.bytes)
            self.read(0.2)
            if len(self.bytes) == before:
                break
        if self.child.signalstatus is not None:
            return -int(self.child.signalstatus)
        return int(self.child.exitstatus)

    def kill(self) -> None:
        if self.child.isalive():
            self.child.kill(signal.SIGKILL)
        if not self.child.closed:
            self.child.close(force=True)
