"""A store that is away for a moment: the training stays in memory, nothing is lost, nobody is to blame."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import DataError, DBAPIError, PendingRollbackError

from kdnas.search import heartbeat
from kdnas.search.begin import begin
from kdnas.search.worker import run_worker
from kdnas.store import patience, queries, recovery, slots, sqlite_file
from kdnas.store.complaints import StoreError, explain
from kdnas.store.database import open_reader
from kdnas.store.trial_storage import TrialStorage
from kdnas.study.rows import Status
from tests import fakes
from tests.search.deaths import told

SPEC = {"strategy": {"name": "tpe", "startup": 2}, "budget": {"trials": 3, "epochs": 2}}


class Lock:
    """Another program's, on the whole file."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self.pauses: list[float] = []
        monkeypatch.setattr(sqlite_file, "BUSY_S", 0.02)
        monkeypatch.setattr(patience, "pause", self.pause)

    def take(self) -> None:
        self.other.execute("PRAGMA busy_timeout=60000")
        self.other.execute("BEGIN IMMEDIATE")

    def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        if len(self.pauses) == 3:
            self.other.execute("ROLLBACK")


def before_second(room: Any, name: str, act: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = getattr(room, name), []

    def call(*given: Any, **named: Any) -> Any:
        calls.append(name)
        if len(calls) == 2:
            act()
        return real(*given, **named)

    monkeypatch.setattr(room, name, call)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Any, ...]]:
    path = tmp_path_factory.mktemp("whole") / "kdnas.db"
    begin(fakes.spec(**SPEC), path)
    run_worker(str(path), "fake", prepare=fakes.prepare, measure=fakes.measure)
    return told(path)


@pytest.mark.parametrize(
    ("room", "name"),
    [
        (slots, "claim"),
        (slots, "propose"),
        (slots, "epoch"),
        (slots, "finish"),
        (recovery, "tell"),
        (TrialStorage, "create_new_trial"),
        (TrialStorage, "set_trial_state_values"),
    ],
)
def test_a_locked_file_ends_the_worker(
    room: Any,
    name: str,
    whole: list[tuple[Any, ...]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "kdnas.db"
    begin(fakes.spec(**SPEC), path)
    lock = Lock(path, monkeypatch)
    begun: list[Any] = []
    before_second(room, name, lock.take, monkeypatch)
    prepare = lambda spec, *_: fakes.FakeBench(spec, begun.append)  # noqa: E731
    assert run_worker(str(path), "fake", prepare=prepare, measure=fakes.measure) == 0
    assert len(lock.pauses) >= 3
    assert told(path) == whole
    assert len(begun) == 3
    said = capsys.readouterr().err
    assert "is locked by another program. Waiting for it, at most 10 minutes; nothing is lost." in said
    with open_reader(path) as store:
        assert {row.state for row in queries.trial_rows(store, 1)} == {"done"}
        lines = [row.line for row in queries.logs(store, 1) if row.level == "warning"]
    assert [line[:24] for line in lines] == ["The store answers again,"]


def test_who_waits_in_vain_says_so_and_the_study_has_not_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "kdnas.db"
    begin(fakes.spec(**SPEC), path)
    lock = Lock(path, monkeypatch)
    monkeypatch.setattr(patience, "LONGEST_S", 0.0)
    monkeypatch.setattr(patience, "pause", lambda seconds: None)
    before_second(slots, "epoch", lock.take, monkeypatch)
    end = heartbeat.Steering.end

    def back_at_the_end(steering: heartbeat.Steering) -> None:
        end(steering)
        lock.other.execute("ROLLBACK")

    monkeypatch.setattr(heartbeat.Steering, "end", back_at_the_end)
    with pytest.raises(StoreError, match=r"is locked by another program\. It was waited for for 0 minutes"):
        run_worker(str(path), "fake", prepare=fakes.prepare, measure=fakes.measure)
    with open_reader(path) as store:
        row = queries.study_row(store, "fake")
        [worker] = queries.workers(store, 1)
    assert (row.status, row.ending, (worker.error or "")[:9]) == (Status.DEAD, None, "The store")


@pytest.mark.parametrize("name", ["claim", "propose", "epoch", "finish"])
def test_a_commit_whose_answer_got_lost_is_done_twice(
    name: str, whole: list[tuple[Any, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "kdnas.db"
    begin(fakes.spec(**SPEC), path)
    monkeypatch.setattr(patience, "pause", lambda seconds: None)
    real, calls = getattr(slots, name).__wrapped__, []

    @patience.patient
    def call(*given: Any, **named: Any) -> Any:
        result = real(*given, **named)
        calls.append(name)
        if len(calls) == 2:
            raise StoreError("The store does not answer.", passes=True)
        return result

    monkeypatch.setattr(slots, name, call)
    assert run_worker(str(path), "fake", prepare=fakes.prepare, measure=fakes.measure) == 0
    assert told(path) == whole
    with open_reader(path) as store, store.connect() as connection:
        assert connection.exec_driver_sql("SELECT max(attempts), count(*) FROM kdnas_slot").one() == (1, 3)
        assert connection.exec_driver_sql("SELECT count(*) FROM kdnas_curve").scalar_one() == 6


@pytest.mark.parametrize(
    ("said", "passes"),
    [
        ("server closed the connection unexpectedly", True),
        ("terminating connection due to administrator command", True),
        ("connection failed: FATAL: the database system is starting up", True),
        ("connection failed: FATAL: sorry, too many clients already", True),
        ("connection failed: FATAL: password authentication failed for user x", False),
        ("database disk image is malformed", False),
        ("database or disk is full", False),
    ],
)
def test_what_passes_and_what_does_not(said: str, passes: bool) -> None:
    assert explain(RuntimeError(said), "here").passes == passes


def raised_from(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


def test_a_connection_that_was_lost_passes_whatever_the_driver_and_optuna_call_it() -> None:
    lost = DBAPIError("COMMIT", None, RuntimeError("odd words of a driver"), connection_invalidated=True)
    rolled_back = PendingRollbackError("Can't reconnect until invalid transaction is rolled back.")
    for cause in (lost, rolled_back):
        found = explain(raised_from(StorageInternalError("An exception is raised during the commit."), cause), "here")
        assert found.passes and found.problem == "The store here does not answer."


def test_of_what_does_not_pass_the_first_cause_is_told() -> None:
    cause = DataError("INSERT", None, RuntimeError("value out of range\nLINE 1: secret"))
    found = explain(raised_from(StorageInternalError("An exception is raised during the commit."), cause), "here")
    assert not found.passes and found.problem == "The store here cannot be used: value out of range."
