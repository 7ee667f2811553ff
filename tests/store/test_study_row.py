"""The row of a study is one statement, whatever it has, and the same figures as counting by hand."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from kdnas.store import changes, queries
from kdnas.store import tables as t
from kdnas.store.database import Store
from kdnas.store.studies import create_study
from kdnas.study.rows import StudyRow
from kdnas.system import liveness
from tests import fakes


@contextmanager
def statements(store: Store) -> Iterator[list[str]]:
    """What is read of the store inside. A server's catalogue is read once, for the first look only."""
    seen: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if "SELECT" in statement and "pg_catalog" not in statement:
            seen.append(statement)

    sa.event.listen(store.engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        sa.event.remove(store.engine, "before_cursor_execute", note)


def fill(store: Store, study_id: int, rewards: list[float | None], workers: int = 2) -> None:
    """Workers that live, the last trial and its slot running, the others done; None: failed."""
    with store.begin() as connection:
        ids = []
        for _ in range(workers):
            values = {"host": liveness.this_host(), "pid": 1, "state": "ended", "task": "search", "started": 0.0}
            insert = t.worker.insert().values(study_id=study_id, heartbeat=5.0, **values)
            ids.append(connection.execute(insert.returning(t.worker.c.worker_id)).scalar_one())
        for number, reward in enumerate(rewards):
            state = "failed" if reward is None else "done"
            same: dict[str, Any] = {"study_id": study_id, "worker_id": ids[-1], "state": state}
            same |= {"candidate": "{}", "candidate_key": str(number)}
            connection.execute(t.slot.delete().where(t.slot.c.study_id == study_id, t.slot.c.slot == number))
            connection.execute(t.slot.insert().values(slot=number, trial=number, attempts=1, **same))
            figures: dict[str, Any] = {"number": number, "slot": number, "reward": reward, "alpha": -0.06, "beta": 0.6}
            figures |= {"epoch": 1, "epochs": 1, "progress": 1.0, "started": 0.0, "ended": 4.0, "revision": 1}
            figures |= {"loss": 0.5, "latency_ms": 1.0 + number, "teacher_latency_ms": 9.0}
            connection.execute(t.trial.insert().values(**same, **figures))


def test_the_row_of_a_study_is_read_by_one_statement(store: Store, study_id: int) -> None:
    fill(store, study_id, [0.2, 0.7, None, 0.7])
    for read in (lambda: queries.study_row(store, "fake"), lambda: queries.study_of(store, study_id)):
        with statements(store) as seen:
            row = read()
        assert len(seen) == 1
        assert (row.done, row.failed, row.best_number, row.best_reward) == (4, 1, 1, 0.7)
        assert row.heartbeat == 5.0


def test_all_studies_are_read_by_one_statement_too(store: Store, study_id: int) -> None:
    fill(store, study_id, [0.2, 0.7])
    other = create_study(store, fakes.spec(name="other"))
    fill(store, other, [0.9, None, None], workers=3)
    empty = create_study(store, fakes.spec(name="empty"))
    with statements(store) as seen:
        rows = {row.study_id: row for row in queries.study_rows(store)}
    assert len(seen) == 1
    assert {key: (row.done, row.failed, row.best_number) for key, row in rows.items()} == {
        study_id: (2, 0, 1),
        other: (3, 2, 0),
        empty: (0, 0, None),
    }
    assert rows[empty].heartbeat is None and rows[empty].eta_s is None


def took(store: Store, study_id: int, seconds: list[float], running_since: float | None = None) -> StudyRow:
    """The row of a study with one worker at work, whose trials took so long."""
    with store.begin() as connection:
        trials, c = t.trial.update().where(t.trial.c.study_id == study_id), t.trial.c
        connection.execute(trials.values(state="done", started=0.0, ended=None))
        for number, length in enumerate(seconds):
            connection.execute(trials.where(c.number == number).values(ended=length))
        if running_since is not None:
            begun = time.time() - running_since
            last = trials.where(c.number == len(seconds))
            connection.execute(last.values(state="running", started=begun, ended=None, epoch=0))
        hold = liveness.Hold()
        own = t.worker.update().where(t.worker.c.study_id == study_id)
        connection.execute(own.values(state="running", lock=str(hold.path), heartbeat=time.time()))
    row = queries.study_of(store, study_id)
    hold.release()
    return row


def test_the_time_left_has_a_spread_and_is_told_only_where_it_is_known(store: Store, study_id: int) -> None:
    fill(store, study_id, [0.2, 0.7, 0.5, 0.6, 0.4], workers=1)
    assert took(store, study_id, [60.0, 61.0]).eta is None  # of two nothing is known
    row = took(store, study_id, [60.0, 61.0, 62.0, 63.0], running_since=10.0)
    left = row.trials - row.done
    assert row.eta is not None and row.eta_spread_s is not None and row.eta_spread_s > 0
    assert row.eta[0] < left * 61.5 - 10 < row.eta[1]
    assert took(store, study_id, [60.0, 61.0, 62.0, 63.0], running_since=900.0).eta is None  # longer than any before


def test_the_time_left_is_told_of_trials_that_are_scored_without_training(store: Store, study_id: int) -> None:
    fill(store, study_id, [0.2, 0.7, 0.5, 0.6, 0.4], workers=1)
    with store.begin() as connection:
        connection.execute(t.trial.update().values(epoch=0, epochs=0))
    assert took(store, study_id, [5.0, 6.0, 5.5, 5.2]).eta is not None


def test_trials_are_gone_through_once_where_rewards_are_of_another_alpha(store: Store, study_id: int) -> None:
    fill(store, study_id, [0.2, 0.7])
    changes.set_reward(store, study_id, -1.0, 0.6)
    with statements(store) as seen:
        assert queries.study_row(store, "fake").best_number == 0  # the faster one
    assert len(seen) == 3
    with statements(store) as seen:
        queries.study_row(store, "fake")
    assert len(seen) == 1
