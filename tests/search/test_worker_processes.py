"""Real worker processes on one store: killed at any moment, stopped, several at once."""

from __future__ import annotations

import os
import resource
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from kdnas.search.begin import begin
from kdnas.search.launch import start_workers
from kdnas.search.worker import run_worker
from kdnas.store import changes, queries, recovery, slots
from kdnas.store.database import open_reader, open_store
from kdnas.store.optuna_storage import optuna_storage
from kdnas.study.rows import Status, TrialRow
from kdnas.study.spec import StudySpec
from kdnas.system import liveness
from tests import fakes
from tests.forks import Forked

ROOT = Path(__file__).parents[2]


def until(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end, "it never came to it"
        time.sleep(0.04)  # a look at the store computes for as long as a trial of the fakes


def void(_: object) -> None:
    """For what a lambda gives back and nobody wants."""


FITTED = {"name": "hidden-state", "init": "fitted"}


class Place:
    """A store, and a folder through which fake workers are held."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "kdnas.db"
        self.folder = folder / "fake"
        self.folder.mkdir()
        self.started: list[Forked] = []

    def fork(self, before: Callable[[], None] = lambda: None) -> Forked:
        """A worker in a process of its own that has torch loaded already; it can be killed like any."""

        def work() -> int:
            before()
            os.environ["KDNAS_STORAGE"] = str(self.path)
            return fakes.main(["fake"])

        self.started.append(forked := Forked(work))
        return forked

    def hold(self) -> None:
        (self.folder / "held").unlink(missing_ok=True)
        (self.folder / "hold").touch()

    def held(self) -> bool:
        return (self.folder / "held").exists()

    def let_go(self) -> None:
        (self.folder / "hold").unlink(missing_ok=True)

    def begun(self) -> Counter[str]:
        """How often each candidate's training was begun."""
        file = self.folder / "begun"
        return Counter(file.read_text().split() if file.exists() else [])

    def rows(self) -> list[TrialRow]:
        with open_reader(self.path) as store:
            return queries.trial_rows(store, 1)

    def done(self) -> list[TrialRow]:
        return [row for row in self.rows() if row.state in ("done", "pruned")]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    place = Place(tmp_path)
    monkeypatch.setenv("KDNAS_FAKE", str(place.folder))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    yield place
    for process in place.started:
        process.kill()
        process.wait()


_WHOLE: dict[str, list[tuple[Any, ...]]] = {}


def uninterrupted(folder: Path, spec: StudySpec) -> list[tuple[Any, ...]]:
    """The same search without any death, which several tests compare with: each is run once."""
    known = spec.model_dump_json()
    if known not in _WHOLE:
        path = folder / "whole.db"
        begin(spec, path)
        run_worker(str(path), spec.name, prepare=fakes.prepare, measure=fakes.measure)
        with open_reader(path) as store:
            _WHOLE[known] = told(queries.trial_rows(store, 1))
    return _WHOLE[known]


def told(rows: list[TrialRow]) -> list[tuple[Any, ...]]:
    """What a search found, in the order of its slots."""
    kept = [row for row in rows if row.state in ("done", "pruned")]
    return sorted((r.slot, str(r.candidate), r.state, r.loss, r.reward, r.seed, r.epoch, r.origin) for r in kept)


def check_history(place: Place, spec: StudySpec, killed: int) -> None:
    """Finished, nothing lost, nothing twice, and Optuna's side says the same."""
    with open_reader(place.path) as store:
        row = queries.study_row(store, spec.name)
        rows = queries.trial_rows(store, row.study_id)
    assert (row.status, row.done, row.failed) == (Status.FINISHED, spec.budget.trials, 0)
    states = Counter(r.state for r in rows)
    assert states["running"] == 0
    assert states["lost"] <= killed
    finished = [r for r in rows if r.state in ("done", "pruned")]
    assert len({r.slot for r in finished}) == len({str(r.candidate) for r in finished}) == spec.budget.trials
    with open_store(place.path) as store:
        study = optuna.load_study(study_name=spec.name, storage=optuna_storage(store))
        theirs = {t.number: t for t in study.trials}
    assert not [t for t in theirs.values() if not t.state.is_finished()]
    for r in finished:
        expected = TrialState.COMPLETE if r.state == "done" else TrialState.PRUNED
        assert theirs[r.number].state == expected
        if r.state == "done" and not spec.two_objectives:
            assert theirs[r.number].value == r.reward


@pytest.mark.parametrize(
    "parts",
    [
        {"strategy": {"name": "auto"}},
        {"strategy": {"name": "tpe", "startup": 3}},
        {"strategy": {"name": "lstm", "episodes": 3, "samples": 3, "pool": 20}},
        {"strategy": {"name": "evolution", "population": 3, "tournament": 2}, "budget": {"pruner": "asha"}},
        {"strategy": {"name": "tpe", "startup": 3}, "recipe": FITTED, "budget": {"epochs": 4, "rungs": [0.5, 0.5]}},
    ],
    ids=["auto", "tpe", "lstm", "evolution-asha", "tpe-rungs"],
)
def test_killed_in_mid_trial_and_taken_up_it_goes_on_as_if_nothing_had_happened(
    place: Place, tmp_path: Path, parts: dict[str, Any]
) -> None:
    budget = {"trials": 8, "epochs": 2, **parts.get("budget", {})}
    spec = fakes.spec(**{**parts, "budget": budget})
    begin(spec, place.path)
    place.hold()
    killed = 0
    worker = place.fork()
    for finished in (0, 4):
        if finished:
            # Let it go on until so many trials are done, and hold it in the next one.
            place.let_go()
            until(lambda: len(place.done()) >= 4)
            place.hold()
        until(lambda: place.held() or len(place.done()) == spec.budget.trials)
        before = told(place.rows())
        killed += len(before) < spec.budget.trials
        worker.kill()
        worker.wait()
        assert told(place.rows())[: len(before)] == before
        if len(before) < spec.budget.trials:
            with open_reader(place.path) as store:
                assert queries.study_row(store, "fake").status == Status.DEAD
        (place.folder / "held").unlink(missing_ok=True)
        worker = place.fork()
    place.let_go()
    assert worker.wait() == 0
    check_history(place, spec, killed)
    # Each interrupted candidate once more, and only once.
    assert sum(place.begun().values()) == spec.budget.trials + Counter(r.state for r in place.rows())["lost"]
    assert told(place.rows()) == uninterrupted(tmp_path, spec)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("where", ["claim", "propose", "finish", "tell"])
def test_killed_between_any_two_transactions_nothing_is_lost_or_done_twice(
    place: Place, tmp_path: Path, where: str, when: str
) -> None:
    spec = fakes.spec(strategy={"name": "tpe", "startup": 2}, budget={"trials": 5})
    begin(spec, place.path)

    def deadly() -> None:
        room = recovery if where == "tell" else slots
        real, calls = getattr(room, where), []

        def call(*given: Any, **named: Any) -> Any:
            calls.append(where)
            if len(calls) == 3 and when == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            result = real(*given, **named)
            if len(calls) == 3:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        setattr(room, where, call)

    assert place.fork(deadly).wait() == -signal.SIGKILL
    run_worker(str(place.path), "fake", prepare=fakes.prepare, measure=fakes.measure)
    check_history(place, spec, 1)
    # Evaluated again is what had been evaluated but not written down.
    assert max(place.begun().values()) == (2 if (where, when) == ("finish", "before") else 1)
    assert told(place.rows()) == uninterrupted(tmp_path, spec)


def test_several_workers_share_one_budget(place: Place) -> None:
    spec = fakes.spec(strategy={"name": "tpe", "startup": 4}, budget={"trials": 24, "epochs": 2})
    begin(spec, place.path)
    workers = [place.fork(), place.fork(), place.fork()]
    assert [worker.wait() for worker in workers] == [0, 0, 0]
    check_history(place, spec, 0)
    assert len({r.candidate["num_hidden_layers"] for r in place.rows()}) > 1
    with open_reader(place.path) as store:
        used = {row.worker_id for row in queries.workers(store, 1)}
    assert len(used) == 3
    assert max(place.begun().values()) == 1


def test_workers_started_together_share_the_cores_and_have_files_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    told = "import os, sys; print(os.getsid(0) == os.getpid(), os.environ['OMP_NUM_THREADS'], *sys.argv[1:])"
    started = start_workers(tmp_path / "kdnas.db", "fake", 2, device="cpu", command=[sys.executable, "-S", "-c", told])
    assert [one.process.wait() for one in started] == [0, 0]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    assert {one.log.read_text() for one in started} == {f"True {max(1, cores // 2)} fake --device cpu\n"}
    assert len({one.log for one in started}) == 2


def test_a_killed_worker_of_several_is_noticed_by_the_others(place: Place) -> None:
    spec = fakes.spec(budget={"trials": 10})
    begin(spec, place.path)
    place.hold()
    first, second = place.fork(), place.fork()
    until(lambda: sum(row.state == "running" for row in place.rows()) == 2)
    first.kill()
    first.wait()
    place.let_go()
    assert second.wait() == 0
    check_history(place, spec, 1)
    with open_reader(place.path) as store:
        assert sorted(w.state for w in queries.workers(store, 1)) == ["dead", "ended"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_the_trial_properly(place: Place, number: signal.Signals) -> None:
    spec = fakes.spec(budget={"trials": 3, "attempts": 1})
    begin(spec, place.path)
    place.hold()
    worker = place.fork(lambda: void(signal.signal(signal.SIGHUP, signal.SIG_DFL)))  # whatever nohup says
    until(place.held)
    os.kill(worker.pid, number)
    assert worker.wait() == 130
    with open_store(place.path) as store:
        assert queries.study_row(store, "fake").status == Status.STOPPED
        [row] = queries.trial_rows(store, 1)
        assert (row.state, row.error) == ("lost", "its worker was stopped")
        assert [w.state for w in queries.workers(store, 1)] == ["ended"]
        study = optuna.load_study(study_name="fake", storage=optuna_storage(store))
        assert study.trials[0].state == TrialState.FAIL
    place.let_go()
    # Stopping on purpose is no attempt: with one attempt allowed, the candidate is still evaluated.
    run_worker(str(place.path), "fake", prepare=fakes.prepare, measure=fakes.measure)
    check_history(place, spec, 1)


def test_a_detached_worker_outlives_its_starter_and_is_steered_through_the_store(place: Place) -> None:
    begin(fakes.spec(budget={"trials": 3, "epochs": 3}), place.path)
    place.hold()
    script = (
        "import sys; from kdnas.search.launch import start_workers; "
        "print(start_workers(sys.argv[1], 'fake', 1, command=[sys.executable, '-m', 'tests.fakes'])[0].pid)"
    )
    starter = subprocess.run([sys.executable, "-c", script, str(place.path)], capture_output=True, text=True, cwd=ROOT)
    pid = int(starter.stdout)
    until(place.held)
    assert os.getsid(pid) == pid
    words = Path(f"/proc/{pid}/cmdline")
    if words.exists():
        assert str(place.path) not in words.read_text()  # an address may hold a password
    with open_store(place.path) as store:
        changes.set_wanted(store, 1, "pause")
        place.let_go()
        until(lambda: queries.study_row(store, "fake").status == Status.PAUSED)
        [row] = queries.trial_rows(store, 1)
        assert (row.state, row.epoch) == ("running", 1)
        [worker] = queries.workers(store, 1)
        assert (worker.pid, worker.state, worker.alive) == (pid, "paused", True)
        changes.set_wanted(store, 1, "run")
        until(lambda: queries.study_row(store, "fake").status == Status.FINISHED)
        assert [row.epoch for row in queries.trial_rows(store, 1)] == [3, 3, 3]
        # The study is finished a moment before its worker is.
        until(lambda: not any((liveness.state_folder() / "workers").glob("*")))


def test_a_store_that_fills_up_ends_the_worker_and_loses_nothing(place: Place) -> None:
    begin(fakes.spec(budget={"trials": 200, "epochs": 3}), place.path)
    with sqlite3.connect(place.path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    limit = place.path.stat().st_size + 600_000

    def small_disk() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        sys.stderr = (place.folder / "said").open("w", buffering=1)

    assert place.fork(small_disk).wait() == 2
    said = (place.folder / "said").read_text()
    assert said.startswith(f"kdnas: The disk under the store {place.path} is full or failing. Make room there")
    assert "Traceback" not in said
    finished = told(place.rows())
    assert finished
    with open_store(place.path) as store:
        # It could not write that it has ended, and is seen to be gone all the same.
        assert queries.study_row(store, "fake").status == Status.DEAD
        with store.connect() as connection:
            assert connection.exec_driver_sql("PRAGMA integrity_check").scalar_one() == "ok"
        changes.set_trials(store, 1, len(place.rows()) + 3)
    assert run_worker(str(place.path), "fake", prepare=fakes.prepare, measure=fakes.measure) == 0
    assert told(place.rows())[: len(finished)] == finished
    assert Counter(r.state for r in place.rows())["running"] == 0
