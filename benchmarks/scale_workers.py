"""Workers of `benchmarks.scale` that evaluate nothing: real stores, strategies, slots and locks, trials that sleep.

A worker is a thread, so that several of them share one process and its libraries; more than TOGETHER have several
processes, since threads of one wait for each other in a way that workers do not. `of_kdnas` runs the worker of a
search, `of_optuna` Optuna's own loop on the same history. Prints nothing.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import math
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier as SharedBarrier
from pathlib import Path
from typing import Any

import optuna
import psutil
import sqlalchemy as sa
import torch
from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend

from kdnas.recipes.contract import Workbench
from kdnas.search.begin import begin
from kdnas.search.worker import run_worker
from kdnas.store import addresses
from kdnas.store import tables as t
from kdnas.store.database import open_store
from kdnas.strategies import distributions, parameters
from kdnas.strategies.pruners import SLOT
from kdnas.study.reward import reward
from kdnas.study.space import Candidate, Dimension, SearchSpace
from kdnas.study.spec import StudySpec
from kdnas.system.progress import Progress
from kdnas.system.seeds import Benchmark, generator
from kdnas.training.contract import Student
from tests import fakes

SPACE = SearchSpace(
    (
        Dimension("num_hidden_layers", tuple(range(1, 13))),
        Dimension("num_attention_heads", (1, 2, 3, 4, 6, 8, 12)),
        Dimension("intermediate_size", tuple(range(128, 2049, 128))),
        Dimension("hidden_act", ("gelu", "relu", "silu"), ordered=False),
    )
)
NAME = "scale"
TOGETHER = 8  # workers in one process
APART_S = 0.2  # seconds from the start of one worker to that of the next, where there are more than these
Barrier = threading.Barrier | SharedBarrier


@dataclass
class Marks:
    """When each worker began to evaluate: seconds of the wall clock; and CPU seconds of process and database then."""

    walls: dict[int, list[float]] = field(default_factory=dict)
    cpu: list[float] = field(default_factory=list)
    database: list[float] = field(default_factory=list)
    statements: list[int] = field(default_factory=list)


class Bench(fakes.FakeBench):
    """A bench without a network, on a space in which a thousand trials are a part."""

    def __init__(self, spec: StudySpec, trouble: Callable[[Candidate], None]) -> None:
        super().__init__(spec, trouble)
        self.space = SPACE

    def build(self, candidate: Candidate, seed: int) -> Student:
        self.candidate = candidate
        return Student(torch.nn.Linear(1, 1))


def spec(strategy: str, trials: int, **parts: Any) -> StudySpec:
    chosen = {"name": strategy, **({"two_objectives": False} if strategy == "tpe" else {})}
    if strategy == "lstm":  # its episodes are as many as the budget needs
        chosen |= {"episodes": trials}
    return fakes.spec(NAME, strategy=chosen, budget={"trials": trials, "epochs": 1}, **parts)


# ---------------------------------------------------------------------------- a history


def fill(storage: str, asked: StudySpec, done: int) -> None:
    """Begins the study with so many finished trials, of candidates drawn at random, in Optuna's tables and in ours."""
    begin(asked, storage)
    alpha, beta = asked.reward.alpha, asked.reward.beta
    known = {name: distribution_to_json(one) for name, one in distributions(SPACE).items()}
    ours, slots, theirs, values, at_epoch, chosen, attributes = [], [], [], [], [], [], []
    now = time.time()
    start = datetime.datetime.now()
    for number, place in enumerate(generator(0, Benchmark.SAMPLE).permutation(SPACE.size)[:done].tolist()):
        candidate = SPACE.from_ordinal(place)
        key, text = SPACE.key(candidate), json.dumps(candidate)
        loss, ms = fakes.loss(candidate), fakes.latency_ms(candidate)
        rewarded = reward(loss, ms, 10.0, alpha, beta)
        same = {"study_id": 1, "slot": number, "state": "done", "candidate": text, "candidate_key": key}
        slots.append({**same, "trial": number, "attempts": 1, "origin": "strategy"})
        figures = {"reward": rewarded, "alpha": alpha, "beta": beta, "loss": loss, "raw_loss": 2 * loss}
        figures |= {"latency_ms": ms, "teacher_latency_ms": 10.0, "parameters": 2, "epoch": 1, "epochs": 1}
        figures |= {"progress": 1.0, "started": now, "ended": now, "revision": 1, "extra": "{}", "config": text}
        ours.append({**same, **figures, "number": number, "origin": "strategy", "seed": 0})
        trial = {"trial_id": number + 1}
        theirs.append({**trial, "number": number, "study_id": 1, "state": "COMPLETE", "start": start})
        values.append({**trial, "value": rewarded})
        at_epoch.append({**trial, "step": 1, "value": rewarded})
        for name, value in parameters(SPACE, candidate).items():
            internal = distributions(SPACE)[name].to_internal_repr(value)
            chosen.append({**trial, "name": name, "value": internal, "distribution": known[name]})
        told = {SLOT: number, "loss": loss, "latency_ms": ms, "alpha": alpha, "beta": beta}
        attributes += [{**trial, "key": name, "value": json.dumps(value)} for name, value in told.items()]
    with open_store(storage) as store, store.begin() as connection:
        connection.execute(sa.delete(t.slot).where(t.slot.c.slot < done))
        connection.execute(t.slot.insert(), slots)
        connection.execute(t.trial.insert(), ours)
        for statement, rows in (
            (
                "INSERT INTO trials (trial_id, number, study_id, state, datetime_start, datetime_complete) "
                "VALUES (:trial_id, :number, :study_id, :state, :start, :start)",
                theirs,
            ),
            (
                "INSERT INTO trial_values (trial_id, objective, value, value_type) "
                "VALUES (:trial_id, 0, :value, 'FINITE')",
                values,
            ),
            (
                "INSERT INTO trial_intermediate_values "
                "(trial_id, step, intermediate_value, intermediate_value_type) "
                "VALUES (:trial_id, :step, :value, 'FINITE')",
                at_epoch,
            ),
            (
                "INSERT INTO trial_params (trial_id, param_name, param_value, distribution_json) "
                "VALUES (:trial_id, :name, :value, :distribution)",
                chosen,
            ),
            (
                "INSERT INTO trial_user_attributes (trial_id, key, value_json) VALUES (:trial_id, :key, :value)",
                attributes,
            ),
        ):
            connection.execute(sa.text(statement), rows)
        if not store.is_sqlite:
            connection.exec_driver_sql(
                "SELECT setval(pg_get_serial_sequence('trials', 'trial_id'), (SELECT max(trial_id) FROM trials))"
            )
    with open_store(storage) as store, store.engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT").exec_driver_sql("ANALYZE")


# ---------------------------------------------------------------------------- workers


def server_cpu(pid: int | None) -> float:
    """CPU seconds of a PostgreSQL server so far, its connections' processes among it; 0 where there is none."""
    if pid is None:
        return 0.0
    server = psutil.Process(pid)
    used = server.cpu_times()
    total = used.user + used.system + used.children_user + used.children_system
    for one in server.children():
        try:
            of_one = one.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += of_one.user + of_one.system
    return total


def of_kdnas(storage: str, workers: int, seconds: float, server: int | None) -> Marks:
    """So many workers of the study, until its budget is spent; each evaluation sleeps."""
    marks = Marks()
    together = _barrier(workers)

    def one(nth: int) -> None:
        wait = _waiting(marks, nth, seconds, server, together)

        def prepare(asked: StudySpec, device: torch.device, on_progress: Progress) -> Workbench:
            return Bench(asked, lambda _: wait())

        code = run_worker(storage, NAME, prepare=prepare, measure=fakes.measure)
        assert code == 0, code

    return _run(one, workers, marks)


def of_optuna(
    made: Callable[[], BaseStorage],
    workers: int,
    seconds: float,
    server: int | None,
    trials: int,
    sampler: Callable[..., BaseSampler] = optuna.samplers.TPESampler,
) -> Marks:
    """Optuna's own loop on the study: so many trials by each worker, one report each, in a storage of its own that
    `made` opens."""
    marks = Marks()
    together = _barrier(workers)
    asked: Mapping[str, BaseDistribution] = distributions(SPACE)

    def one(nth: int) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        wait = _waiting(marks, nth, seconds, server, together)
        study = optuna.load_study(study_name=NAME, storage=made(), sampler=sampler(seed=nth))

        def objective(trial: optuna.Trial) -> float:
            values = {name: trial._suggest(name, one) for name, one in asked.items()}
            wait()
            trial.report(0.5, 1)
            trial.should_prune()
            return math.fsum(value for value in values.values() if isinstance(value, int)) / 4000

        study.optimize(objective, n_trials=trials)

    return _run(one, workers, marks)


def in_database(storage: str) -> Callable[[], BaseStorage]:
    """Optuna's storage in a database of ours, as it comes."""
    address = addresses.store_url(storage).render_as_string(hide_password=False)
    return partial(optuna.storages.RDBStorage, address)


def in_journal(path: Path) -> Callable[[], BaseStorage]:
    """Optuna's storage in a file that is only added to."""
    return lambda: JournalStorage(JournalFileBackend(str(path)))


@contextlib.contextmanager
def behind_proxy(storage: str) -> Iterator[tuple[Callable[[], BaseStorage], int]]:
    """Optuna's storage in a database of ours behind its gRPC proxy, a process of its own on loopback; how to open it,
    and the process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    serve = "import sys, optuna; optuna.storages.run_grpc_proxy_server(optuna.storages.RDBStorage(sys.argv[1]), "
    serve += "host='127.0.0.1', port=int(sys.argv[2]))"
    address = addresses.store_url(storage).render_as_string(hide_password=False)
    proxy = subprocess.Popen([sys.executable, "-c", serve, address, str(port)], stderr=subprocess.DEVNULL)
    try:
        opened = partial(optuna.storages.GrpcStorageProxy, host="127.0.0.1", port=port)
        apart(_answers, opened)
        yield opened, proxy.pid
    finally:
        proxy.terminate()
        proxy.wait()


def _answers(opened: Callable[[], Any]) -> Marks:
    """Once the proxy does: in a process of its own, since gRPC's threads must not be forked."""
    proxy = opened()
    proxy.wait_server_ready(timeout=60)
    proxy.get_study_id_from_name(NAME)
    return Marks()


def _waiting(marks: Marks, nth: int, seconds: float, server: int | None, together: Barrier) -> Callable[[], None]:
    """What worker `nth` does in place of an evaluation. Before the first one all wait for each other, and that one is
    shorter by a share drawn at random, so that they do not go on in step."""
    walls: list[float] = []
    marks.walls[nth] = walls
    first = generator(0, Benchmark.SAMPLE, nth).random()

    def wait() -> None:
        if not walls:
            together.wait()
        walls.append(time.monotonic())
        if together.parties == 1:
            marks.cpu.append(time.process_time())
            marks.database.append(server_cpu(server) if len(walls) % 5 == 1 else math.nan)
            marks.statements.append(_asked[0])
        time.sleep(seconds * (first if len(walls) == 1 else 1.0))

    return wait


_asked = [0]


def _run(one: Callable[[int], None], workers: int, marks: Marks) -> Marks:
    def count(*_: Any) -> None:
        _asked[0] += 1

    sa.event.listen(sa.Engine, "before_cursor_execute", count)
    failed: list[BaseException] = []

    def guarded(nth: int) -> None:
        try:
            if workers > TOGETHER:
                time.sleep(APART_S * nth)
            one(nth)
        except BaseException as error:
            failed.append(error)
            raise

    def side_by_side(numbers: range) -> Marks:
        threads = [threading.Thread(target=guarded, args=(nth,)) for nth in numbers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failed:
            raise failed[0]
        return marks

    if workers == 1:
        one(0)
        return marks
    if workers <= TOGETHER:
        return side_by_side(range(workers))
    parts = [range(first, min(first + TOGETHER, workers)) for first in range(0, workers, TOGETHER)]
    begun = [_begun_apart(side_by_side, numbers) for numbers in parts]
    return Marks({nth: walls for done in begun for nth, walls in done().walls.items()})


def _barrier(workers: int) -> Barrier:
    return threading.Barrier(workers) if workers <= TOGETHER else get_context("fork").Barrier(workers)


def apart(work: Callable[..., Marks], *given: Any) -> Marks:
    """What `work` returns, done in a process of its own that has the libraries loaded."""
    return _begun_apart(work, *given)()


def _begun_apart(work: Callable[..., Marks], *given: Any) -> Callable[[], Marks]:
    """Begins it; what is returned waits for its end."""
    context = get_context("fork")
    here, there = context.Pipe(duplex=False)

    def run() -> None:
        os.setsid()
        there.send(work(*given))

    process = context.Process(target=run)
    process.start()
    there.close()

    def ended() -> Marks:
        try:
            found: Marks = here.recv()
        except EOFError:
            raise SystemExit("The simulated workers ended with an error.") from None
        process.join()
        return found

    return ended
