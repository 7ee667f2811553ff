"""How far one study goes: what a worker costs, and how many share a store before they wait for each other.

    python -m benchmarks.scale [--quick] [--only overhead,efficiency,storages,startup] [--most 64] [--json FILE]

`overhead` runs one worker on trials of no work, with 100 and 1,000 finished trials in the store: CPU milliseconds of
the worker and of the database per trial, and statements per trial. `efficiency` runs many workers whose trials sleep.
Workers are threads of few processes with the real storage, strategies, slots and locks, so that a machine of few cores
stands for many; what it says of many workers is therefore a lower bound. Optuna's own loop on the same history is
measured in the same run. `storages` compares Optuna's own storages: its database, a journal file, and its gRPC proxy,
which needs the package grpcio. `startup` starts processes, apart and forked from one that has imported their libraries,
until each could begin a trial. Figures of PostgreSQL need its programs; without them they are left out.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import math
import os
import shutil
import statistics
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import optuna

from benchmarks import scale_starts
from benchmarks import scale_workers as workers
from benchmarks.report import Result, Table, run, say
from benchmarks.scale_workers import Marks, apart
from tests.postgres import BINARIES, Server, running

PARTS = ("overhead", "efficiency", "storages", "startup")
STARTED = (4, 8)  # workers that start together
STRATEGIES = ("random", "tpe", "gp", "auto", "lstm")
HISTORIES = (100, 1000)
ONLY_SHORT = {"gp"}  # whose spec allows budgets up to 200
SETTLED = 6  # trials before the first that counts: the history is read in them
COUNTED = 20  # trials that count; a multiple of five, of an episode's size
OPTUNA_AT_MOST = 64  # workers of its own loop; more take it many minutes
AT_60S, AT_5S, AT_HALF = (60.0, 3), (5.0, 4), (0.5, 12)  # seconds of a trial, and trials of each worker
CASES = (  # storage, trial, workers
    ("postgres", AT_5S, (4, 16, 32, 64, 128, 256)),
    ("postgres", AT_60S, (512,)),
    ("postgres", AT_HALF, (4, 8, 16)),
    ("sqlite", AT_5S, (8,)),
    ("sqlite", AT_HALF, (8,)),
)


@dataclass(frozen=True)
class Place:
    """Where studies of one kind of storage lie."""

    kind: str
    folder: Path
    server: Server | None

    def new(self, name: str) -> str:
        """The address of a store that is not there yet."""
        if self.server is None:
            return str(self.folder / f"{name}.db")
        self.server.sql(f"CREATE DATABASE {name}")
        return self.server.url(name)

    def copy(self, old: str, name: str) -> str:
        if self.server is None:
            return str(shutil.copy(old, self.folder / f"{name}.db"))
        self.server.sql(f"CREATE DATABASE {name} TEMPLATE {old.rsplit('/', 1)[1]}")
        return self.server.url(name)

    @property
    def pid(self) -> int | None:
        return None if self.server is None or self.server.process is None else self.server.process.pid


def measure(options: argparse.Namespace) -> Result:
    parts = options.only.split(",") if options.only else PARTS
    if unknown := [part for part in parts if part not in PARTS]:
        raise SystemExit(f"{unknown[0]!r} is not one of {', '.join(PARTS)}.")
    tables: list[Table] = []
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as scratch, _places(Path(scratch), options.on) as places:
        os.environ["KDNAS_STATE"] = f"{scratch}/state"
        if "overhead" in parts:
            tables.append(_overhead(places, options, figures))
        if "efficiency" in parts:
            tables.append(_efficiency(places, options, figures))
        if "storages" in parts:
            tables.append(_storages(places, figures))
        if "startup" in parts:
            tables.append(scale_starts.table(Path(scratch), STARTED[:1] if options.quick else STARTED, figures))
    return Result(tables, figures)


@contextlib.contextmanager
def _places(scratch: Path, on: str | None) -> Iterator[list[Place]]:
    kinds = on.split(",") if on else ["sqlite", "postgres"]
    places = [Place("sqlite", scratch, None)] if "sqlite" in kinds else []
    if "postgres" not in kinds or not BINARIES:
        yield places
        return
    with running() as server:
        server.sql("ALTER SYSTEM SET max_connections = 2000")
        server.stop()
        server.start()
        yield [*places, Place("postgres", scratch, server)]


# ---------------------------------------------------------------------------- what one worker costs


def _overhead(places: list[Place], options: argparse.Namespace, figures: dict[str, float]) -> Table:
    rows = []
    counted = 10 if options.quick else COUNTED
    strategies = (
        options.strategies.split(",") if options.strategies else ("random", "tpe") if options.quick else STRATEGIES
    )
    for place in places:
        for done in HISTORIES[-1:] if options.quick else HISTORIES:
            for strategy in (*strategies, "optuna"):
                if strategy in ONLY_SHORT and done > 200:
                    continue
                say(f"overhead: {strategy}, {place.kind}, {done} trials")
                trials = done + SETTLED + counted
                store = place.new(f"o_{strategy}_{done}")
                workers.fill(store, workers.spec("tpe" if strategy == "optuna" else strategy, trials), done)
                if strategy == "optuna":
                    found = apart(workers.of_optuna, workers.in_database(store), 1, 0.0, place.pid, SETTLED + counted)
                else:
                    found = apart(workers.of_kdnas, store, 1, 0.0, place.pid)
                cpu, database, statements = _per_trial(found)
                say(f"  {cpu:.1f} ms, {statements:.0f} statements")
                rows.append((place.kind, strategy, done, cpu, database if place.pid else None, statements))
                name = f"{strategy}.{place.kind}"
                figures[f"overhead_ms.{name}"] = cpu  # the longest history comes last
                figures[f"overhead_ms.{name}.{done}"] = cpu
                figures[f"statements.{name}.{done}"] = statements
                if place.pid:
                    figures[f"database_ms.{name}.{done}"] = database
    columns = ("storage", "strategy", "history", "worker CPU ms", "database CPU ms", "statements")
    notes = (
        f"CPU per trial of no work, mean of {counted} trials after {SETTLED}. `optuna` is its own loop with TPE.",
        "A database in a file is a part of the worker, and counted there.",
        "`gp` allows no budget above 200. `auto` takes `surrogate` up to trial 300, then `tpe`.",
    )
    return Table("What a trial costs beside its training", columns, rows, notes)


def _per_trial(found: Marks) -> tuple[float, float, float]:
    """CPU ms of worker and database, and statements, per trial."""
    first, last = SETTLED - 1, len(found.cpu) - 1
    cpu = (found.cpu[last] - found.cpu[first]) * 1000 / (last - first)
    looked = [n for n, seconds in enumerate(found.database) if n >= first and not math.isnan(seconds)]
    database = (found.database[looked[-1]] - found.database[looked[0]]) * 1000 / (looked[-1] - looked[0])
    return cpu, database, (found.statements[last] - found.statements[first]) / (last - first)


# ---------------------------------------------------------------------------- many workers


def _efficiency(places: list[Place], options: argparse.Namespace, figures: dict[str, float]) -> Table:
    rows = []
    done = HISTORIES[0]
    for place in places:
        for kind, (seconds, each), counts in CASES:
            if kind != place.kind:
                continue
            few = tuple(n for n in counts if n <= (16 if options.quick else options.most))
            for name, who in (("kdnas", ""), *((("optuna", "optuna_"),) if not options.quick else ())):
                asked = few if name == "kdnas" else tuple(n for n in few if n <= OPTUNA_AT_MOST)
                alone = None
                for count in (1, *asked) if asked else ():
                    say(f"efficiency: {name}, {place.kind}, {count} workers, {seconds:g} s a trial")
                    size = f"{str(seconds).replace('.', '_').removesuffix('_0')}s"
                    store = place.new(f"e_{name}_{size}_{count}")
                    workers.fill(store, workers.spec("tpe", done + count * each), done)
                    before = workers.server_cpu(place.pid)
                    if name == "kdnas":
                        found = apart(workers.of_kdnas, store, count, seconds, place.pid)
                    else:
                        found = apart(workers.of_optuna, workers.in_database(store), count, seconds, place.pid, each)
                    used = workers.server_cpu(place.pid) - before
                    rate = _rate(found)
                    alone = alone or rate
                    share = rate / (count * alone)
                    say(f"  {share:.0%} of linear, {rate * 3600:,.0f} trials an hour")
                    database = used * 1000 / (count * each) if place.pid else None
                    rows.append(
                        (
                            place.kind,
                            f"{seconds:g} s",
                            name,
                            count,
                            rate * 3600,
                            share,
                            rate * seconds / count,
                            database,
                        )
                    )
                    if count > 1:
                        figures[f"{who}efficiency.{place.kind}_{size}.{count}"] = share
    columns = (
        "storage",
        "a trial",
        "loop",
        "workers",
        "trials/h",
        "of linear",
        "time in trials",
        "database CPU ms a trial",
    )
    notes = (
        f"TPE with {done} finished trials. Of linear: trials per hour beside those of one worker, times the workers.",
        "Database CPU has the start of the workers in it.",
        f"Optuna's own loop is run with {OPTUNA_AT_MOST} workers at most.",
    )
    return Table("Many workers of one study", columns, rows, notes)


def _rate(found: Marks) -> float:
    """Trials per second of all workers together, in their steady state: each one's own pace, added up."""
    paces = []
    for walls in found.walls.values():
        inside = walls[1:]  # the first is of random length
        if len(inside) > 1:
            paces.append((len(inside) - 1) / (inside[-1] - inside[0]))
    # A worker that came too late for two trials kept the pace of the others.
    return statistics.fmean(paces) * len(found.walls)


# ---------------------------------------------------------------------------- what Optuna has besides a database


def _storages(places: list[Place], figures: dict[str, float]) -> Table:
    rows = []
    for place in places:
        store = place.new("s_storages")
        workers.fill(store, workers.spec("random", 200), HISTORIES[0])
        made = workers.in_database(store)
        for kind in ("database", "journal" if place.server is None else "proxy"):
            if kind == "proxy" and importlib.util.find_spec("grpc") is None:
                say("Without the package grpcio there is no proxy to measure.")
                continue
            say(f"storages: {kind}, {place.kind}")
            opened, between = made, place.pid
            with contextlib.ExitStack() as stack:
                if kind == "journal":
                    opened = workers.in_journal(place.folder / "journal")
                    optuna.copy_study(from_study_name=workers.NAME, from_storage=made(), to_storage=opened())
                elif kind == "proxy":
                    opened, between = stack.enter_context(workers.behind_proxy(store))
                random = optuna.samplers.RandomSampler
                found = apart(workers.of_optuna, opened, 1, 0.0, between, SETTLED + COUNTED, random)
            cpu, other, _ = _per_trial(found)
            rows.append((kind, place.kind, cpu, other if between else None))
            figures[f"storage_ms.{kind}.{place.kind}"] = cpu
    columns = ("storage", "over", "worker CPU ms", "server or proxy CPU ms")
    notes = (
        f"Optuna's own loop with random proposals, {HISTORIES[0]} trials in the store before, per trial of no work.",
        "The CPU of a proxy is its own, without the database's.",
    )
    return Table("What Optuna keeps trials in", columns, rows, notes)


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", metavar="PARTS", help=f"of {', '.join(PARTS)}, with commas")
    parser.add_argument("--on", metavar="STORAGES", help="of sqlite, postgres, with commas")
    parser.add_argument("--strategies", metavar="NAMES", help=f"of {', '.join(STRATEGIES)}, with commas")
    parser.add_argument("--most", type=int, default=64, metavar="N", help="workers at most; 64, up to 512")


if __name__ == "__main__":
    run("What a worker costs, and how many share a store.", measure, options)
