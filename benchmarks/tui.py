"""What the screens cost: start, a study of 100,000 trials, an idle second, a live one; beside Textual's own DataTable.

The study is generated, its store a real SQLite file; first paint, traffic and memory are measured on real processes on
a pseudo-terminal, gaps of the event loop inside one by a watchdog while four writers write to the same database.
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import json
import os
import pty
import select
import signal
import sqlite3
import statistics
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.report import Result, Table, run, say
from kdnas.reward import reward
from kdnas.spec import from_values
from kdnas.store import tables as t
from kdnas.store.open import open_store

TRIALS = 100_000
SIZE = (120, 36)
NAME = "generated"
BUDGETS = {  # from the design of the screens; reported, not asserted
    "first_paint_s": 0.8,
    "open_100k_s": 1.0,
    "longest_gap_ms": 100.0,
    "idle_tick_ms": 1.0,
    "idle_kib_s": 0.1,
    "live_kib_s": 3.0,
    "memory_100k_mib": 120.0,
}


# ---------------------------------------------------------------------------- the study


def generate(path: Path, trials: int) -> None:
    """A study as a long search would leave it: all but two trials ended, the last two running."""
    rng = np.random.default_rng(0)
    layers, heads = rng.integers(1, 13, trials), rng.integers(1, 13, trials)
    inner, act = rng.integers(1, 13, trials) * 256, rng.integers(0, 3, trials)
    work = layers * (heads / 6) ** 1.3
    latency = np.round(0.6 + 1.1 * work * rng.normal(1, 0.02, trials), 4)
    loss = np.clip(0.62 / (1 + work) + 0.06 + rng.normal(0, 0.02, trials), 0.04, 0.97).round(5)
    draw = rng.random(trials)
    with open_store(path, create=True) as store, store.begin() as connection:
        connection.execute(
            t.study.insert().values(
                study_id=1, name=NAME, spec=from_values({"name": NAME}).model_dump_json(), trials=trials + 1000,
                alpha=-0.06, beta=0.6, wanted="run", teacher_latency_ms=30.0, revision=trials, created=time.time(),
                updated=time.time(),
            )
        )  # fmt: skip
        connection.execute(
            t.worker.insert().values(
                study_id=1, host="elsewhere", pid=1, device="cpu", state="running", task="search", started=time.time(),
                heartbeat=time.time() + 86400,
            )
        )  # fmt: skip
    names = [column.name for column in t.trial.columns]
    with sqlite3.connect(path) as database:
        insert = f"INSERT INTO kdnas_trial ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})"
        rows = (trial(i, trials, layers, heads, inner, act, latency, loss, draw) for i in range(trials))
        database.executemany(insert, ([row.get(name) for name in names] for row in rows))
        database.executemany(
            "INSERT INTO kdnas_slot (study_id, slot, state, attempts, trial) VALUES (1, ?, ?, 1, ?)",
            ((i, "running" if i >= trials - 2 else "done", i) for i in range(trials)),
        )


def trial(
    i: int, trials: int, layers: Any, heads: Any, inner: Any, act: Any, latency: Any, loss: Any, draw: Any
) -> dict[str, Any]:
    running = i >= trials - 2
    state = "running" if running else "pruned" if draw[i] < 0.1 else "failed" if draw[i] < 0.11 else "done"
    ms, lost = float(latency[i]), float(loss[i])
    candidate = {
        "num_hidden_layers": int(layers[i]), "num_attention_heads": int(heads[i]), "head_size": 64,
        "intermediate_size": int(inner[i]), "hidden_act": ("gelu", "relu", "silu")[act[i]],
    }  # fmt: skip
    config = {"model_type": "bert", "hidden_size": int(heads[i]) * 64, **candidate}
    return {
        "study_id": 1, "number": i, "slot": i, "worker_id": 1, "state": state, "candidate": json.dumps(candidate),
        "candidate_key": str(i), "config": json.dumps(config), "origin": "strategy", "seed": i,
        "reward": reward(lost, ms, 30.0, -0.06, 0.6) if state == "done" else None, "alpha": -0.06, "beta": 0.6,
        "loss": None if running or state == "failed" else lost, "raw_loss": lost / 4, "latency_ms": ms,
        "latency_p90_ms": ms * 1.08, "latency_low_ms": ms * 0.99, "latency_high_ms": ms * 1.01, "latency_count": 30,
        "teacher_latency_ms": 30.0, "parameters": int(3e6 + 1.7e6 * layers[i]), "memory_mib": 900.0,
        "epoch": 2 if running else 4, "epochs": 4, "progress": 0.5 if running else 1.0,
        "phase": "training" if running else None, "started": 1.7e9 + 30 * i,
        "ended": None if running else 1.7e9 + 30 * i + 29, "revision": i,
    }  # fmt: skip


WRITER = """
import random, sqlite3, sys, time
path, trials, seconds, pause, seed = sys.argv[1], int(sys.argv[2]), *map(float, sys.argv[3:6])
rng, database, end = random.Random(seed), sqlite3.connect(path, timeout=60, isolation_level=None), time.time() + seconds
database.execute("PRAGMA synchronous=NORMAL")
while time.time() < end:
    database.execute("BEGIN IMMEDIATE")
    database.execute("UPDATE kdnas_study SET revision = revision + 1, updated = ? WHERE study_id = 1", (time.time(),))
    [(revision,)] = database.execute("SELECT revision FROM kdnas_study WHERE study_id = 1")
    database.execute(
        "UPDATE kdnas_trial SET progress = ?, epoch = ?, revision = ? WHERE study_id = 1 AND number = ?",
        (rng.random(), rng.randrange(4), revision, trials - 1 - rng.randrange(2)),
    )
    if rng.random() < 0.2:
        database.execute(
            "INSERT INTO kdnas_log (study_id, worker_id, time, level, line) VALUES (1, 1, ?, 'info', ?)",
            (time.time(), f"trial {trials}: epoch done, loss {rng.random():.3f}"),
        )
    database.execute("COMMIT")
    time.sleep(pause)
"""


@contextmanager
def writers(path: Path, count: int, seconds: float, pause: float, trials: int) -> Iterator[None]:
    """Processes that report the progress of the running trials, as workers do."""
    processes = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(path), str(trials), str(seconds), str(pause), str(i)])
        for i in range(count)
    ]
    try:
        yield
    finally:
        for process in processes:
            process.terminate()
            process.wait()


# ---------------------------------------------------------------------------- processes on a terminal


class Terminal:
    """A process on a pseudo-terminal; counts what it sends."""

    def __init__(self, arguments: list[str], environment: dict[str, str]) -> None:
        self.began = time.perf_counter()
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", SIZE[1], SIZE[0], 0, 0))
        self.process = subprocess.Popen(
            [sys.executable, *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            env={**os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor", **environment},
        )
        os.close(slave)
        self.sent = b""
        self.count = 0

    def read(self, seconds: float) -> None:
        end = time.perf_counter() + seconds
        while (left := end - time.perf_counter()) > 0:
            if select.select([self._master], [], [], left)[0]:
                try:
                    chunk = os.read(self._master, 65536)
                except OSError:
                    return
                self.sent += chunk
                self.count += len(chunk)

    def until(self, words: bytes, patience: float = 300.0) -> float:
        """Seconds since the start until the words are on the wire."""
        while words not in self.sent:
            if time.perf_counter() - self.began > patience or self.process.poll() is not None:
                raise RuntimeError(f"{words!r} was never shown: {self.sent[-2000:]!r}")
            self.read(0.005)
        return time.perf_counter() - self.began

    def kib_per_second(self, seconds: float) -> float:
        self.count = 0
        self.read(seconds)
        return self.count / 1024 / seconds

    @property
    def memory_mib(self) -> float:
        return float(psutil.Process(self.process.pid).memory_info().rss) / 2**20

    def close(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.read(0.3)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        os.close(self._master)


@contextmanager
def terminal(arguments: list[str], environment: dict[str, str]) -> Iterator[Terminal]:
    opened = Terminal(arguments, environment)
    try:
        yield opened
    finally:
        opened.close()


# ---------------------------------------------------------------------------- inside the event loop


class Watchdog:
    """The longest time for which the event loop did nothing else, and the CPU time that it took itself in such a time.

    On a busy machine the first is also the time for which other processes had the core. A sleep of 2 ms is in it.
    """

    def __init__(self) -> None:
        self.gaps: dict[str, float] = {}
        self.own: dict[str, float] = {}
        self.doing = "start"
        self._task = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        last, spent = time.perf_counter(), time.thread_time()
        while True:
            await asyncio.sleep(0.002)
            now, own = time.perf_counter(), time.thread_time()
            self.gaps[self.doing] = max(self.gaps.get(self.doing, 0.0), (now - last) * 1000)
            self.own[self.doing] = max(self.own.get(self.doing, 0.0), (own - spent) * 1000)
            last, spent = now, own

    def stop(self) -> None:
        self._task.cancel()


async def inside(path: Path, trials: int, busy_s: float) -> dict[str, Any]:
    """Open the study, then go through every action while four writers write; seconds and gaps."""
    from kdnas_tui.app import KdnasApp
    from kdnas_tui.screens.study import StudyScreen
    from kdnas_tui.widgets.trials_table import TrialsTable

    app = KdnasApp(f"sqlite:///{path}")
    found: dict[str, Any] = {}
    async with app.run_test(size=SIZE) as pilot:
        await pilot.pause(0.5)
        import kdnas_tui.screens.study  # noqa: F401 - what opening it first would import is in first_paint_study_s

        watchdog = Watchdog()
        watchdog.doing = "open"
        began = time.perf_counter()
        app.open_study(NAME)

        while not any(table.count == trials for table in app.screen.query(TrialsTable)):
            await asyncio.sleep(0.002)
        found["open_s"] = time.perf_counter() - began
        await pilot.pause(1.5)
        study = app.screen
        assert isinstance(study, StudyScreen)
        table = study.query_one(TrialsTable)

        async def keys(*names: str) -> None:
            for name in names:
                await pilot.press(name)

        async def filtered(text: str) -> None:
            await keys("slash")
            study.query_one("#filter").value = text  # type: ignore[attr-defined]
            await pilot.pause(0.1)
            await keys("enter")

        actions: dict[str, Callable[[], Awaitable[None]]] = {
            "cursor": lambda: keys(*["down"] * 10, "pagedown", "end", "home"),
            "sort": lambda: keys(*["greater_than_sign"] * 3, "equals_sign"),
            "filter": lambda: filtered("latency<8 layers>=4 act:gelu"),
            "no filter": lambda: keys("escape"),
            "tabs": lambda: keys(*["right_square_bracket"] * 4),
            "mark": lambda: keys("space"),
            "another reward": lambda: keys("a", *["left"] * 5, "escape"),
            "candidate": lambda: keys("i", "right_square_bracket", "escape"),
            "export": lambda: keys("x", "down", "down", "escape"),
            "help": lambda: keys("question_mark", "escape"),
            "resize": lambda: pilot.resize_terminal(80, 24),
            "resize back": lambda: pilot.resize_terminal(*SIZE),
            "nothing": lambda: pilot.pause(max(1.0, busy_s / 4)),
        }
        with writers(path, 4, 600, 0.02, trials):
            await pilot.pause(1.0)
            for name, act in actions.items():
                watchdog.doing = name
                await act()
                await pilot.pause(0.4)
        watchdog.doing = "end"
        assert table.count == trials
        feed = app.feed
        found["tick_ms"] = await asyncio.to_thread(quiet_ticks, feed)
        watchdog.stop()
        found["gaps"] = {
            name: (gap, watchdog.own[name]) for name, gap in watchdog.gaps.items() if name not in ("start", "end")
        }
    return found


def quiet_ticks(feed: Any) -> float:
    """Median milliseconds of a look that finds nothing new, in a feed of its own beside the app's."""
    from kdnas_tui.feed import Feed

    own = Feed(feed.url, lambda: None)
    own.watch(NAME)
    own.tick()
    times = []
    for _ in range(400):
        began = time.perf_counter()
        own.tick()
        times.append((time.perf_counter() - began) * 1000)
    return statistics.median(times)


# ---------------------------------------------------------------------------- Textual's own table


def data_table(path: str, rows: int) -> None:
    """The same trials in a DataTable: filled, then one cell of each running trial changed twice a second."""
    from textual.app import App, ComposeResult
    from textual.widgets import DataTable

    query = (
        "SELECT number, reward, loss, latency_ms, teacher_latency_ms, parameters, state FROM kdnas_trial "
        "ORDER BY reward DESC LIMIT ?"
    )
    with sqlite3.connect(path) as database:
        trials = database.execute(query, (rows,)).fetchall()

    class Peer(App[None]):
        def compose(self) -> ComposeResult:
            yield DataTable(cursor_type="row")

        def on_mount(self) -> None:
            table = self.query_one(DataTable)
            table.add_columns("#", "reward", "loss", "lat ms", "T", "params", "state")
            began = time.perf_counter()
            for row in trials:
                table.add_row(*(f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in row))
            self.call_after_refresh(self.filled, time.perf_counter() - began)

        def filled(self, seconds: float) -> None:
            Path(os.environ["FILLED"]).write_text(str(seconds))
            if os.environ.get("LIVE"):
                self.set_interval(0.5, self.change)

        def change(self) -> None:
            from textual.coordinate import Coordinate

            self.query_one(DataTable).update_cell_at(Coordinate(3, 6), f"{time.time():.1f}")

    Peer().run()


def peer(path: Path, rows: int, seconds: float) -> dict[str, float]:
    filled = path.with_name("filled")
    arguments = ["-m", "benchmarks.tui", "--peer", str(path), "--peer-rows", str(rows)]
    with terminal(arguments, {"FILLED": str(filled), "LIVE": "1"}) as shown:
        end = time.perf_counter() + 600
        while not filled.exists() and time.perf_counter() < end:
            shown.read(0.05)
        fill_s = float(filled.read_text())
        shown.read(2.0)
        return {"fill_s": fill_s, "live_kib_s": shown.kib_per_second(seconds), "memory_mib": shown.memory_mib}


# ---------------------------------------------------------------------------- all of it


def measure(chosen: argparse.Namespace) -> Result:
    repeats, seconds = (3, 8.0) if chosen.quick else (9, 30.0)
    peer_rows = 5_000 if chosen.quick else TRIALS
    with tempfile.TemporaryDirectory(prefix="kdnas-tui-") as place:
        folder = Path(place)
        environment = {"KDNAS_CONFIG": place, "KDNAS_STATE": place, "OMP_NUM_THREADS": "1"}
        os.environ.update(environment)
        path = folder / "generated.db"
        say(f"Generating a study of {TRIALS:,} trials …")
        generate(path, TRIALS)
        empty = folder / "empty.db"
        say("First paint …")
        paints = [painted(["--storage", str(empty)], b"No study yet", environment) for _ in range(repeats)]
        say("Event loop under four writers …")
        found = asyncio.run(inside(path, TRIALS, seconds))
        say("Traffic and memory on a terminal …")
        with terminal(["-m", "kdnas_tui", NAME, "--storage", str(path)], environment) as shown:
            shown.until(b"lat ms")
            shown.read(6.0)
            memory = shown.memory_mib
            idle = shown.kib_per_second(seconds)
            with writers(path, 1, 600, 0.5, TRIALS):
                shown.read(2.0)
                live = shown.kib_per_second(seconds)
            memory = max(memory, shown.memory_mib)
        say(f"Textual's DataTable with {peer_rows:,} rows …")
        other = peer(path, peer_rows, min(seconds, 10.0))
    figures = {
        "first_paint_s": statistics.median(wall for wall, _ in paints),
        "open_100k_s": found["open_s"],
        "longest_gap_ms": max(gap for gap, _ in found["gaps"].values()),
        "idle_tick_ms": found["tick_ms"],
        "idle_kib_s": idle,
        "live_kib_s": live,
        "memory_100k_mib": memory,
        "first_paint_cpu_s": statistics.median(cpu for _, cpu in paints),
        "longest_gap_cpu_ms": max(own for _, own in found["gaps"].values()),
        "datatable.fill_s": other["fill_s"],
        "datatable.live_kib_s": other["live_kib_s"],
        "datatable.memory_mib": other["memory_mib"],
    }
    peers = {
        "open_100k_s": other["fill_s"],
        "longest_gap_ms": other["fill_s"] * 1000,
        "live_kib_s": other["live_kib_s"],
        "memory_100k_mib": other["memory_mib"],
    }
    rows = [[name, figures[name], budget, peers.get(name)] for name, budget in BUDGETS.items()]
    return Result(
        [
            Table(
                f"The screens on {TRIALS:,} trials",
                ("figure", "measured", "budget", f"DataTable, {peer_rows:,} rows"),
                rows,
                ("DataTable fills on the event loop, so its fill is one gap.",),
            ),
            Table(
                "Longest gap of the event loop, four writers writing",
                ("action", "ms", "of it CPU of the loop, at most"),
                [(name, *found["gaps"][name]) for name in sorted(found["gaps"], key=lambda n: -found["gaps"][n][0])],
            ),
        ],
        figures,
        {
            "trials": TRIALS,
            "datatable_rows": peer_rows,
            "size": list(SIZE),
            "first_paints_s": paints,
            "gaps_ms": found["gaps"],
        },
    )


def painted(arguments: list[str], words: bytes, environment: dict[str, str]) -> tuple[float, float]:
    """Seconds until the first screen is drawn, and the CPU seconds in them."""
    with terminal(["-m", "kdnas_tui", *arguments], environment) as shown:
        shown.until(b"studies")
        first = time.perf_counter() - shown.began
        spent = psutil.Process(shown.process.pid).cpu_times()
        shown.until(words)
        return first, spent.user + spent.system


if __name__ == "__main__":
    if "--peer" in sys.argv:
        data_table(sys.argv[sys.argv.index("--peer") + 1], int(sys.argv[-1]))
    else:
        run("What the screens cost.", measure)
