"""Workers killed at random moments of the loop, the store and the strategies: evaluations are a formula, so that no
death falls on anything else. With one worker the study must go on as if nothing had happened."""

from __future__ import annotations

import re
import time
from functools import partial
from typing import Any, Literal

from benchmarks.torture.faults import Fault, Ground, Lost
from benchmarks.torture.searches import (
    STRATEGIES,
    TRIALS,
    file_store,
    finish,
    keeps,
    kill,
    noting,
    spec_of,
    told,
    undisturbed,
    whole,
    working,
)
from kdnas.search.begin import begin
from tests.forks import Forked
from tests.hosts import on_host

DEATHS = {1: 10, 4: 16}  # of a study's workers, at most
MANY = 96  # trials, so that four workers are at work when they are struck


def killed(
    ground: Ground,
    strategy: str,
    where: str,
    workers: int,
    hosts: int = 1,
    most: int | None = None,
    when: Literal["now", "after"] = "now",
) -> int:
    """`most` deaths instead of the usual number. On several `hosts`, whoever is killed is followed by a worker on
    another one, which sees the death by nothing but a heartbeat that stands still. `when` latencies are measured."""
    name = "fake"
    if where == "PostgreSQL":  # one database for all attempts
        name = re.sub(r"[^a-z0-9]+", "-", f"{strategy} {workers} {hosts} {when} {ground.seed}")
    budget: dict[str, Any] = {"trials": TRIALS if workers == 1 else MANY}
    if when == "after":  # which no pruner goes with
        budget["pruner"] = "none"
    spec = spec_of(strategy, ground.seed, name=name, budget=budget, latency={"when": when})
    expected = undisturbed(ground, spec) if workers == 1 else None
    place = file_store(ground) if where == "SQLite" else ground.kit.server("deaths").url("postgres")
    begun = noting(ground)
    begin(spec, place)
    deaths, before = 0, told(place, name)
    at = [each % hosts for each in range(workers)]

    def started(each: int) -> Forked:
        work = working(place, name)
        return ground.fork(work if hosts == 1 else on_host(f"host{at[each]}", ground.folder, work))

    alive = [started(each) for each in range(workers)]
    began, usual = time.monotonic(), 0.4 / workers
    while deaths < (most or DEATHS[workers]):
        ground.moment(2 * usual)
        # Sometimes all at once, as when the machine goes down.
        all_of_them = workers > 1 and ground.rng.random() < 0.2
        struck = range(workers) if all_of_them else [int(ground.rng.integers(workers))]
        died = sum(kill(ground, alive[each]) for each in struck)
        deaths += died
        now = keeps(before, place, name)
        if len(now) > len(before):
            usual = min(2.0, (time.monotonic() - began) / len(now))  # of a trial, on a machine as busy as it is
        before = now
        if not died and len(now) == spec.budget.trials:
            break
        for each in struck:
            at[each] = (at[each] + 1) % hosts
            alive[each] = started(each)
    for process in alive:
        code = ground.ended(process)
        if code != 0:
            raise Lost(f"the last worker ended with {code}")
    finish(ground, place, name)
    keeps(before, place, name)
    whole(place, name, elsewhere=hosts > 1)
    again = sum(begun().values()) - spec.budget.trials
    if again > deaths:
        raise Lost(f"{again} trainings were begun again after {deaths} deaths")
    if expected is not None and told(place, name) != expected:
        raise Lost("it went on otherwise than without deaths")
    return deaths


FAULTS = (
    [
        Fault(
            "deaths",
            f"{strategy}, PostgreSQL, 4 workers on two hosts",
            partial(killed, strategy=strategy, where="PostgreSQL", workers=4, hosts=2),
            share=4.0,
        )
        for strategy in ("tpe", "lstm")
    ]
    + [
        Fault(
            "deaths",
            f"{strategy}, {where}, {workers} worker{'s' if workers > 1 else ''}",
            partial(killed, strategy=strategy, where=where, workers=workers),
            share=4.0,
            quick=(strategy, where, workers) in {("tpe", "SQLite", 1), ("nsga2", "PostgreSQL", 4)},
        )
        for strategy in STRATEGIES
        for where in ("SQLite", "PostgreSQL")
        for workers in (1, 4)
    ]
    + [
        Fault(
            "deaths",
            f"tpe, {where}, {workers} worker{'s' if workers > 1 else ''}, latencies after the training",
            partial(killed, strategy="tpe", where=where, workers=workers, when="after"),
            share=4.0,
        )
        for where in ("SQLite", "PostgreSQL")
        for workers in (1, 4)
    ]
)
