"""Begins or takes up a study, and starts the worker processes that run it. Runs no trial itself."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from kdnas.store import changes, queries
from kdnas.store.database import open_store
from kdnas.study.spec import StudySpec, from_values
from kdnas.study.spec_differences import differences
from kdnas.study.states import Wanted
from kdnas.system import paths
from kdnas.system.errors import UsageError

_children: list[subprocess.Popen[bytes]] = []  # looked at now and then, so that none stays behind as a zombie


@dataclass(frozen=True)
class Started:
    """A worker process that outlives this one, and the file that takes its output."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def pid(self) -> int:
        return self.process.pid


@dataclass(frozen=True)
class Begun:
    """A study that is there now."""

    study_id: int
    name: str
    resumed: bool


def begin(
    spec: StudySpec,
    storage: str | Path,
    *,
    trials: int | None = None,
    alpha: float | None = None,
    beta: float | None = None,
) -> Begun:
    """The study, created or taken up again, and wanted to run. Raises UsageError, with what differs, where one of that
    name was begun with another spec.

    On taking up, `trials`, `alpha` and `beta` change the study. Without them a larger budget in the spec raises the
    study's, and the spec's α and β replace the study's only where they are not those that it was begun with, so that
    running the same spec again undoes no later change.
    """
    from kdnas.store.studies import create_study, delete_study

    with open_store(storage, create=True) as store:
        before = {row.name: row for row in queries.study_rows(store)}
        row = before.get(spec.name)
        if row is not None and row.space_size is None and not row.workers and differences(from_values(row.spec), spec):
            # It never came to anything: its teacher or its data could not be had.
            delete_study(store, spec.name)
            row = None
        study_id = create_study(store, spec)
        if row is not None:
            if trials is not None or spec.budget.trials > row.trials:
                changes.set_trials(store, study_id, trials or spec.budget.trials)
            if alpha is not None or beta is not None:
                new = (row.alpha if alpha is None else alpha, row.beta if beta is None else beta)
                changes.set_reward(store, study_id, *new)
            elif spec.reward != from_values(row.spec).reward:
                changes.set_reward(store, study_id, spec.reward.alpha, spec.reward.beta)
            changes.set_wanted(store, study_id, Wanted.RUN)
        return Begun(study_id, spec.name, resumed=row is not None)


def start_workers(
    storage: str | Path, study: str, count: int = 1, *, device: str | None = None, command: list[str] | None = None
) -> list[Started]:
    """Starts worker processes that outlive this one.

    Each has a session of its own, no standard input, and its output in a file under the state folder. Where the
    user has not set OMP_NUM_THREADS, they share the machine's cores. `command` is run instead of `kdnas.search.worker`,
    with the study's name appended.
    """
    _children[:] = [child for child in _children if child.poll() is None]
    folder = paths.state_folder() / "logs"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise UsageError(
            f"The folder {folder} cannot be made: {error.strerror}.", "Set KDNAS_STATE to one that can be written."
        ) from None
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # The address may hold a password, which a command line would show to everybody on the machine.
    environment = {"OMP_NUM_THREADS": str(max(1, cores // count)), **os.environ, "KDNAS_STORAGE": str(storage)}
    words = [*(command or [sys.executable, "-m", "kdnas.search.worker"]), study]
    if device is not None:
        words += ["--device", device]
    started = []
    for nth in range(count):
        log = folder / f"{study}.{time.time_ns() // 1_000_000}.{nth}.log"
        with log.open("ab") as output:
            child = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=environment,
            )
        _children.append(child)
        started.append(Started(child, log))
    return started
