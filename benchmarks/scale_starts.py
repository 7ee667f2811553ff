"""What workers that start together cost until each could begin a trial: imports, teacher and data.

Real processes on a study of a tiny teacher, which is paused, so that none trains. Started apart, each imports for
itself; forked, one process imports for all. Prints nothing.
"""

from __future__ import annotations

import resource
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.report import Table, say
from kdnas.search import launch
from kdnas.search.begin import begin
from kdnas.store import changes, queries
from kdnas.store.database import open_store
from kdnas.study.states import Wanted
from tests.encoders import text_folder, tiny_encoder, tiny_spec

LOOK_S = 0.1


@dataclass(frozen=True)
class Cost:
    cpu_s: float  # of all processes that were started
    wall_s: float  # until the last was ready


def start(folder: Path, count: int, *, forked: bool) -> Cost:
    """Starts so many workers on a new study in the folder, and ends them once all are ready."""
    path = folder / f"{count}.{forked}.db"
    spec = tiny_spec(tiny_encoder(folder / "teacher"), text_folder(folder / "text"))
    begin(spec, path)
    with open_store(path) as store, pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "_forks", lambda: forked)
        changes.set_wanted(store, 1, Wanted.PAUSE)
        before, begun = _children_cpu_s(), time.monotonic()
        started = launch.start_workers(path, spec.name, count, device="cpu")
        while sum(row.state == "paused" for row in queries.workers(store, 1)) < count:
            if failed := [one for one in started if one.process.poll() is not None]:
                raise SystemExit(f"A worker ended: {failed[0].log.read_text()}")
            time.sleep(LOOK_S)
        wall = time.monotonic() - begun
        changes.set_wanted(store, 1, Wanted.STOP)
        for process in [*(one.process for one in started), *launch._children]:
            process.wait()
    return Cost(_children_cpu_s() - before, wall)


def _children_cpu_s() -> float:
    """Of all processes below this one that have been waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def table(folder: Path, counts: tuple[int, ...], figures: dict[str, float]) -> Table:
    rows = []
    for count in counts:
        for name, forked in (("apart", False), ("forked", True)):
            say(f"startup: {count} workers, {name}")
            found = start(folder, count, forked=forked)
            say(f"  {found.cpu_s:.1f} s of CPU, {found.wall_s:.1f} s")
            rows.append((count, name, found.cpu_s, found.wall_s))
            figures[f"startup_cpu_s.{name}.{count}"] = found.cpu_s
    notes = ("From the order until each could begin a trial, with a tiny teacher; wall time depends on the cores.",)
    return Table("What a start costs", ("workers", "started", "CPU s", "wall s"), rows, notes)
