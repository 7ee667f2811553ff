"""What `kdnas search` shows while its workers run: a live line on a terminal, plain lines elsewhere.

Reads the store and nothing else, so that it shows exactly what any other screen would.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from kdnas.cli.frame import narration
from kdnas.cli.tables import figures
from kdnas.store import queries
from kdnas.store.database import Store
from kdnas.study import layer_words
from kdnas.study.rows import Status, StudyRow, TrialRow
from kdnas.study.states import REWARDED, TrialState
from kdnas.system import interrupts, time_left
from kdnas.system.text import clean

LOOK_S = 0.5  # between two looks at the store
LOUD = ("warning", "error")


class Process(Protocol):
    """As much of subprocess.Popen as is needed here."""

    def poll(self) -> int | None: ...

    def wait(self, timeout: float | None = None) -> int: ...


def watch(store: Store, name: str, processes: Sequence[Process]) -> StudyRow:
    """Show a study until all of `processes` have ended; returns its last row. Ctrl-C comes through as it is."""
    console = narration()
    first = queries.study_row(store, name)
    log_id = max((line.log_id for line in queries.logs(store, first.study_id, limit=1)), default=0)
    shown = {row.number for row in queries.trial_rows(store, first.study_id) if has_ended(row)}
    revision = -1
    with _Line(console, first) as line:
        while True:
            # Before the look, so that it is the last. Each one is asked, since a killed one may be replaced just then.
            codes = [process.poll() for process in processes]
            over = None not in codes
            row = queries.study_row(store, name)
            for said in queries.logs(store, row.study_id, log_id):
                log_id = said.log_id
                if said.level in LOUD:
                    console.print(Text(clean(f"{said.level}: {said.line}"), style="yellow"), soft_wrap=True)
            if row.revision != revision:
                for trial in queries.trial_rows(store, row.study_id, revision):
                    if has_ended(trial) and trial.number not in shown:
                        shown.add(trial.number)
                        console.print(Text(clean(ended(trial, row.teacher_latency_ms))), soft_wrap=True)
                revision = row.revision
            doing = next((w.doing for w in queries.workers(store, row.study_id) if w.alive and w.doing), None)
            line.update(row, doing)
            if over:
                return row
            interrupts.check()
            _wait(processes)


def _wait(processes: Sequence[Process]) -> None:
    for process in processes:
        if process.poll() is None:
            try:
                process.wait(timeout=LOOK_S)
            except subprocess.TimeoutExpired:
                return
            return


def has_ended(row: TrialRow) -> bool:
    """Of one that waits for its latency only the training has."""
    return row.ended is not None and row.state != TrialState.WAITING


def ended(row: TrialRow, reference_ms: float | None) -> str:
    """One finished trial as one line."""
    point = " ".join(f"{key}={value}" for key, value in layer_words.shown(row.candidate).items())
    words = figures(row, reference_ms) if row.state in REWARDED else row.error or ""
    return f"#{row.number} {row.state}  {words}  {point}"


class _Line:
    """The live line on a terminal; elsewhere a plain line whenever a worker turns to something else."""

    def __init__(self, console: Console, row: StudyRow) -> None:
        self.console = console
        self.progress = Progress(
            TextColumn("{task.fields[name]}", markup=False),
            TextColumn("{task.fields[status]}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[best]}", markup=False),
            TimeElapsedColumn(),
            TextColumn("{task.fields[doing]}", markup=False),
            console=console,
            transient=True,
            auto_refresh=False,  # over a slow line, a look's worth is enough
            disable=not console.is_terminal,
        )
        self.task = self.progress.add_task(
            "", name=clean(row.name), status="starting", best="", doing="", total=None if row.open else row.trials
        )
        self.last = ""

    def __enter__(self) -> _Line:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def update(self, row: StudyRow, doing: str | None) -> None:
        best = "" if row.best_reward is None else f"best {row.best_reward:.4f}"
        eta = "" if row.eta is None else f" ETA {time_left.words(row.eta)}"
        # The worker's row comes a moment after its process.
        before = row.status in (Status.NEW, Status.STOPPED, Status.DEAD, Status.FAILED)
        status = "starting" if before else str(row.status)
        self.progress.update(
            self.task,
            completed=row.done,
            total=row.expected if row.open else row.trials,
            status=status,
            best=best + eta,
            doing=clean(doing or ""),
        )
        self.progress.refresh()
        # Without a terminal that can take a line back, only what comes before the trials is worth one.
        words = re.sub(r" \d+%$", "", doing or "")
        if not self.console.is_terminal and words and words != self.last and row.space_size is None:
            self.console.print(Text(clean(f"{row.name}: {words}")), soft_wrap=True)
        self.last = words or self.last
