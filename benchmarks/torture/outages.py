"""The database's server restarted, killed, silent, slow, or out of connections while a worker runs: it waits, holding
its training, and the study goes on as if nothing had happened."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from functools import partial

import psutil

from benchmarks.torture.faults import Fault, Ground, Lost
from benchmarks.torture.searches import noting, said_last, spec_of, told, undisturbed, whole, working
from benchmarks.torture.stores import until
from kdnas.search.begin import begin
from tests.postgres import Server


def out(ground: Ground, how: str) -> int:
    server = ground.kit.server("outages")
    strategy = ("tpe", "random", "evolution", "nsga2")[ground.seed % 4]
    spec = spec_of(strategy, ground.seed)
    expected = undisturbed(ground, spec)
    name = f"{how.split()[0]}{ground.seed}"
    spec = spec.model_copy(update={"name": name})
    place = server.url("postgres")
    begin(spec, place)
    begun = noting(ground)
    process = ground.fork(working(place, name))
    until(ground, lambda: len(told(place, name)) > 0)
    ground.moment(0.3)
    struck = 0
    for _ in range(2):
        if process.poll() is not None:
            break
        WAYS[how](server, float(ground.rng.uniform(0.2, 2.0)))
        struck += 1
        ground.moment(0.3)
    if (code := ground.ended(process)) != 0:
        raise Lost(f"the worker ended with {code}: {said_last(ground)}")
    whole(place, name)
    if told(place, name) != expected:
        raise Lost("it went on otherwise than without the outage")
    if sum(begun().values()) != spec.budget.trials:
        raise Lost("a training was begun again")
    return struck


def restarted(server: Server, seconds: float) -> None:
    server.stop()
    time.sleep(seconds)  # the outage itself
    server.start()


def crashed(server: Server, seconds: float) -> None:
    assert server.process is not None
    children = psutil.Process(server.process.pid).children(recursive=True)
    server.process.kill()
    server.process.wait()
    psutil.wait_procs(children, timeout=60)  # they notice by themselves
    time.sleep(seconds)  # the outage itself
    server.start()


def one_crashed(server: Server, seconds: float) -> None:
    """A process of the server: it ends all connections, and recovers."""
    assert server.process is not None
    for child in psutil.Process(server.process.pid).children():
        with contextlib.suppress(psutil.NoSuchProcess):
            if "idle" in " ".join(child.cmdline()):
                child.kill()
                break


def silent(server: Server, seconds: float) -> None:
    """Neither refuses nor answers, as where a cable is out."""
    assert server.process is not None
    parent = psutil.Process(server.process.pid)
    stopped = [parent, *parent.children(recursive=True)]
    for each in stopped:
        with contextlib.suppress(psutil.NoSuchProcess):
            os.kill(each.pid, signal.SIGSTOP)
    time.sleep(2 * seconds)  # the outage itself
    for each in stopped:
        with contextlib.suppress(ProcessLookupError):
            os.kill(each.pid, signal.SIGCONT)


def crowded(server: Server, seconds: float) -> None:
    """Others take every connection, those that were open being ended."""
    import psycopg

    server.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname <> ''")
    others = []
    with contextlib.suppress(psycopg.OperationalError):
        for _ in range(200):
            others.append(
                psycopg.connect(
                    host="127.0.0.1", port=server.port, user=server.user, dbname="postgres", connect_timeout=5
                )
            )
    time.sleep(seconds)  # the outage itself
    for each in others:
        each.close()


def unlocked(server: Server, seconds: float) -> None:
    """Every session is ended, again and again."""
    for _ in range(3):
        server.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname <> ''"
        )
        time.sleep(seconds / 10)  # between two blows


WAYS = {
    "restarted": restarted,
    "killed": crashed,
    "one of its processes killed": one_crashed,
    "silent": silent,
    "out of connections": crowded,
    "sessions ended": unlocked,
}
FAULTS = [Fault("server", how, partial(out, how=how), 1.5, quick=how == "restarted") for how in WAYS]
