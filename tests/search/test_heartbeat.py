"""What a worker hears of people's wishes, and what becomes of one that others took for dead."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from kdnas.search import heartbeat
from kdnas.search.begin import begin
from kdnas.search.heartbeat import Steering
from kdnas.search.worker import Worker, run_worker
from kdnas.store import changes, database, queries, recovery, sides, slots, studies
from kdnas.store.database import open_reader, open_store
from kdnas.store.optuna_storage import optuna_storage
from kdnas.study.rows import Status
from kdnas.system import liveness
from kdnas.system.errors import UsageError
from tests import fakes


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "kdnas.db"


def test_a_wish_between_the_look_and_the_wait_is_slept_through(path: Path) -> None:
    begin(fakes.spec(), path)
    with open_store(path) as store:
        steering = Steering(store, 1, studies.enter(store, 1, lock=None, device=None, task="search"))
        changes.set_wanted(store, 1, "pause")
        known = steering.look()
        changes.set_wanted(store, 1, "run")
        steering.look()  # as the other thread does, at the worst of moments
        assert steering.wait_for_news(known, 0.0)
        assert not steering.wait_for_news("run", 0.0)


def test_a_log_that_grew_under_readers_stays_as_large_as_it_was(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "LARGE_LOG", 200_000)
    monkeypatch.setattr(heartbeat, "TRIM_S", 0.0)
    begin(fakes.spec(), path)
    with open_store(path) as store, open_reader(path) as other:
        steering = Steering(store, 1, studies.enter(store, 1, lock=None, device=None, task="search"))
        with other.connect() as looking:  # SQLite cannot begin the log anew
            queries.study_row(other, "fake")
            looking.exec_driver_sql("SELECT count(*) FROM kdnas_log")
            for _ in range(20):
                changes.add_log(store, 1, "info", "x" * 20_000)
            assert sides.log_bytes(path) > 200_000
            steering.start()
            changes.add_log(store, 1, "info", "nobody who writes waits for whoever reads")
        end = time.monotonic() + 60
        while sides.log_bytes(path) > 200_000 and time.monotonic() < end:
            time.sleep(0.02)
        steering.end()
        assert sides.log_bytes(path) <= 200_000
        assert len(queries.logs(other, 1, limit=100)) >= 21


@pytest.mark.parametrize("replaced", [False, True])
def test_a_worker_spends_the_budget_on_a_store_that_is_gone(path: Path, replaced: bool) -> None:
    begun: list[Any] = []

    def trouble(candidate: Any) -> None:
        begun.append(candidate)
        if len(begun) == 2:
            for file in path.parent.glob("kdnas.db*"):
                file.unlink()
            if replaced:
                begin(fakes.spec(), path)

    begin(fakes.spec(), path)
    with pytest.raises(UsageError, match="was deleted or replaced while it was in use"):
        run_worker(str(path), "fake", prepare=lambda spec, *_: fakes.FakeBench(spec, trouble), measure=fakes.measure)
    assert len(begun) == 2
    if replaced:
        with open_reader(path) as store:
            assert queries.trial_rows(store, 1) == []


def test_a_worker_taken_for_dead_while_it_chose_ends_with_a_traceback(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its trial has been reported as failed and its slot is free again: it goes on with the next one."""
    begin(fakes.spec(budget={"trials": 2}), path)
    chosen: list[int] = []

    def late(worker: Worker, claim: Any, at: Any) -> Any:
        if not chosen:
            real = worker.study.ask

            def ask(*given: Any) -> optuna.Trial:
                trial = real(*given)
                worker.study.ask = real  # type: ignore[method-assign]
                optuna.load_study(study_name="fake", storage=optuna_storage(worker.store)).tell(
                    trial.number, state=TrialState.FAIL
                )
                return trial

            worker.study.ask = ask  # type: ignore[method-assign]
        chosen.append(claim.slot)
        return asked(worker, claim, at)

    asked = Worker.ask
    monkeypatch.setattr(Worker, "ask", late)
    assert run_worker(str(path), "fake", prepare=fakes.prepare, measure=fakes.measure) == 0
    assert chosen == [0, 0, 1]
    with open_reader(path) as store:
        assert [row.state for row in queries.trial_rows(store, 1)] == ["done", "done"]


# ---------------------------------------------------------------------------- workers of other hosts


class Elsewhere:
    """A worker of another host, whose clock is wrong by so many seconds, in slot 0 of a study."""

    def __init__(self, store: Any, wrong: float, monkeypatch: pytest.MonkeyPatch) -> None:
        self.store, self.wrong, self.now = store, wrong, 1000.0
        monkeypatch.setattr(liveness, "heard", liveness.Heard(lambda: self.now))
        self.worker_id = studies.enter(store, 1, lock="/x", device=None, task="search")
        with store.begin() as connection:
            connection.exec_driver_sql("UPDATE kdnas_worker SET host = 'elsewhere'")
        self.beat()
        self.claim = slots.claim(store, 1, self.worker_id)

    def beat(self) -> None:
        with self.store.begin() as connection:
            connection.exec_driver_sql(f"UPDATE kdnas_worker SET heartbeat = {time.time() + self.wrong}")

    def lives(self) -> bool:
        """By the eyes of another worker, half a minute later."""
        self.now += 30.0
        study = optuna.load_study(study_name="fake", storage=optuna_storage(self.store))
        recovery.close(self.store, study, 1, fakes.spec())
        with self.store.connect() as connection:
            state = connection.exec_driver_sql("SELECT state FROM kdnas_slot WHERE slot = 0").scalar_one()
        return bool(state == "running")


@pytest.mark.parametrize("wrong", [-120.0, 0.0, 3 * 86400.0])
def test_a_wrong_clock_elsewhere_decides_life_and_death(
    path: Path, wrong: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(fakes.spec(), path)
    with open_store(path) as store:
        elsewhere = Elsewhere(store, wrong, monkeypatch)
        for _ in range(4):
            assert elsewhere.lives()
            elsewhere.beat()
        assert queries.study_row(store, "fake").workers == 1
        # It falls silent: after a minute of looking it is dead, whatever its clock says.
        assert [elsewhere.lives(), elsewhere.lives()] == [True, False]
        assert queries.study_row(store, "fake").status == Status.DEAD


def test_who_did_not_look_for_an_hour_calls_nobody_dead_at_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begin(fakes.spec(), path)
    with open_store(path) as store:
        elsewhere = Elsewhere(store, 0.0, monkeypatch)
        assert elsewhere.lives()
        elsewhere.now += 3600.0  # the database was away, for both
        assert elsewhere.lives()
        elsewhere.beat()
        assert elsewhere.lives()
