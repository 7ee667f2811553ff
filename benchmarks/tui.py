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
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.report import Result, Table, run, say
from kdnas.store import tables as t
from kdnas.store.database import open_store
from kdnas.study.reward import reward
from kdnas.study.spec import from_values
from kdnas.system import seeds

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
    rng = seeds.generator(0, seeds.Benchmark.SAMPLE)
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


def copied(path: Path, target: Path) -> Path:
    """The study once more, for what changes it."""
    with sqlite3.connect(path) as source, sqlite3.connect(target) as destination:
        source.backup(destination)
    return target


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
import sqlite3, sys, time
from kdnas.system import seeds
path, trials, seconds, pause, seed = sys.argv[1], int(sys.argv[2]), *map(float, sys.argv[3:6])
rng = seeds.generator(int(seed), seeds.Benchmark.SAMPLE)
database, end = sqlite3.connect(path, timeout=60, isolation_level=None), time.time() + seconds
database.execute("PRAGMA synchronous=NORMAL")
while time.time() < end:
    database.execute("BEGIN IMMEDIATE")
    database.execute("UPDATE kdnas_study SET revision = revision + 1, updated = ? WHERE study_id = 1", (time.time(),))
    [(revision,)] = database.execute("SELECT revision FROM kdnas_study WHERE study_id = 1")
    database.execute(
        "UPDATE kdnas_trial SET progress = ?, epoch = ?, revision = ? WHERE study_id = 1 AND number = ?",
        (rng.random(), int(rng.integers(4)), revision, trials - 1 - int(rng.integers(2))),
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

    def write(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def quiet(self, seconds: float, patience: float = 120.0) -> None:
        """Read until nothing has come for so long: what opening sends is over."""
        end = time.perf_counter() + patience
        while time.perf_counter() < end:
            before = len(self.sent)
            self.read(seconds)
            if len(self.sent) == before:
                return
        raise RuntimeError(f"it is never quiet for {seconds} s")

    def kib_per_second(self, seconds: float) -> float:
        self.count = 0
        self.read(seconds)
        return self.count / 1024 / seconds

    @property
    def memory_mib(self) -> float:
        return float(psutil.Process(self.process.pid).memory_info().rss) / 2**20

    def hang_up(self) -> None:
        """Takes the terminal away, as a lost connection does."""
        os.close(self._master)
        self._master = -1

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.read(0.3)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if self._master >= 0:
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


async def opened(path: Path, name: str, trials: int) -> float:
    """Seconds from choosing the study to all of its rows in the table."""
    from kdnas_tui import memory
    from kdnas_tui.app import KdnasApp

    memory.unhurried()
    app = KdnasApp(f"sqlite:///{path}")
    async with app.run_test(size=SIZE) as pilot:
        await looked_at_the_list(app, pilot)
        began = time.perf_counter()
        await all_rows(app, name, trials)
        return time.perf_counter() - began


async def looked_at_the_list(app: Any, pilot: Any) -> None:
    """As a person does, who then chooses the study."""
    while app.feed.ticks < 3:
        await pilot.pause(0.1)


async def all_rows(app: Any, name: str, trials: int) -> None:
    from kdnas_tui.widgets.trials_table import TrialsTable

    app.open_study(name)
    while not any(table.count == trials for table in app.screen.query(TrialsTable)):
        await asyncio.sleep(0.002)


async def inside(path: Path, trials: int, busy_s: float) -> dict[str, Any]:
    """Open the study, then go through every action while four writers write; seconds and gaps.

    Each action waits until what it should do can be seen: one that did nothing is no measurement.
    """
    from kdnas_tui import memory
    from kdnas_tui.app import KdnasApp
    from kdnas_tui.screens.study import StudyScreen

    memory.unhurried()  # as the app does for itself when it is run
    app = KdnasApp(f"sqlite:///{path}")
    found: dict[str, Any] = {}
    async with app.run_test(size=SIZE) as pilot:
        await looked_at_the_list(app, pilot)
        watchdog = Watchdog()
        watchdog.doing = "open"
        began, spent = time.perf_counter(), time.process_time()
        await all_rows(app, NAME, trials)
        found["open_s"], found["open_cpu_s"] = time.perf_counter() - began, time.process_time() - spent
        study = app.screen
        assert isinstance(study, StudyScreen)
        while study.watched.trials is None or not study.watched.trials.whole:  # what the first second does not show
            await asyncio.sleep(0.002)
        found["whole_s"] = time.perf_counter() - began
        await pilot.pause(1.5)
        with writers(path, 4, 600, 0.02, trials):
            await pilot.pause(1.0)
            for name, act in Actions(app, pilot, study, path, busy_s).all().items():
                watchdog.doing = name
                await act()
                await pilot.pause(0.4)
        watchdog.doing = "end"
        found["tick_ms"] = await asyncio.to_thread(quiet_ticks, app.feed)
        watchdog.stop()
        found["gaps"] = {
            name: (gap, watchdog.own[name]) for name, gap in watchdog.gaps.items() if name not in ("start", "end")
        }
    return found


class Actions:
    """What a person does with a study, each followed by a look at whether it was done."""

    def __init__(self, app: Any, pilot: Any, study: Any, path: Path, busy_s: float) -> None:
        from kdnas_tui.widgets.trials_table import TrialsTable

        self.app, self.pilot, self.study, self.path, self.busy_s = app, pilot, study, path, busy_s
        self.table = study.query_one(TrialsTable)

    def all(self) -> dict[str, Callable[[], Awaitable[None]]]:
        return {
            "cursor": self.cursor,
            "sort": self.sort,
            "filter": self.filter,
            "no filter": self.no_filter,
            "tabs": self.tabs,
            "axes": self.axes,
            "jump": self.jump,
            "mark": self.mark,
            "tag": self.tag,
            "compare": self.compare,
            "another reward": self.another_reward,
            "use another reward": self.use_another_reward,
            "candidate": self.candidate,
            "about": self.about,
            "export the best 1,000": self.export,
            "pause and go on": self.pause,
            "raise the budget": self.budget,
            "a trial ends": self.trial_ends,
            "help": self.help,
            "palette": self.palette,
            "theme": self.theme,
            "resize": self.resize,
            "nothing": self.nothing,
        }

    async def keys(self, *names: str) -> None:
        for name in names:
            await self.pilot.press(name)

    async def until(self, condition: Callable[[], object], what: str, patience: float = 60.0) -> None:
        end = time.perf_counter() + patience
        while not condition():
            if time.perf_counter() > end:
                raise RuntimeError(f"waited in vain until {what}: the figure would be of nothing")
            await asyncio.sleep(0.01)

    async def shown(self, kind: str) -> None:
        await self.until(lambda: type(self.app.screen).__name__ == kind, f"{kind} is shown")

    async def back(self) -> None:
        await self.keys("escape")
        await self.until(lambda: self.app.screen is self.study, "the study is shown again")

    def at(self, row: int) -> int:
        """Number of the trial in a row of the table."""
        return int(self.table._numbers[row + self.table.running if row >= 0 else row])

    def sorted_by(self, key: str) -> bool:
        return bool(self.table.sort_key == key)

    def tab_shown(self, tab: str) -> bool:
        return any(pane.display for pane in self.study.query(f"#{tab}"))

    def theme_is(self, dark: bool) -> bool:
        return bool(self.app.current_theme.dark == dark)

    def laid_out(self, layout: str) -> bool:
        return bool(self.study.panes.layout == layout)

    async def cursor(self) -> None:
        await self.keys(*["down"] * 10)
        await self.until(lambda: self.study.watched.cursor == self.at(10), "the cursor is ten lines down")
        await self.keys("pagedown")
        await self.until(lambda: self.table.cursor not in (self.at(10), self.at(0)), "it is a page down")
        await self.keys("end")
        await self.until(lambda: self.study.watched.cursor == self.at(-1), "it is at the end")
        await self.keys("home")
        await self.until(lambda: self.study.watched.cursor == self.at(0), "it is at the top")

    async def sort(self) -> None:
        for key in ("loss", "latency", "half"):
            await self.keys("greater_than_sign")
            await self.until(partial(self.sorted_by, key), f"sorted by {key}")
            values = self.study.watched.trials.column(key)[self.table._places[self.table.running :][:100]]
            assert (np.diff(values[~np.isnan(values)]) >= 0).all(), key
        first = self.at(0)
        await self.keys("equals_sign")
        await self.until(lambda: self.table.descending and self.at(0) != first, "the order is turned round")
        await self.keys(*["less_than_sign"] * 3)
        await self.until(lambda: self.table.sort_key == "reward", "sorted by reward")
        await self.keys("home")

    async def filter(self) -> None:
        text = "latency<8 layers>=4 act:gelu"
        await self.keys("slash", *(_named(letter) for letter in text), "enter")
        await self.until(lambda: self.study.watched.filter.text == text, "the filter is used")
        wanted = int(self.study.watched.trials.mask(self.study.watched.filter).sum())
        assert 0 < wanted < len(self.study.watched.trials)
        await self.until(lambda: self.table.count == wanted, "the table is narrowed")

    async def no_filter(self) -> None:
        await self.keys("escape")
        await self.until(lambda: self.table.count == len(self.study.watched.trials), "all trials are shown")

    async def tabs(self) -> None:
        for tab in ("slice", "parallel", "timeline", "curves", "importance", "log", "history"):
            await self.keys("right_square_bracket")
            await self.until(partial(self.tab_shown, tab), f"{tab} is shown")
            if tab in ("slice", "parallel", "timeline"):
                await self.drawn(self.study.query_one(f"#{tab}"))
                await self.keys(*["down"] * 5)
                await self.drawn(self.study.query_one(f"#{tab}"))
        self.table.focus()

    async def drawn(self, pane: Any) -> None:
        """Until a pane shows the trial under the cursor."""
        await self.until(
            lambda: pane.cursor == self.study.watched.cursor and pane._drawn_for == tuple(pane.content_size), "drawn"
        )

    async def axes(self) -> None:
        history = self.study.query_one("#history")
        await self.keys("m")
        await self.until(lambda: history.hypervolume, "the hypervolume is shown")
        await self.keys("e", "e", "W")
        await self.until(lambda: history._closer == {"x": 3, "y": 2}, "it is closer")
        await self.keys("0", "m")
        await self.until(lambda: not history.hypervolume, "rewards are shown")

    async def jump(self) -> None:
        await self.keys("colon", *"54321", "enter")
        await self.until(lambda: self.study.watched.cursor == 54321, "the cursor is on 54321")
        await self.keys("home")

    async def mark(self) -> None:
        number = self.study.watched.cursor
        await self.keys("space")
        await self.until(
            lambda: self.study.watched.trials.scored(number).row.marked, "the mark came back from the store"
        )

    async def tag(self) -> None:
        number = self.study.watched.cursor
        await self.keys("t", *"keep", "enter")
        await self.until(lambda: self.study.watched.trials.scored(number).row.tags == ("keep",), "the tag came back")

    async def compare(self) -> None:
        await self.keys("down", "space")
        await self.until(lambda: len(self.study.watched.marked()) == 2, "two are marked")
        await self.keys("c")
        await self.shown("CompareScreen")
        await self.back()

    async def another_reward(self) -> None:
        await self.keys("a")
        await self.shown("RescoreScreen")
        before = list(self.app.screen.query_one("#new").lines)
        await self.keys(*["left"] * 20)
        await self.until(lambda: self.app.screen.query_one("#new").lines != before, "the top ten are others")
        await self.back()

    async def use_another_reward(self) -> None:
        await self.keys("a")
        await self.shown("RescoreScreen")
        await self.keys(*["left"] * 2, "ctrl+s")
        await self.until(lambda: round(self.study.watched.trials.alpha, 4) == -0.08, "the table is ranked by it")

    async def candidate(self) -> None:
        before = self.study.watched.cursor
        await self.keys("i")
        await self.shown("CandidateScreen")
        await self.keys("right_square_bracket")
        await self.until(lambda: self.study.watched.cursor != before, "the next one is shown")
        await self.back()

    async def about(self) -> None:
        await self.keys("v")
        await self.shown("AboutScreen")
        await self.back()

    async def export(self) -> None:
        target = self.path.with_name("best.json")
        await self.keys("x")
        await self.shown("ExportScreen")
        form = self.app.screen
        form.query_one("#which").highlighted = 0
        form.query_one("#top").value, form.query_one("#file").value = "1000", str(target)
        await self.keys("ctrl+s")
        await self.until(target.exists, "the file is written")
        await self.until(lambda: self.app.screen is self.study, "the study is shown again")
        assert len(json.loads(target.read_text())["candidates"]) == 1000

    async def pause(self) -> None:
        await self.keys("p")
        await self.until(lambda: self.study.watched.study.status == "pausing", "it pauses")
        await self.keys("p")
        await self.until(lambda: self.study.watched.study.status == "running", "it goes on")

    async def budget(self) -> None:
        await self.keys("plus")
        await self.shown("Write")
        self.app.screen.query_one("Input").value = str(TRIALS + 5000)
        await self.keys("enter")
        await self.until(lambda: self.study.watched.study.trials == TRIALS + 5000, "the budget is raised")

    async def trial_ends(self) -> None:
        before = len(self.study.watched.trials.standing.order)
        await asyncio.to_thread(end_trial, self.path, len(self.study.watched.trials) - 1)
        await self.until(lambda: len(self.study.watched.trials.standing.order) == before + 1, "it is ranked")

    async def help(self) -> None:
        await self.keys("question_mark")
        await self.shown("HelpScreen")
        await self.back()

    async def palette(self) -> None:
        await self.keys("ctrl+p", *"budget")
        await self.shown("CommandPalette")
        await self.back()

    async def theme(self) -> None:
        for _ in range(2):
            dark = self.app.current_theme.dark
            await self.keys("ctrl+t")
            await self.until(partial(self.theme_is, not dark), "the other theme is on")

    async def resize(self) -> None:
        for size, layout in (((80, 24), "tabs"), ((38, 11), "card"), (SIZE, "wide")):
            await self.pilot.resize_terminal(*size)
            await self.until(partial(self.laid_out, layout), layout)

    async def nothing(self) -> None:
        await self.pilot.pause(max(1.0, self.busy_s / 4))


def _named(letter: str) -> str:
    from textual.keys import _character_to_key

    return _character_to_key(letter)


def end_trial(path: Path, number: int) -> None:
    """What a worker writes when a trial is done."""
    with sqlite3.connect(path, timeout=60) as database:
        database.execute("UPDATE kdnas_study SET revision = revision + 1 WHERE study_id = 1")
        database.execute(
            "UPDATE kdnas_trial SET state = 'done', loss = 0.2, raw_loss = 0.05, epoch = 4, progress = 1, "
            "phase = NULL, ended = started + 29, reward = 0.7, "
            "revision = (SELECT revision FROM kdnas_study WHERE study_id = 1) WHERE study_id = 1 AND number = ?",
            (number,),
        )
        database.execute("UPDATE kdnas_slot SET state = 'done' WHERE study_id = 1 AND trial = ?", (number,))


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
        found = asyncio.run(inside(copied(path, folder / "acted.db"), TRIALS, seconds))
        say("Traffic and memory on a terminal …")
        with terminal(["-m", "kdnas_tui", NAME, "--storage", str(path)], environment) as shown:
            shown.until(b"done")
            shown.quiet(2.0)
            memory = shown.memory_mib
            idle = shown.kib_per_second(seconds)
            shown.write(b"/state:running\r")  # what changes is to be in sight
            shown.until(b"2 of ")
            shown.quiet(2.0)
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
        "open_100k_cpu_s": found["open_cpu_s"],
        "open_100k_whole_s": found["whole_s"],
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
