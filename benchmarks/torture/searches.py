"""Studies on which workers are tortured: begun, worked on, looked at, and compared with undisturbed ones."""

from __future__ import annotations

import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

from benchmarks.torture.faults import Ground, Lost
from kdnas.recipes.contract import Workbench
from kdnas.search.begin import begin
from kdnas.search.set_up import Prepare
from kdnas.search.worker import run_worker
from kdnas.store import queries
from kdnas.store.check import check
from kdnas.store.database import open_reader
from kdnas.study.rows import Status, TrialRow
from kdnas.study.spec import StudySpec
from kdnas.system.errors import KdnasError
from tests import fakes
from tests.forks import Forked

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
SPECS = 3  # of each strategy, so that what an undisturbed worker finds is computed a few times only


def spec_of(strategy: str, seed: int, **parts: Any) -> StudySpec:
    single = "two" not in strategy and strategy != "nsga2"
    pruner = ("none", "median", "asha")[seed % SPECS] if single else "none"
    budget = {"trials": TRIALS, "epochs": 2, "pruner": pruner, "attempts": 99, **parts.pop("budget", {})}
    chosen = dict(STRATEGIES[strategy])
    if "samples" in chosen:  # of an episode: as many as the budget takes
        chosen["episodes"] = -(-budget["trials"] // chosen["samples"])
    return fakes.spec(parts.pop("name", "fake"), strategy=chosen, seed=seed % SPECS, budget=budget, **parts)


def file_store(ground: Ground, name: str = "kdnas.db") -> str:
    """A new store without studies."""
    path = ground.folder / name
    shutil.copy(ground.kit.empty, path)
    return str(path)


def working(place: str, name: str = "fake", prepare: Prepare = fakes.prepare) -> Callable[[], int]:
    """What a worker's process does, as `kdnas worker` would."""

    def work() -> int:
        try:
            return run_worker(place, name, prepare=prepare, measure=fakes.measure)
        except KdnasError as error:
            print(f"kdnas: {error}", file=sys.stderr)
            return error.exit_code

    return work


def troubled(trouble: Callable[[Any], None]) -> Prepare:
    """A workbench on which `trouble` is called with each candidate before it trains."""

    def prepare(spec: StudySpec, *_: object) -> Workbench:
        return fakes.FakeBench(spec, trouble)

    return prepare


def noting(ground: Ground) -> Callable[[], Counter[str]]:
    """From here on workers note each training that they begin; what is returned reads how often each was begun."""
    folder = ground.folder / "noted"
    folder.mkdir(exist_ok=True)
    os.environ["KDNAS_FAKE"] = str(folder)
    begun = folder / "begun"
    return lambda: Counter(begun.read_text().split() if begun.exists() else [])


def rows_of(place: str, name: str = "fake") -> list[TrialRow]:
    with open_reader(place) as store:
        return queries.trial_rows(store, queries.study_row(store, name).study_id)


def told(place: str, name: str = "fake") -> list[tuple[Any, ...]]:
    """What a search found, in the order of its slots."""
    rows = [row for row in rows_of(place, name) if row.state in ("done", "pruned")]
    return sorted((r.slot, str(r.candidate), r.state, r.loss, r.reward, r.epoch) for r in rows)


def undisturbed(ground: Ground, spec: StudySpec) -> list[tuple[Any, ...]]:
    """What the study finds where nobody disturbs its one worker."""
    key = spec.model_copy(update={"name": "fake"}).model_dump_json()
    if key not in ground.kit.kept:
        place = file_store(ground, "whole.db")
        begin(spec, place)
        finish(ground, place, spec.name)
        ground.kit.kept[key] = told(place, spec.name)
    return ground.kit.kept[key]  # type: ignore[return-value]


def finish(ground: Ground, place: str, name: str = "fake", workers: int = 1) -> None:
    """Workers that nobody disturbs finish the study."""
    for process in [ground.fork(working(place, name)) for _ in range(workers)]:
        code = ground.ended(process)
        if code != 0:
            raise Lost(f"a worker that nobody disturbed ended with {code}: {said_last(ground)}")


def said_last(ground: Ground) -> str:
    lines = [line for path in sorted(ground.folder.glob("*.said")) for line in path.read_text().splitlines()]
    return lines[-1][:160] if lines else "nothing was said"


def keeps(before: list[tuple[Any, ...]], place: str, name: str = "fake") -> list[tuple[Any, ...]]:
    """What is told now. Raises Lost where something of `before` is missing or otherwise."""
    now = told(place, name)
    gone = [each for each in before if each not in now]
    if gone:
        raise Lost(f"lost a finished trial: slot {gone[0][0]}")
    return now


def whole(place: str, name: str = "fake", *, elsewhere: bool = False) -> None:
    """Raises Lost where the store is damaged, or the study not finished with each slot filled once, by right values.

    `elsewhere`: workers died on other hosts, which for a minute count as alive here, so that the study runs on.
    """
    with open_reader(place) as store:
        bad = [found.what for found in check(store) if found.state == "damaged"]
        if bad:
            raise Lost(bad[0])
        row = queries.study_row(store, name)
        rows = queries.trial_rows(store, row.study_id)
    over = row.status == Status.FINISHED or (elsewhere and row.status == Status.RUNNING and row.ending is not None)
    if not over or row.done != row.trials:
        raise Lost(f"it is {row.status} with {row.done} of {row.trials}")
    finished = [r for r in rows if r.state in ("done", "pruned")]
    if len({r.slot for r in finished}) != len(finished) or len(finished) > row.trials:
        raise Lost("a slot was filled twice")
    if any(r.state == "running" for r in rows):
        raise Lost("a trial is left running")
    for r in finished:
        if r.loss != fakes.loss(r.candidate, r.epoch):
            raise Lost(f"trial {r.number} has another trial's loss")


def kill(ground: Ground, process: Forked) -> bool:
    """Kill it; whether it was still there. Raises Lost where it had ended of itself, and not well."""
    process.kill()
    code = ground.ended(process)
    if code not in (0, -9):
        raise Lost(f"a worker ended with {code}: {said_last(ground)}")
    return code == -9
