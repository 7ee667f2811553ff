"""Kills workers at random moments, with every strategy, until a study is finished; its result must be that of a study
that nobody disturbed.

`python -m benchmarks.torture --minutes 10 --seed 0` prints a table: strategy, deaths, studies, lost, and the seeds
that repeat what went wrong. Exit code 1 where anything was lost, doubled or stuck. Evaluations are a formula, so that
deaths fall on the loop, the store and the strategies; one process imports everything and forks those that are killed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdnas.search.begin import begin
from kdnas.search.worker import run_worker
from kdnas.store import queries
from kdnas.store.check import check
from kdnas.store.database import open_reader
from kdnas.study.spec import StudySpec
from kdnas.system import seeds
from tests import fakes

STRATEGIES: dict[str, dict[str, Any]] = {
    "tpe": {"name": "tpe", "startup": 3, "pool": 8},
    "tpe, two objectives": {"name": "tpe", "startup": 3, "pool": 8, "two_objectives": True},
    "gp": {"name": "gp", "startup": 6},
    "random": {"name": "random"},
    "grid": {"name": "grid"},
    "evolution": {"name": "evolution", "population": 3, "tournament": 2},
    "nsga2": {"name": "nsga2", "population": 3},
    "lstm": {"name": "lstm", "episodes": 2, "samples": 4, "pool": 12},
}
TRIALS = 8
STUCK_S = 300.0  # a worker that takes so long has hung


@dataclass
class Row:
    deaths: int = 0
    studies: int = 0
    wrong: list[str] = field(default_factory=list)  # seed: what was wrong


def spec(strategy: str, seed: int) -> StudySpec:
    pruner = "none" if "two" in strategy or strategy == "nsga2" else ("none", "median", "asha")[seed % 3]
    return fakes.spec(
        strategy=STRATEGIES[strategy],
        seed=seed,
        budget={"trials": TRIALS, "epochs": 2, "pruner": pruner, "attempts": 99},
    )


def worker(path: Path, kill_after: float | None) -> int | None:
    """The exit code of a worker that is killed after so many seconds, if it has not ended; None where it hung."""
    process = os.fork()
    if process == 0:
        code = 70
        try:
            code = run_worker(str(path), "fake", prepare=fakes.prepare, measure=fakes.measure)
        finally:
            os._exit(code)
    end = time.monotonic() + (STUCK_S if kill_after is None else kill_after)
    while time.monotonic() < end:
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(process, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    return code if kill_after is not None else None


def told(path: Path) -> list[tuple[Any, ...]]:
    with open_reader(path) as store:
        rows = [row for row in queries.trial_rows(store, 1) if row.state in ("done", "pruned")]
    return sorted((r.slot, str(r.candidate), r.state, r.loss, r.reward, r.epoch) for r in rows)


def study(strategy: str, seed: int, folder: Path, most: int) -> tuple[int, str | None]:
    """How often its worker was killed, and what was wrong at the end."""
    rng = seeds.generator(seed, seeds.Benchmark.DEATHS)
    os.environ["KDNAS_STATE"] = str(folder / "state")
    whole, path = folder / "whole.db", folder / "kdnas.db"
    begin(spec(strategy, seed), whole)
    shutil.copy(whole, path)
    began = time.monotonic()
    if worker(whole, None) != 0:
        return 0, "did not finish undisturbed"
    usual = time.monotonic() - began
    deaths = 0
    while deaths < most:
        before = told(path)
        code = worker(path, float(rng.uniform(0.0, usual / 2)))
        if code == 0:
            break
        if code != -signal.SIGKILL:
            return deaths, f"ended with {code}"
        deaths += 1
        if told(path)[: len(before)] != before:
            return deaths, "lost a finished trial"
    code = worker(path, None)
    if code != 0:
        return deaths, "hung" if code is None else f"ended with {code}"
    if told(path) != told(whole):
        return deaths, "went on otherwise"
    with open_reader(path) as store:
        bad = [found.what for found in check(store) if found.state != "whole"]
    return deaths, bad[0] if bad else None


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.torture", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0, help="of the first study; each further one has the next")
    parser.add_argument("--studies", type=int, help="end after so many")
    parser.add_argument("--deaths", type=int, default=12, help="at most, of each study's workers")
    asked = parser.parse_args(arguments)
    rows = {name: Row() for name in STRATEGIES}
    end = time.monotonic() + asked.minutes * 60
    seed = asked.seed
    while time.monotonic() < end and (asked.studies is None or seed < asked.seed + asked.studies):
        name = list(STRATEGIES)[seed % len(STRATEGIES)]
        with tempfile.TemporaryDirectory() as folder:
            deaths, wrong = study(name, seed, Path(folder), asked.deaths)
        rows[name].deaths += deaths
        rows[name].studies += 1
        if wrong is not None:
            rows[name].wrong.append(f"{seed}: {wrong}")
        seed += 1
    print(f"{'strategy':<20} {'deaths':>7} {'studies':>8} {'survived':>9}  seeds that repeat what was wrong")
    for name, row in rows.items():
        survived = row.studies - len(row.wrong)
        print(f"{name:<20} {row.deaths:>7} {row.studies:>8} {survived:>9}  {'; '.join(row.wrong) or '–'}")
    total = Counter(deaths=sum(r.deaths for r in rows.values()), wrong=sum(len(r.wrong) for r in rows.values()))
    print(f"{total['deaths']} deaths, {total['wrong']} studies went wrong")
    return 1 if total["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
