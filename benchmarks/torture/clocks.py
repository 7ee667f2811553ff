"""Clocks that step, hosts that disagree, time zones, and machines that sleep: nobody alive is taken for dead, nobody
dead holds a slot, and the study is that of a good clock."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import time
from functools import partial

import sqlalchemy as sa

from benchmarks.torture.faults import Fault, Ground, Lost
from benchmarks.torture.searches import file_store, kill, said_last, spec_of, told, undisturbed, whole, working
from benchmarks.torture.stores import until
from kdnas.search.begin import begin
from kdnas.store import queries, slots, studies
from kdnas.store import tables as t
from kdnas.store.database import open_reader, open_store
from kdnas.study.states import SlotState

ZONES = ("UTC", "Pacific/Kiritimati", "America/St_Johns", "Asia/Kathmandu")


def stepping(ground: Ground) -> int:
    """The worker's clock jumps by days, back and forth, all the time."""
    spec = spec_of(("tpe", "lstm", "evolution")[ground.seed % 3], ground.seed)
    expected = undisturbed(ground, spec)
    place = file_store(ground)
    begin(spec, place)
    steps = [0]

    def work() -> int:
        real = time.time

        def stepped() -> float:
            steps[0] += 1
            return real() + (-1) ** steps[0] * 86_400.0 * (steps[0] % 5)

        time.time = stepped
        return working(place)()

    if (code := ground.ended(ground.fork(work))) != 0:
        raise Lost(f"the worker ended with {code}: {said_last(ground)}")
    whole(place)
    if told(place) != expected:
        raise Lost("it went on otherwise than with a good clock")
    for words in (("show", "fake"), ("studies",), ("logs", "fake"), ("report", "fake", "-o", "report.md")):
        ground.ran(*words, KDNAS_STORAGE=place, TZ=ZONES[ground.seed % len(ZONES)])
    return 1


def slept(ground: Ground) -> int:
    """A worker is stopped as by a machine that sleeps, another one dies meanwhile; it wakes up and goes on."""
    spec = spec_of("random", ground.seed, budget={"trials": 120, "pruner": "none"})
    place = file_store(ground)
    begin(spec, place)
    sleeper, other = ground.fork(working(place)), ground.fork(working(place))
    until(ground, lambda: len(told(place)) > 0)
    ground.moment(0.3)
    sleeper.send_signal(signal.SIGSTOP)
    kill(ground, other)
    with open_reader(place) as store:
        alive = queries.study_row(store, "fake").workers
    if sleeper.poll() is None and alive != 1:
        raise Lost(f"{alive} workers are taken for alive, where one sleeps")
    third = ground.fork(working(place))
    ground.moment(1.0)
    sleeper.send_signal(signal.SIGCONT)
    for process in (sleeper, third):
        if (code := ground.ended(process)) != 0:
            raise Lost(f"a worker ended with {code}: {said_last(ground)}")
    whole(place)
    return 1


def changed(place: str, statement: str, *values: float) -> None:
    with contextlib.closing(sqlite3.connect(place, isolation_level=None, timeout=60)) as rows:
        rows.execute(statement, values)


def counted(place: str, query: str) -> int:
    with contextlib.closing(sqlite3.connect(place, timeout=60)) as rows:
        return int(rows.execute(query).fetchone()[0])


def ends_in_order(place: str) -> None:
    """What the worker of the other host does when it is stopped there: its trial is given back, and it leaves."""
    with open_store(place) as store:
        study_id = queries.study_row(store, "fake").study_id
        with store.connect() as connection:
            w = t.worker.c
            (worker_id,) = connection.execute(sa.select(w.worker_id).where(w.host == "elsewhere")).scalars()
            held = sa.select(t.slot.c.slot).where(t.slot.c.worker_id == worker_id, t.slot.c.state == SlotState.RUNNING)
            slots_held = list(connection.execute(held).scalars())
        for slot in slots_held:
            slots.give_up(store, study_id, slot, worker_id, attempts=None, why="its worker was stopped")
        studies.leave(store, study_id, worker_id, device=None, error=None)


def elsewhere(ground: Ground, wrong_s: float) -> int:
    """A living worker of another host, whose clock is wrong: its slot is not taken while its heartbeat goes on."""
    place = file_store(ground)
    spec = spec_of("random", ground.seed, budget={"trials": 6, "pruner": "none"})
    begin(spec, place)
    other = ground.fork(working(place))
    until(ground, lambda: len(told(place)) > 0)
    os.kill(other.pid, signal.SIGKILL)  # its rows stay; from here on it is "elsewhere", and this process its heart
    ground.ended(other)
    # Each statement by a connection of its own: a process that is forked must inherit none.
    changed(place, "UPDATE kdnas_worker SET host = 'elsewhere', state = 'running', ended = NULL")

    def beats() -> None:
        changed(place, "UPDATE kdnas_worker SET heartbeat = ? WHERE host = 'elsewhere'", time.time() + wrong_s)

    beats()
    held = counted(place, "SELECT count(*) FROM kdnas_slot WHERE state = 'running'")
    here = ground.fork(working(place))
    for _ in range(6):
        time.sleep(0.3)  # between heartbeats
        beats()
    theirs = "worker_id IN (SELECT worker_id FROM kdnas_worker WHERE host = 'elsewhere')"
    now = counted(place, f"SELECT count(*) FROM kdnas_slot WHERE state = 'running' AND {theirs}")
    if now != held:
        raise Lost("the slot of a living worker was taken")
    ends_in_order(place)
    if (code := ground.ended(here)) != 0:
        raise Lost(f"the worker ended with {code}: {said_last(ground)}")
    whole(place)
    return 1


FAULTS = [
    Fault("clocks", "stepping by days", stepping, quick=True),
    Fault("clocks", "a machine that sleeps", slept),
    *(Fault("clocks", f"another host's wrong by {wrong:+.0f} s", partial(elsewhere, wrong_s=wrong), 0.7)
      for wrong in (-120.0, 3 * 86_400.0)),
]  # fmt: skip
