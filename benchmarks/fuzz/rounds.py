"""Feeds a reader for a time, in a process of its own, and counts. A process that crashes or hangs is a finding, too."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hypothesis
from hypothesis import Phase, settings

import kdnas
from benchmarks.fuzz.reader import Bench, Given, Reader, Reading, Wrong
from kdnas.system.files import write_atomically
from tests.forks import Forked
from tests.fuzzing import SLOW

ROUND = 100  # inputs of one seed
SLOW_S = 1.0  # of computing, for one input
HUNG_S = 30.0  # of computing, after which the process is ended
STUCK_S = 120.0  # of waiting, after which it is
MOST_BYTES = 4 * 2**30  # of memory, beside what the process has when it begins to read
MOST_DEATHS = 20  # of the processes that feed one reader
PACKAGE = str(Path(kdnas.__file__).parent)


@dataclass
class Found:
    """One fault: what it was, the shortest input that showed it, and how many did."""

    what: str
    detail: str
    seed: int
    times: int = 0
    given: Given | None = None
    file: str = ""


@dataclass
class Tally:
    """What became of one reader."""

    title: str
    tried: int = 0
    refused: int = 0
    accepted: int = 0
    worst_s: float = 0.0
    found: dict[str, Found] = field(default_factory=dict)

    def add(self, what: str, detail: str, seed: int, given: Given | None) -> None:
        known = self.found.setdefault(what, Found(what, detail, seed))
        known.times += 1
        if given is not None and (known.given is None or len(given.raw) < len(known.given.raw)):
            known.given, known.detail, known.seed = given, detail, seed

    def fed(self, reading: Reading, given: Given, seed: int) -> None:
        """One input, counted."""
        self.tried += 1
        began = time.process_time()
        try:
            accepted = reading.feed(given)
        except Wrong as wrong:
            self.add(wrong.kind, wrong.detail, seed, given)
        except (Exception, SystemExit) as error:  # what a person would see as a traceback
            self.add(_place(error), "".join(traceback.format_exception(error))[-3000:], seed, given)
        else:
            self.accepted += accepted
            self.refused += not accepted
        took = time.process_time() - began
        self.worst_s = max(self.worst_s, took)
        if took > SLOW_S:
            self.add("more than a second of computing", f"{took:.1f} s", seed, given)

    def values(self, folder: Path) -> dict[str, Any]:
        """For JSON; the inputs of what was found are files in the folder."""
        found = []
        for number, one in enumerate(self.found.values(), 1):
            if one.given is not None:
                folder.mkdir(parents=True, exist_ok=True)
                one.file = str(folder / f"{self.title}-{os.getpid()}-{number}{one.given.suffix}")
                Path(one.file).write_bytes(one.given.raw)
                rows = None if one.given.rows is None else list(one.given.rows)
                Path(one.file + ".json").write_text(json.dumps({"what": one.what, "detail": one.detail, "rows": rows}))
            found.append({name: getattr(one, name) for name in ("what", "detail", "seed", "times", "file")})
        counts = {name: getattr(self, name) for name in ("tried", "refused", "accepted", "worst_s")}
        return {"reader": self.title, **counts, "found": found}


def _place(error: BaseException) -> str:
    """The kind of an error and the line of kdnas that it came out of."""
    own = [one for one in traceback.extract_tb(error.__traceback__) if one.filename.startswith(PACKAGE)]
    where = f" at {Path(own[-1].filename).name}:{own[-1].lineno}" if own else ""
    return f"{type(error).__name__}{where}"


def fuzzed(
    reader: Reader, bench: Bench, seconds: float, seed: int, inputs: int | None, found: Path
) -> list[dict[str, Any]]:
    """What the processes that fed the reader counted. A new one goes on with other seeds where one has died."""
    reading = reader.opened(bench)
    end = time.monotonic() + seconds
    counted: list[dict[str, Any]] = []
    deadly: set[bytes] = set()
    at_hand = bench.folder / "at-hand"
    while not counted or (time.monotonic() < end and len(counted) < MOST_DEATHS):
        book, first = bench.folder / f"book-{len(counted)}.json", seed + 1000 * len(counted)
        at_hand.unlink(missing_ok=True)

        def work(book: Path = book, first: int = first) -> int:
            return _feeding(reader.title, reading, end, first, inputs, deadly, book, at_hand, found)

        code = Forked(work).wait()
        one = json.loads(book.read_text()) if book.exists() else Tally(reader.title).values(found)
        counted.append(one)
        if code == 0:
            break
        one["found"].append(_death(reader.title, code or 0, at_hand, found, first))
        if not at_hand.exists():  # before the first input: the next would die as well
            break
        deadly.add(at_hand.read_bytes())
    return counted


def _death(title: str, code: int, at_hand: Path, found: Path, seed: int) -> dict[str, Any]:
    """A fault of its own: the process that read ended."""
    named = {
        -signal.SIGPROF: f"more than {HUNG_S:g} s of computing",
        -signal.SIGALRM: f"waited for more than {STUCK_S:g} s",
    }
    what = named.get(
        code, f"the process was ended by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    )
    suffix, _, raw = at_hand.read_bytes().partition(b"\n") if at_hand.exists() else (b".txt", b"", b"")
    found.mkdir(parents=True, exist_ok=True)
    file = found / f"{title}-death-{seed}{suffix.decode()}"
    file.write_bytes(raw)
    return {"what": what, "detail": "", "seed": seed, "times": 1, "file": str(file)}


def _feeding(
    title: str,
    reading: Reading,
    end: float,
    seed: int,
    inputs: int | None,
    deadly: Collection[bytes],
    book: Path,
    at_hand: Path,
    found: Path,
) -> int:
    """In the process of its own: rounds of inputs until the time is over, or so many were tried."""
    os.setsid()
    sys.stdin = open(os.devnull)  # noqa: SIM115, PTH123 - for as long as the process lives
    begun(reading)
    resource.setrlimit(resource.RLIMIT_AS, (_size() + MOST_BYTES,) * 2)
    tally = Tally(title)
    written = 0.0

    def full() -> bool:
        return time.monotonic() > end or (inputs is not None and tally.tried >= inputs)

    def one(given: Given) -> None:
        nonlocal written
        said = given.suffix.encode() + b"\n" + given.raw
        if full() or said in deadly:
            return
        at_hand.write_bytes(said)
        with ended_if_stuck():
            tally.fed(reading, given, at)
        if time.monotonic() > written + 2:
            write_atomically(book, json.dumps(tally.values(found)))
            written = time.monotonic()

    at = seed
    while not full():
        rounds(reading, one, at, ROUND if inputs is None else min(ROUND, inputs))
        at += 1
    write_atomically(book, json.dumps(tally.values(found)))
    return 0


def begun(reading: Reading) -> None:
    """The sound input, for which libraries are loaded that no other input should be charged with."""
    if not reading.feed(reading.sound):
        raise Wrong("a sound input is refused", ascii(reading.sound.raw[:200]))


def _size() -> int:
    """Bytes of this process's address space."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def rounds(reading: Reading, one: Callable[[Given], None], seed: int, inputs: int) -> None:
    """So many inputs of one seed."""
    how = settings(
        max_examples=inputs, phases=[Phase.generate], database=None, deadline=None, suppress_health_check=SLOW
    )
    hypothesis.seed(seed)(how(hypothesis.given(reading.inputs)(one)))()


@contextlib.contextmanager
def ended_if_stuck() -> Iterator[None]:
    """Ends this process where what is inside computes or waits for too long, even in a library that hears no signal."""
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_PROF, HUNG_S)
    signal.setitimer(signal.ITIMER_REAL, STUCK_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
