"""kdnas-tui on a pseudo-terminal, killed in every way, squeezed, flooded, not read, poor: the terminal is left as it
was, the search beside it notices nothing, and nothing from outside gets out."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import signal
import struct
import sys
import termios
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pyte

from benchmarks.torture.faults import STUCK_S, Fault, Ground, Lost, last_line
from benchmarks.torture.searches import file_store, finish, kill, spec_of, told, undisturbed, whole, working
from kdnas.search.begin import begin
from tests.forks import Forked

GIVEN_BACK = (b"\x1b[?1049l", b"\x1b[?25h")  # from the alternate screen; the cursor is seen
MODES = (b"\x1b[?1000l", b"\x1b[?1003l", b"\x1b[?2004l")  # mouse and pasting as before


class Screen:
    """`kdnas-tui ARGUMENTS` on a pseudo-terminal, forked from a process that has loaded all it needs."""

    def __init__(self, ground: Ground, *arguments: str, size: tuple[int, int] = (100, 30), **environment: str) -> None:
        self.emulator = Watched(*size)
        self.stream = pyte.ByteStream(self.emulator)
        self.bytes = b""
        self.master, slave = pty.openpty()
        self.resize(*size)
        self.before = termios.tcgetattr(slave)

        def work() -> int:
            os.setsid()
            fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
            for descriptor in (0, 1, 2):
                os.dup2(slave, descriptor)
            os.close(self.master)
            encoding = environment.get("PYTHONIOENCODING", "utf-8")
            sys.stdin = sys.__stdin__ = os.fdopen(0, encoding=encoding)  # type: ignore[misc]
            sys.stdout = sys.__stdout__ = os.fdopen(1, "w", encoding=encoding)  # type: ignore[misc]
            sys.stderr = sys.__stderr__ = os.fdopen(2, "w", encoding=encoding)  # type: ignore[misc]
            for name in ("COLUMNS", "LINES", "NO_COLOR"):
                os.environ.pop(name, None)
            os.environ.update({"TERM": "xterm-256color", "COLORTERM": "truecolor", **environment})
            from kdnas_tui.main import run

            return run(list(arguments))

        self.slave = slave
        self.process = Forked(work)
        ground.processes.append(self.process)
        os.set_blocking(self.master, False)

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.emulator.resize(rows, columns)

    @property
    def text(self) -> str:
        return "\n".join(line.rstrip() for line in self.emulator.display)

    def read(self) -> bool:
        try:
            chunk = os.read(self.master, 1 << 16)
        except BlockingIOError:
            time.sleep(0.01)
            return False
        except OSError:
            return False
        self.bytes += chunk
        self.stream.feed(chunk)
        return bool(chunk)

    def until(self, condition: str | Callable[[], Any]) -> None:
        end = time.monotonic() + STUCK_S
        holds = condition if callable(condition) else (lambda: condition in self.text)
        while not holds():
            if self.process.poll() is not None:
                raise Lost(f"the screens ended with {self.process.returncode}: {last_line(self.text)}")
            if time.monotonic() > end:
                raise Lost(f"the screens never showed what was due: {condition!r}")
            self.read()

    def reads_for(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.read()

    def send(self, keys: bytes) -> None:
        while keys:
            try:
                keys = keys[os.write(self.master, keys) :]
            except BlockingIOError:
                self.read()

    def ended(self) -> int:
        end = time.monotonic() + STUCK_S
        while self.process.poll() is None:
            if time.monotonic() > end:
                raise Lost("the screens do not end")
            self.read()
        while self.read():
            pass
        assert self.process.returncode is not None
        return self.process.returncode

    def gave_back(self) -> None:
        """Raises Lost where the terminal is not as it was."""
        missing = [each for each in (*GIVEN_BACK, *MODES) if each not in self.bytes]
        if missing:
            raise Lost(f"the terminal keeps {missing}")
        if termios.tcgetattr(self.slave)[:4] != self.before[:4]:
            raise Lost("the terminal's settings are not those of before")
        if b"Traceback" in self.bytes:
            raise Lost("a traceback on the terminal")

    def close(self) -> None:
        for descriptor in (self.master, self.slave):
            with contextlib.suppress(OSError):
                os.close(descriptor)


class Watched(pyte.Screen):
    """An emulator that remembers what a hostile text would want of it."""

    titles: list[str]

    def __init__(self, columns: int, lines: int) -> None:
        self.titles = []
        super().__init__(columns, lines)

    def set_title(self, param: str) -> None:
        self.titles.append(param)

    def set_icon_name(self, param: str) -> None:
        self.titles.append(param)


def running(ground: Ground, trials: int = 30) -> tuple[str, Forked]:
    place = file_store(ground)
    begin(spec_of("random", ground.seed, budget={"trials": trials}), place)
    return place, ground.fork(working(place))


def done_well(ground: Ground, place: str, worker: Forked) -> None:
    """The search that was watched finished as it would have."""
    if ground.ended(worker) != 0:
        raise Lost("its worker ended")
    whole(place)


def ended_by(ground: Ground, how: str) -> int:
    """Every way in which screens end, at a random moment, while a worker searches."""
    place, worker = running(ground)
    screen = Screen(ground, "fake", "--storage", place)
    try:
        if how not in ("killed", "hung up"):
            screen.until("fake")
        screen.reads_for(float(ground.rng.uniform(0.0, 2.0)))
        if how == "hung up":
            os.close(screen.master)
            end = time.monotonic() + STUCK_S
            while screen.process.poll() is None:
                if time.monotonic() > end:
                    raise Lost("the screens outlive their terminal")
                time.sleep(0.02)
        elif how == "left by q":
            screen.send(b"q")
            if screen.ended() != 0:
                raise Lost(f"q ended with {screen.process.returncode}")
            screen.gave_back()
        else:
            number = {"killed": signal.SIGKILL, "terminated": signal.SIGTERM, "hung up by a signal": signal.SIGHUP}[how]
            os.kill(screen.process.pid, number)
            code = screen.ended()
            if how == "terminated":
                if code != 128 + number:
                    raise Lost(f"SIGTERM ended with {code}")
                screen.gave_back()
        done_well(ground, place, worker)
    finally:
        screen.close()
    return 1


def both_killed(ground: Ground) -> int:
    """Screens and worker die together, again and again; whoever opens them next sees all that was finished."""
    spec = spec_of("tpe", ground.seed)
    expected = undisturbed(ground, spec)
    place = file_store(ground)
    begin(spec, place)
    deaths = 0
    for _ in range(3):
        worker = ground.fork(working(place))
        screen = Screen(ground, "fake", "--storage", place)
        screen.reads_for(float(ground.rng.uniform(0.0, 2.5)))
        screen.process.kill()
        deaths += kill(ground, worker) + 1
        screen.process.wait()
        screen.close()
    finish(ground, place)
    whole(place)
    if told(place) != expected:
        raise Lost("it went on otherwise than without deaths")
    return deaths


def squeezed(ground: Ground) -> int:
    """Down to a single cell and back, in the middle of everything."""
    place, worker = running(ground)
    screen = Screen(ground, "fake", "--storage", place)
    tried = 0
    try:
        screen.until("fake")
        for _ in range(5):
            size = (
                (1, 1)
                if ground.rng.random() < 0.5
                else (int(ground.rng.integers(1, 200)), int(ground.rng.integers(1, 60)))
            )
            screen.resize(*size)
            screen.send(bytes(ground.rng.choice([b"j", b"k", b"\t", b"/", b"\x1b", b"?"])))
            screen.reads_for(0.2)
            tried += 1
        screen.send(b"\x1b\x1b")
        screen.resize(100, 30)
        screen.until("fake")
        os.kill(screen.process.pid, signal.SIGTERM)
        screen.ended()
        screen.gave_back()
        done_well(ground, place, worker)
    finally:
        screen.close()
    return tried


def flooded(ground: Ground) -> int:
    """A megabyte is pasted, bracketed, into a list and into a field; keys are obeyed again afterwards."""
    place, worker = running(ground)
    screen = Screen(ground, "--storage", place)
    try:
        screen.until("fake")
        letters = ground.rng.integers(32, 127, 1 << 20, dtype="uint8").tobytes()
        screen.send(b"\x1b[200~" + letters + b"\x1b[201~")
        screen.send(b"n")
        screen.until("new study")
        screen.send(b"\x1b[200~" + letters + b"\x1b[201~")
        screen.reads_for(1.0)
        os.kill(screen.process.pid, signal.SIGTERM)
        screen.ended()
        screen.gave_back()
        done_well(ground, place, worker)
    finally:
        screen.close()
    return 2


def unread(ground: Ground) -> int:
    """Nobody reads what the screens draw (a paused multiplexer, a stalled network): the search goes on all the same."""
    place, worker = running(ground)
    screen = Screen(ground, "fake", "--storage", place)
    try:
        screen.until("fake")
        done_well(ground, place, worker)  # meanwhile nothing is read
        screen.until("FINISHED")
        screen.send(b"q")
        screen.ended()
        screen.gave_back()
    finally:
        screen.close()
    return 1


def poor(ground: Ground, what: str) -> int:
    """Terminals that cannot say the signs, or want no colours."""
    place, worker = running(ground)
    given: dict[str, Any] = {"PYTHONIOENCODING": "ascii"} if what == "no UTF-8" else {"NO_COLOR": "1"}
    screen = Screen(ground, "fake", "--storage", place, **given)
    try:
        screen.until("fake")
        screen.reads_for(float(ground.rng.uniform(0.2, 1.0)))
        if what == "no UTF-8" and not screen.bytes.isascii():
            raise Lost("other letters than ASCII were sent")
        if what == "no colours" and coloured(screen.bytes):
            raise Lost("colours were sent")
        screen.send(b"q")
        screen.ended()
        screen.gave_back()
        done_well(ground, place, worker)
    finally:
        screen.close()
    return 1


def coloured(sent: bytes) -> bool:
    """Whether anything but shades of grey was sent: without colours, Textual draws in greys."""
    return any(not red == green == blue for red, green, blue in re.findall(rb"[34]8;2;(\d+);(\d+);(\d+)", sent))


FAULTS = [
    *(Fault("terminal", f"screens {how}", partial(ended_by, how=how), quick=how == "terminated")
      for how in ("killed", "terminated", "hung up", "hung up by a signal", "left by q")),
    Fault("terminal", "screens and worker killed together", both_killed, 1.5),
    Fault("terminal", "1×1 and back", squeezed, quick=True),
    Fault("terminal", "a megabyte pasted", flooded),
    Fault("terminal", "not read", unread),
    *(Fault("terminal", what, partial(poor, what=what)) for what in ("no UTF-8", "no colours")),
]  # fmt: skip
