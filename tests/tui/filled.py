"""Stores for tests of the screens: real SQLite files, studies begun by the store's own functions, trials put in whole.

Every moment in them is fixed, so that a screen with the clock NOW always looks the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from kdnas.store import recording
from kdnas.store import tables as t
from kdnas.store.database import Store, open_store
from kdnas.store.studies import create_study
from kdnas.study.reward import reward
from kdnas.study.rows import TrialRow
from kdnas.study.space import Dimension, SearchSpace
from kdnas.study.spec import from_values
from tests.rows import made_rows

NOW = 4_000_000_000.0  # ahead of every real clock: what was heard just before it is alive
BEGAN = NOW - 3 * 3600
RECORDED_NOW = 1_795_270_733.0  # a minute after the recorded study ended
SPACE = SearchSpace(
    (
        Dimension("num_hidden_layers", (2, 3, 4, 5, 6)),
        Dimension("head_size", (26, 32)),
        Dimension("num_attention_heads", (2, 4, 6, 12)),
        Dimension("hidden_act", ("gelu", "relu", "silu"), ordered=False),
    )
)


def url_of(folder: Path) -> str:
    return f"sqlite:///{folder / 'kdnas.db'}"


def study(
    store: Store,
    name: str = "minilm",
    *,
    trials: int = 40,
    rows: Sequence[TrialRow] | int = 30,
    strategy: str = "tpe",
    wanted: str = "run",
    worker: str | None = None,
    heard: float = NOW - 2,
    space: SearchSpace = SPACE,
    values: Mapping[str, Any] | None = None,
    every: float = 100,
    takes: float = 60,
    log: Sequence[str] = ("loaded the teacher", "made the cache", "trial 28 done: reward 0.84"),
) -> int:
    """A study with trials, one begun `every` so many seconds and taking so many; `worker` is the state its one worker
    was last in, `heard` when, and `log` what it wrote."""
    asked = {**(values or {}), "name": name, "budget": {"trials": trials}, "strategy": {"name": strategy}}
    study_id = create_study(store, from_values(asked))
    made = made_rows(rows) if isinstance(rows, int) else list(rows)
    with store.begin() as connection:
        here = t.study.c.study_id == study_id
        done = sum(row.state in ("done", "pruned", "failed") for row in made)
        connection.execute(
            sa.update(t.study)
            .where(here)
            .values(
                space=space.to_json(),
                wanted=wanted,
                created=BEGAN,
                updated=NOW - 30,
                revision=len(made),
                teacher_latency_ms=30.0,
                finished=NOW - 60 if done >= trials else None,
                provenance=json.dumps({"device": "cpu", "versions": {"torch": "2.13.0"}, "teacher": {"layers": 6}}),
            )
        )
        connection.execute(sa.update(t.event).where(t.event.c.study_id == study_id).values(time=BEGAN))
        put(connection, study_id, made, every, takes)
        if worker is not None:
            connection.execute(
                t.worker.insert().values(
                    study_id=study_id, host="gpubox", pid=4711, lock=None, device="cpu", state=worker,
                    doing=f"training trial {len(made) - 1}" if worker == "running" else None, task="search",
                    error="The teacher is gone." if worker == "failed" else None, started=BEGAN,
                    heartbeat=heard, ended=None if worker in ("running", "starting", "paused") else NOW - 60,
                )
            )  # fmt: skip
            for number, line in enumerate(log):
                connection.execute(
                    t.log.insert().values(study_id=study_id, worker_id=1, time=BEGAN + number, level="info", line=line)
                )
    return study_id


def put(connection: Any, study_id: int, rows: Iterable[TrialRow], every: float = 100, takes: float = 60) -> None:
    """Trials as they stand, with their slots and curves."""
    for row in rows:
        row = finished(row, every, takes)
        values: dict[str, Any] = {
            column.name: getattr(row, column.name)
            for column in t.trial.columns
            if hasattr(row, column.name) and column.name not in ("candidate", "config", "extra")
        }
        values |= {
            "study_id": study_id,
            "worker_id": 1,
            "candidate": json.dumps(row.candidate),
            "candidate_key": str(row.number),
            "config": json.dumps(dict(row.config)),
            "extra": json.dumps(dict(row.extra)),
        }
        connection.execute(t.trial.insert().values(**values))
        state = row.state if row.state in ("running", "done", "pruned", "failed") else "free"
        connection.execute(
            sa.update(t.slot)
            .where(t.slot.c.study_id == study_id, t.slot.c.slot == row.slot)
            .values(state=state, trial=row.number, worker_id=1, attempts=1, candidate_key=str(row.number))
        )
        for epoch in range(1, row.epoch + 1):
            loss = (row.loss or 0.5) + 0.2 / epoch
            connection.execute(
                t.curve.insert().values(
                    study_id=study_id, number=row.number, epoch=epoch, loss=loss, raw_loss=loss / 4,
                    train_loss=loss / 3, seconds=10.0 * epoch, tokens=1000 * epoch,
                )
            )  # fmt: skip


def finished(row: TrialRow, every: float = 100, takes: float = 60) -> TrialRow:
    """The row at NOW's time, with the reward that a worker would have told."""
    started = BEGAN + every * row.number
    row = replace(row, started=started, ended=None if row.ended is None else started + takes, slot=row.number)
    if row.state == "done" and row.loss is not None and row.latency_ms and row.teacher_latency_ms:
        row = replace(row, reward=reward(row.loss, row.latency_ms, row.teacher_latency_ms, -0.06, 0.6))
    return row


def demo(folder: Path) -> Path:
    """A store with the recorded study that ships, and its own times."""
    path = folder / "kdnas.db"
    with open_store(url_of(folder), create=True) as store:
        recording.read(recording.shipped(), store)
    return path


def new_store(folder: Path) -> tuple[str, Store]:
    url = url_of(folder)
    return url, open_store(url, create=True)
