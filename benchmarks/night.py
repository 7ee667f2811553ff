"""A night of quick trials: four workers on one store, and two screens that come and go at random.

The trials are a formula, so that 100,000 of them, as many as a fast search makes in a night, take less than an hour.
Real are the store, the workers, the strategy's loop and the screens, each on a pseudo-terminal of its own. Looks every
few seconds at the memory of each process, and in the end at the store: its size, how long the screens take to open it,
and whether every slot was filled once. Ends with 1 where anything was wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
import torch

from benchmarks.report import Result, Table, run, say
from benchmarks.tui import Terminal, opened
from kdnas.search.begin import begin
from kdnas.search.worker import run_worker
from kdnas.store import queries
from kdnas.store.check import check
from kdnas.store.database import open_store
from kdnas.system import seeds
from tests import fakes
from tests.forks import Forked

TRIALS = 100_000
WORKERS = 4
SCREENS = 2
NAME = "night"
STAYS_S = (10.0, 60.0)  # for which a screen is attached
GONE_S = (0.0, 10.0)
LOOK_S = 5.0
PATIENCE_S = 120.0  # without a finished trial: it hangs
GOALS = {"open_s": 1.0}
LEAVES = ("killed", "terminated", "hung up", "left by q")


@dataclass
class Seen:
    """The memory of one process at each look, MiB, and the finished trials then."""

    done: list[int] = field(default_factory=list)
    mib: list[float] = field(default_factory=list)

    def around(self, share: float, trials: int) -> float:
        """Median of what was seen near that share of the trials."""
        near = [mib for done, mib in zip(self.done, self.mib, strict=True) if abs(done / trials - share) <= 0.05]
        return float(np.median(near)) if near else float("nan")


class Visitor:
    """Someone who opens the study in kdnas-tui, looks for a while, leaves in some way, and comes again."""

    def __init__(self, place: Path, rng: np.random.Generator, environment: dict[str, str]) -> None:
        self.place, self.rng, self.environment = place, rng, environment
        self.terminal: Terminal | None = None
        self.until = time.monotonic() + float(rng.uniform(*GONE_S))
        self.visits = 0
        self.peak_mib = 0.0
        self.faults: list[str] = []
        self.shown = False

    def turn(self) -> None:
        """Comes, looks or goes, whichever is due."""
        now = time.monotonic()
        if self.terminal is None:
            if now >= self.until:
                self.terminal = Terminal(["-m", "kdnas_tui", NAME, "--storage", str(self.place)], self.environment)
                self.shown, self.visits = False, self.visits + 1
                self.until = now + float(self.rng.uniform(*STAYS_S))
            return
        self.terminal.read(0.02)
        self.shown = self.shown or b"done" in self.terminal.sent
        if b"Traceback" in self.terminal.sent:
            self.faults.append("a traceback on the screen")
        self.terminal.sent = self.terminal.sent[-64:]
        if self.terminal.process.poll() is not None:
            self.faults.append(f"the screens ended by themselves with {self.terminal.process.returncode}")
            self.gone()
            return
        self.peak_mib = max(self.peak_mib, self.terminal.memory_mib)
        if now >= self.until:
            self.leave(LEAVES[int(self.rng.integers(len(LEAVES)))])

    def leave(self, how: str) -> None:
        assert self.terminal is not None
        if not self.shown:
            self.faults.append("the study was never shown")
        process = self.terminal.process
        if how == "killed":
            process.kill()
        elif how == "terminated":
            process.send_signal(signal.SIGTERM)
        elif how == "left by q":
            self.terminal.write(b"q")
        else:
            self.terminal.hang_up()
        end = time.monotonic() + 20
        while process.poll() is None:
            if time.monotonic() > end:
                self.faults.append(f"the screens did not end when {how}")
                process.kill()
                process.wait()
            elif how == "hung up":
                time.sleep(0.02)
            else:
                self.terminal.read(0.02)
        if process.returncode not in (0, -signal.SIGKILL, -signal.SIGHUP, 128 + signal.SIGTERM, 128 + signal.SIGHUP):
            self.faults.append(f"the screens, {how}, ended with {process.returncode}")
        self.gone()

    def gone(self) -> None:
        assert self.terminal is not None
        self.terminal.close()
        self.terminal = None
        self.until = time.monotonic() + float(self.rng.uniform(*GONE_S))


def worker(place: Path, folder: Path, nth: int) -> Callable[[], int]:
    def work() -> int:
        os.setsid()
        said = os.open(folder / f"worker{nth}.said", os.O_WRONLY | os.O_CREAT, 0o600)
        os.dup2(said, 1)
        os.dup2(said, 2)
        return run_worker(str(place), NAME, prepare=fakes.prepare_wide, measure=fakes.measure)

    return work


def finished(place: Path) -> int:
    with sqlite3.connect(f"file:{place}?mode=ro", uri=True, timeout=60) as database:
        [(count,)] = database.execute("SELECT count(*) FROM kdnas_slot WHERE state = 'done'")
        return int(count)


def on_disk_mib(place: Path) -> float:
    return sum(path.stat().st_size for path in place.parent.glob(f"{place.name}*") if path.exists()) / 2**20


def rows_of(place: Path) -> int:
    """All trials of the store: one more for each that two workers proposed at the same moment, which is reused."""
    with sqlite3.connect(place) as database:
        [(count,)] = database.execute("SELECT count(*) FROM kdnas_trial")
        return int(count)


def faults_of(place: Path, trials: int) -> list[str]:
    """What is wrong with the store and its study, in words."""
    with open_store(str(place)) as store:
        faults = [found.what for found in check(store) if found.state == "damaged"]
        row = queries.study_row(store, NAME)
    if row.done != trials:
        faults.append(f"{row.done:,} of {trials:,} trials are finished")
    with sqlite3.connect(place) as database:
        [(filled, slots)] = database.execute(
            "SELECT count(*), count(DISTINCT slot) FROM kdnas_trial WHERE state = 'done'"
        )
        [(keys,)] = database.execute("SELECT count(DISTINCT candidate_key) FROM kdnas_trial WHERE state = 'done'")
    if filled != slots:
        faults.append(f"{filled - slots} slots were filled twice")
    if keys != filled:
        faults.append(f"{filled - keys} candidates were evaluated twice")
    return faults


def measure(chosen: argparse.Namespace) -> Result:
    trials = chosen.trials or (2_000 if chosen.quick else TRIALS)
    with tempfile.TemporaryDirectory(prefix="kdnas-night-") as folder:
        return spent(Path(folder), trials, chosen.seed)


def spent(folder: Path, trials: int, seed: int) -> Result:
    environment = {"KDNAS_CONFIG": str(folder), "KDNAS_STATE": str(folder), "OMP_NUM_THREADS": "1"}
    os.environ.update(environment)
    torch.set_num_threads(1)
    place = folder / "night.db"
    spec = fakes.spec(NAME, seed=seed, budget={"trials": trials, "epochs": 1, "pruner": "none"})
    begin(spec, str(place))
    rng = seeds.generator(seed, seeds.Benchmark.DEATHS)
    began, looked, moved = time.monotonic(), 0.0, time.monotonic()
    processes = [Forked(worker(place, folder, nth)) for nth in range(WORKERS)]
    known = [psutil.Process(process.pid) for process in processes]
    seen = [Seen() for _ in processes]
    visitors = [Visitor(place, child, environment) for child in rng.spawn(SCREENS)]
    faults: list[str] = []
    tenths: list[float] = []
    done, most_mib = 0, 0.0
    while any(process.poll() is None for process in processes):
        for visitor in visitors:
            visitor.turn()
        time.sleep(0.02)
        if (now := time.monotonic()) < looked + LOOK_S:
            continue
        looked, before, done = now, done, finished(place)
        moved = now if done > before else moved
        most_mib = max(most_mib, on_disk_mib(place))
        if now - moved > PATIENCE_S:
            faults.append(f"nothing was finished for {PATIENCE_S:.0f} s after {done:,} trials")
            break
        for each, process, memory in zip(known, processes, seen, strict=True):
            if process.poll() is None:
                memory.done.append(done)
                memory.mib.append(each.memory_full_info().uss / 2**20)
        if done // (trials // 10) > len(tenths):
            tenths.append(now - began)
            say(f"{done:,} trials after {now - began:.0f} s, {on_disk_mib(place):.0f} MiB on disk")
    hours = (time.monotonic() - began) / 3600
    for process in processes:
        if process.poll() is None:
            process.kill()
        if process.wait() != 0:
            faults.append(f"a worker ended with {process.returncode}")
    for visitor in visitors:
        if visitor.terminal is not None:
            visitor.leave("left by q")
        faults += visitor.faults
    for said in folder.glob("*.said"):
        if "Traceback" in said.read_text(errors="replace"):
            faults.append("a worker's traceback")
    faults += faults_of(place, trials)
    say("Opening the study …")
    open_s = asyncio.run(opened(place, NAME, rows_of(place)))
    figures = {
        "trials": trials,
        "minutes": 60 * hours,
        "trials_per_s": trials / (3600 * hours),
        "visits": sum(visitor.visits for visitor in visitors),
        "faults": len(faults),
        "store_mib": on_disk_mib(place),
        "most_on_disk_mib": most_mib,
        "bytes_per_trial": on_disk_mib(place) * 2**20 / trials,
        "open_s": open_s,
        "worker_mib_at_fifth": max(memory.around(0.2, trials) for memory in seen),
        "worker_mib_at_end": max(memory.around(0.95, trials) for memory in seen),
        "screen_peak_mib": max(visitor.peak_mib for visitor in visitors),
    }
    rows = [[name, value, GOALS.get(name)] for name, value in figures.items()]
    notes = [*(f"Fault: {fault}." for fault in faults)] or ["Nothing was lost, doubled or left."]
    title = f"{WORKERS} workers, {SCREENS} screens that come and go, SQLite"
    return Result([Table(title, ["figure", "value", "goal at most"], rows, notes)], figures, {"faults": faults})


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--trials", type=int, help=f"instead of {TRIALS:,}")
    parser.add_argument("--seed", type=int, default=0, help="of the search and of the comings and goings")


if __name__ == "__main__":
    night = run("What a night of quick trials leaves.", measure, options)
    sys.exit(1 if night.provenance["faults"] else 0)
