"""A fault, what an attempt at it is given, and how it says that something was lost. Knows no fault."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from kdnas.store.database import open_store
from kdnas.store.optuna_storage import optuna_storage
from kdnas.system import seeds
from tests.encoders import text_folder, tiny_encoder
from tests.forks import Command, Forked
from tests.postgres import BINARIES, Server

STUCK_S = 240.0  # what takes so long has hung


class Lost(Exception):  # noqa: N818 - what an attempt found, in words
    """Something was lost, doubled, torn, let out or hung; the words say what."""


class NotHere(Exception):  # noqa: N818
    """This machine cannot try it; the words say why."""


class Kit:
    """What attempts share, made when it is first needed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._servers: dict[str, Server] = {}
        self.kept: dict[object, object] = {}  # what an undisturbed study found

    @cached_property
    def empty(self) -> Path:
        """A store without studies: copied, since making the tables takes most of a second."""
        path = self.folder / "empty.db"
        with open_store(path, create=True) as opened:
            optuna_storage(opened).engine.dispose()
        return path

    @cached_property
    def teacher(self) -> Path:
        return tiny_encoder(self.folder / "teacher")

    @cached_property
    def text(self) -> Path:
        return text_folder(self.folder / "text")

    def server(self, purpose: str) -> Server:
        """A running server; `outages` has one of its own."""
        if not BINARIES:
            raise NotHere("no PostgreSQL on this machine")
        if purpose not in self._servers:
            folder = self.folder / f"postgres-{purpose}"
            folder.mkdir()
            self.folder.chmod(0o755)
            self._servers[purpose] = server = Server(folder)
            server.start()
        return self._servers[purpose]

    def close(self) -> None:
        for server in self._servers.values():
            server.stop()


@dataclass
class Ground:
    """One attempt's: its seed, its random numbers, a folder of its own and the processes that it started."""

    seed: int
    folder: Path
    kit: Kit
    processes: list[Forked] = field(default_factory=list)

    @cached_property
    def rng(self) -> np.random.Generator:
        return seeds.generator(self.seed, seeds.Benchmark.DEATHS)

    def moment(self, most: float) -> None:
        """Let a random time pass."""
        time.sleep(float(self.rng.uniform(0.0, most)))

    def fork(self, work: Callable[[], int]) -> Forked:
        """A process that has loaded all that is heavy; what it writes is kept for `complaints`."""
        number = len(self.processes)

        def quietly() -> int:
            os.setsid()
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            out = os.open(self.folder / f"{number}.said", os.O_WRONLY | os.O_CREAT, 0o600)
            for descriptor in (1, 2):
                os.dup2(out, descriptor)
            sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
            signal.setitimer(signal.ITIMER_REAL, 0)
            return work()

        self.processes.append(forked := Forked(quietly))
        return forked

    def kdnas(self, *words: object, **environment: str) -> Command:
        """`kdnas WORDS`, as a user runs it in the attempt's folder."""
        given = {name: value for name, value in os.environ.items() if name != "KDNAS_FAKE"}
        command = Command(
            ["kdnas.cli", *map(str, words)], self.folder, {**given, **environment}, self.folder / "commands"
        )
        self.processes.append(command)
        return command

    def ran(self, *words: object, codes: tuple[int, ...] = (0,), **environment: str) -> str:
        """What a command printed. Raises Lost where it ended otherwise than with one of `codes`, or in a traceback."""
        command = self.kdnas(*words, **environment)
        code = self.ended(command, " ".join(map(str, words[:2])))
        out, err = command.out.read_text(errors="replace"), command.err.read_text(errors="replace")
        if "Traceback" in out + err:
            raise Lost(f"`kdnas {words[0]}` ended in a traceback: {last_line(err or out)}")
        if code not in codes:
            raise Lost(f"`kdnas {words[0]}` ended with {code}: {last_line(err)}")
        lines = [line for line in err.splitlines() if line.startswith("kdnas: ")]
        found = words[0] == "doctor" and "✗" in out  # it answers: what it was asked for is what is wrong
        if code and len(lines) != 1 and not found:
            raise Lost(f"`kdnas {words[0]}` ended with {code} and {len(lines)} lines of why")
        return out

    def ended(self, process: Forked, what: str = "a worker") -> int:
        """Its exit code. Raises Lost where it hangs."""
        end = time.monotonic() + STUCK_S
        while (code := process.poll()) is None:
            if time.monotonic() > end:
                process.kill()
                raise Lost(f"{what} hung")
            time.sleep(0.005)
        return code

    def complaints(self) -> None:
        """Raises Lost where a process wrote a traceback."""
        for path in self.folder.glob("*.said"):
            text = path.read_text(errors="replace")
            if "Traceback" in text:
                raise Lost(f"a traceback: {last_line(text)}")

    def clear(self) -> None:
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                process.kill()
                process.wait()


Attempt = Callable[[Ground], int]
"""Tries a fault; how often it struck. Raises Lost, NotHere."""


@dataclass(frozen=True)
class Fault:
    """`share` of the time, beside those of the other faults; `quick` where it is among the short selection."""

    kind: str
    name: str
    attempt: Attempt
    share: float = 1.0
    quick: bool = False

    @property
    def title(self) -> str:
        return f"{self.kind}: {self.name}"


@dataclass
class Tally:
    """What became of one fault."""

    fault: Fault
    tried: int = 0  # how often it struck
    seeds: list[int] = field(default_factory=list)  # one of each attempt
    seconds: float = 0.0
    lost: dict[int, str] = field(default_factory=dict)  # seed: what
    not_here: str | None = None

    @property
    def attempts(self) -> int:
        return len(self.seeds)

    def facts(self) -> dict[str, Any]:
        """For JSON; `of` reads it."""
        return {
            "tried": self.tried,
            "seeds": self.seeds,
            "seconds": self.seconds,
            "lost": list(self.lost.items()),
            "not_here": self.not_here,
        }

    @classmethod
    def of(cls, fault: Fault, facts: dict[str, Any]) -> Tally:
        lost = {int(seed): str(what) for seed, what in facts["lost"]}
        return cls(fault, facts["tried"], facts["seeds"], facts["seconds"], lost, facts["not_here"])


def attempted(tally: Tally, seed: int, kit: Kit) -> None:
    """One attempt, counted."""
    began = time.monotonic()
    before = dict(os.environ)
    with tempfile.TemporaryDirectory(prefix="torture-", dir=kit.folder, ignore_cleanup_errors=True) as folder:
        ground = Ground(seed, Path(folder), kit)
        os.environ["KDNAS_STATE"] = str(ground.folder / "state")
        os.environ["KDNAS_CONFIG"] = str(ground.folder / "config")
        try:
            with in_time():
                struck = tally.fault.attempt(ground)
            ground.complaints()
            tally.tried += struck
        except NotHere as why:
            tally.not_here = str(why)
        except Lost as what:
            tally.tried += 1
            tally.lost[seed] = str(what)
        except Exception as error:  # of the attempt itself: nobody could say that it was survived
            tally.tried += 1
            tally.lost[seed] = f"{type(error).__name__}: {error}"
        finally:
            ground.clear()
            os.environ.clear()
            os.environ.update(before)
    if tally.not_here is None:
        tally.seeds.append(seed)
    tally.seconds += time.monotonic() - began


@contextlib.contextmanager
def in_time() -> Iterator[None]:
    """Raises Lost inside after twice the time of what has hung."""

    def over(_number: int, _frame: object) -> None:
        raise Lost("the attempt hung")

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, 2 * STUCK_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return re.sub(r"[^ -~]", "?", lines[-1])[:160] if lines else "nothing was said"
