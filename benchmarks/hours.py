"""How near to the time asked a search ends: ten studies of trials of varied lengths, and one real one.

    python -m benchmarks.hours [--quick] [--json FILE]

The ten have the real worker and store, and an evaluator that only waits: deep students seven times as long as shallow
ones. Two of them have two workers, of which one is killed in the second. The real one is the quickstart with --hours,
begun by the command line; its trials, and the time before the first, are what this machine makes them. `--quick` leaves
out seven of the ten, and the real one.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.report import Result, Table, run, say
from kdnas.data import shipped
from kdnas.recipes.contract import Workbench
from kdnas.search.begin import begin
from kdnas.search.launch import start_workers
from kdnas.search.worker import run_worker
from kdnas.store import queries
from kdnas.store.database import open_reader
from kdnas.study.spec import StudySpec, from_values
from kdnas.study.spec_toml import read_toml
from kdnas.system import paths
from kdnas.system.progress import Progress
from tests import fakes

ASKED_S = 40.0
QUICK_S = 15.0
REAL_H = 0.1
NEAR = 0.05  # of the time asked
STUDIES = (  # strategy, workers, whether one of them is killed
    ("random", 1, False),
    ("tpe", 1, False),
    ("lstm", 1, False),
    ("evolution", 1, False),
    ("surrogate", 1, False),
    ("auto", 1, False),
    ("grid", 1, False),
    ("nsga2", 1, False),
    ("random", 2, False),
    ("random", 2, True),
)
WORKER = "--worker-of"


@dataclass(frozen=True)
class Ended:
    """A study after its time. Seconds; `late` is negative where it ended early."""

    name: str
    workers: int
    asked: float
    trials: int
    mean: float
    longest: float
    late: float

    @property
    def share(self) -> float:
        return self.late / self.asked

    @property
    def trials_late(self) -> float:
        """By how many of its longest trials it ended too late."""
        return max(0.0, self.late) / self.longest if self.trials else 0.0


def prepare(spec: StudySpec, device: torch.device, on_progress: Progress) -> Workbench:
    """A bench whose trials wait for 0.2 to 1.4 seconds."""

    def wait(candidate: object) -> None:
        assert isinstance(candidate, dict)
        time.sleep(0.1 + 0.15 * candidate["num_hidden_layers"] + 0.0001 * candidate["intermediate_size"] / 2)

    return fakes.FakeBench(spec, wait)


def measure(options: argparse.Namespace) -> Result:
    asked = QUICK_S if options.quick else ASKED_S
    ended: list[Ended] = []
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["KDNAS_STATE"] = f"{scratch}/state"
        for place, (strategy, workers, killed) in enumerate(STUDIES[:2] + STUDIES[-1:] if options.quick else STUDIES):
            name = f"{strategy}-{workers}{'-killed' if killed else ''}"
            say(f"{name}: {asked:g} s")
            ended.append(_fake(Path(scratch) / f"{place}.db", name, strategy, workers, killed, asked))
        if not options.quick:
            say(f"quickstart: {REAL_H * 3600:g} s")
            ended.append(_real(Path(scratch) / "real.db"))
    worst = max(ended, key=lambda one: abs(one.share))
    rows = [
        (e.name, e.workers, e.asked, e.trials, e.mean, e.longest, f"{e.late:+.2f}", f"{e.share:+.2%}", e.trials_late)
        for e in ended
    ]
    columns = ("study", "workers", "asked s", "trials", "mean s", "longest s", "late s", "of the time", "trials late")
    near = sum(abs(one.share) <= NEAR for one in ended)
    notes = [
        f"{near} of {len(ended)} ended within {NEAR:.0%} of the time asked; the furthest is {worst.name}.",
        "A trial that is not expected to end in time is not begun, so a study may end early by up to that trial.",
    ]
    figures = {
        "hours_worst_share": abs(worst.share),
        "hours_within_5_percent": float(near),
        "hours_studies": float(len(ended)),
        "hours_most_trials_late": max(one.trials_late for one in ended),
    }
    return Result([Table("Ends of studies with --hours", columns, rows, notes)], figures)


def _fake(store: Path, name: str, strategy: str, workers: int, killed: bool, asked: float) -> Ended:
    values = {"name": name, "device": "cpu", "strategy": {"name": strategy}}
    spec = from_values({**values, "budget": {"epochs": 1, "hours": asked / 3600}})
    begun = time.time()
    begin(spec, store)
    if workers == 1:
        run_worker(str(store), name, prepare=prepare, measure=fakes.measure)
        return _ended(store, name, 1, asked, begun)
    command = [sys.executable, "-m", "benchmarks.hours", WORKER]
    started = [one.process for one in start_workers(store, name, workers, command=command)]
    if killed:
        time.sleep(asked / 2)
        os.kill(started[0].pid, signal.SIGKILL)
    for process in started:
        process.wait()
    return _ended(store, name, workers, asked, begun)


def _real(store: Path) -> Ended:
    preset = read_toml(paths.presets()["quickstart"])
    for name in (preset.teacher.model, preset.data.source):
        shipped.fetch(name, lambda words, _: say(words))
    words = [sys.executable, "-m", "kdnas", "search", "quickstart", "--preset", "quickstart", "--set", "budget.trials="]
    began = time.time()
    subprocess.run([*words, "--hours", str(REAL_H), "--storage", str(store)], check=True, stdout=subprocess.DEVNULL)
    say(f"the command took {time.time() - began:.1f} s")
    return _ended(store, "quickstart", 1, REAL_H * 3600, None)


def _ended(store: Path, name: str, workers: int, asked: float, begun: float | None) -> Ended:
    """By the study's own record: its end as it was asked for, and the moment at which it was marked as ended."""
    with open_reader(store) as opened:
        row = queries.study_row(opened, name)
        rows = queries.trial_rows(opened, row.study_id)
        last = [event.time for event in queries.events(opened, row.study_id) if event.kind == "ended"][-1]
    assert row.until is not None, name
    took = [trial.ended - trial.started for trial in rows if trial.state == "done" and trial.ended is not None]
    end = row.until if begun is None else begun + asked
    say(json.dumps({"study": name, "trials": len(took), "ending": row.ending}))
    mean = sum(took) / len(took) if took else 0.0
    return Ended(name, workers, asked, len(took), mean, max(took, default=0.0), last - end)


def main(arguments: list[str], serve: Callable[[], object]) -> None:
    if arguments[:1] == [WORKER]:
        sys.exit(run_worker(paths.default_storage(), arguments[1], prepare=prepare, measure=fakes.measure))
    serve()


if __name__ == "__main__":
    main(sys.argv[1:], lambda: run("How near to the time asked a search ends.", measure))
