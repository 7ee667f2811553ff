"""Memory that does not suffice for a candidate, and memory that must not grow over a long search."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable
from typing import Any

import psutil
import torch

from benchmarks.torture import phases
from benchmarks.torture.faults import Fault, Ground, Lost
from benchmarks.torture.searches import file_store, rows_of, said_last, spec_of, troubled, working
from kdnas.search.begin import begin
from kdnas.search.worker import run_worker
from tests import fakes

MOST_GROWTH_MIB = 24.0


def does_not_fit(ground: Ground) -> int:
    """Some candidates want more memory than the process may have: they fail with a line, the others are evaluated."""
    place = file_store(ground)
    begin(spec_of("random", ground.seed), place)

    def wants(candidate: Any) -> None:
        if candidate["num_hidden_layers"] >= 4:
            torch.zeros(1 << 34)  # 64 GiB

    def work() -> int:
        limit = psutil.Process().memory_info().vms + (2 << 30)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        return working(place, prepare=troubled(wants))()

    code = ground.ended(ground.fork(work))
    rows = rows_of(place)
    small = [row for row in rows if int(row.candidate["num_hidden_layers"]) < 4]
    large = [row for row in rows if int(row.candidate["num_hidden_layers"]) >= 4]
    if code not in (0, 1) or any(row.state not in ("done", "pruned") for row in small):
        raise Lost(f"the worker ended with {code}: {said_last(ground)}")
    for row in large:
        if row.state != "failed" or not row.error or "\n" in row.error or "memory" not in row.error:
            raise Lost(f"a candidate that does not fit is {row.state}: {row.error!r}")
    return len(large)


def flat(ground: Ground, place: str, name: str, trials: int, work: Callable[[], int]) -> None:
    """Raises Lost where the worker's memory grows from the fifth part of the trials to the end."""
    process = ground.fork(work)
    known = psutil.Process(process.pid)
    seen: list[float] = []

    def looked() -> bool:
        if process.poll() is None:
            finished = sum(row.state in ("done", "pruned") for row in rows_of(place, name))
            if finished >= trials / 5:
                try:
                    seen.append(known.memory_info().rss / 2**20)
                except psutil.Error:
                    return True
        return process.poll() is not None

    until_ended(ground, looked)
    if process.returncode != 0:
        raise Lost(f"the worker ended with {process.returncode}: {said_last(ground)}")
    tenth = max(1, len(seen) // 10)
    growth = sum(seen[-tenth:]) / tenth - sum(seen[:tenth]) / tenth if seen else 0.0
    if growth > MOST_GROWTH_MIB:
        raise Lost(f"its memory grew by {growth:.0f} MiB")


def until_ended(ground: Ground, condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 900
    while not condition():
        if time.monotonic() > end:
            raise Lost("the worker hung")
        time.sleep(0.5)  # a look reads every trial


def long_fake(ground: Ground) -> int:
    place = file_store(ground)
    begin(spec_of("random", ground.seed, budget={"trials": 500, "pruner": "none"}), place)
    flat(ground, place, "fake", 500, working(place, prepare=fakes.prepare_wide))
    return 500


def long_real(ground: Ground) -> int:
    spec = phases.real_spec(ground)
    spec = spec.model_copy(update={"budget": spec.budget.model_copy(update={"trials": 50})})
    place = file_store(ground)
    begin(spec, place)
    os.environ["KDNAS_CACHE"] = str(ground.folder / "cache")
    flat(ground, place, "tiny", 50, lambda: run_worker(place, "tiny"))
    return 50


FAULTS = [
    Fault("memory", "a candidate that does not fit", does_not_fit, quick=True),
    Fault("memory", "500 trials of a formula", long_fake, 0.7),
    Fault("memory", "50 real trials", long_real, 0.7),
]
