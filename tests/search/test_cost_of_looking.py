"""What a worker asks of its store while it waits, is paused or trains: little, and never the trials' history."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from kdnas.search import trial_run, worker
from kdnas.search.begin import begin
from kdnas.search.heartbeat import LOOK_S, WRITE_S
from kdnas.search.worker import Worker, run_worker
from kdnas.store import changes
from kdnas.store.database import Store, open_store
from kdnas.store.optuna_storage import Patient
from kdnas.study.states import Wanted
from kdnas.system import liveness
from tests import fakes
from tests.search.asked import LOOKS, Asked, Looks, long_study, looked, waited


@pytest.fixture
def path(tmp_path: Path, empty: Path) -> Path:
    return Path(shutil.copy(empty, tmp_path / "kdnas.db"))


def test_an_idle_worker_asks_a_file_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long_study(path)
    with open_store(path) as store:
        changes.set_wanted(store, 1, Wanted.PAUSE)
        asked = looked(store, monkeypatch, Looks())
    beats = asked.count("UPDATE kdnas_worker")
    assert beats == LOOKS * LOOK_S / liveness.HEARTBEAT_S == 2
    # The first look, and one after a heartbeat of its own; the last is followed by none.
    assert asked.count("SELECT") <= 1 + beats
    assert asked.count("UPDATE") == beats + 1  # that it is paused is a revision of the study, that it lives is none
    assert not asked.of_trials


def test_what_others_write_is_one_question(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long_study(path)

    def write(look: int) -> None:
        if look % 4 == 3:
            changes.add_log(others, 1, "info", "a line")

    with open_store(path) as store, open_store(path) as others:
        asked = looked(store, monkeypatch, Looks(before=write), others)
    assert 10 <= asked.count("SELECT") <= 10 + 3
    assert not asked.of_trials


def a_line(others: Store, _look: int) -> None:
    changes.add_log(others, 1, "info", "another worker goes on")


def test_a_paused_worker_asks_what_people_want_once_a_minute(path: Path) -> None:
    asked, looks = waited(path, long_study(path), a_line, wanted=Wanted.PAUSE)
    assert looks.seconds == {60.0}
    assert asked.count("SELECT") == looks.done and not asked.of_trials
    assert not asked.count("UPDATE") and not asked.count("INSERT")


def test_a_worker_that_waits_for_others_asks_a_file_nothing(path: Path) -> None:
    asked, looks = waited(path, long_study(path), lambda *_: None)
    assert looks.seconds == {LOOK_S}
    assert asked.count("SELECT") == 1  # what people want, in the end


@pytest.mark.parametrize("enough", [False, True])
def test_a_worker_that_waits_reads_no_history_whatever_others_write(path: Path, enough: bool) -> None:
    asked, looks = waited(path, long_study(path, stop_when_done=enough), a_line)
    assert not asked.of_trials
    assert not asked.count("UPDATE") and not asked.count("INSERT")
    # What people want, twice; who lives, twice; its end; free slots, its own, two counts; with `enough` counts, α, β.
    assert asked.count("SELECT") <= looks.done * (11 if enough else 9)


def test_a_worker_that_trains_writes_once_a_second(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step takes a tenth of a second here."""
    steps = 200
    spec = fakes.spec(budget={"trials": 1, "epochs": 1})
    begin(spec, path)
    clock = Looks()
    monkeypatch.setattr(trial_run, "time", clock)
    monkeypatch.setattr(fakes, "STEPS", steps)
    asked = Asked()

    class Bench(fakes.FakeBench):
        def wait(self) -> None:  # before each step
            if not clock.done:
                asked.statements.clear()
            clock.wait(0.1)
            if clock.done == steps:
                in_steps.extend(asked.statements)

    in_steps: list[str] = []
    with asked.listening():
        assert run_worker(str(path), "fake", prepare=lambda given, *_: Bench(given), measure=fakes.measure) == 0
    writes = [one for one in in_steps if one.startswith("UPDATE kdnas_trial")]
    assert 15 <= len(writes) <= steps * 0.1 / WRITE_S
    assert len(in_steps) == 3 * len(writes)  # it begins, the study's revision, the row: and reads nothing


def test_a_proposal_reads_the_trials_once_however_often_it_is_repeated(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a small space the strategy proposes what is taken, and is asked again."""
    reads: list[int] = []
    of_each: list[int] = []

    class Counting(Patient):
        def __getattr__(self, name: str) -> Any:
            if name == "get_all_trials":
                reads.append(1)
            return super().__getattr__(name)

    def asked(*given: Any) -> Any:
        reads.clear()
        found = real(*given)
        of_each.append(len(reads))
        return found

    real = Worker.ask
    monkeypatch.setattr(worker, "Patient", Counting)
    monkeypatch.setattr(Worker, "ask", asked)
    space = {"choices": {"num_hidden_layers": [1, 2], "num_attention_heads": [1], "hidden_act": ["gelu"]}}
    begin(fakes.spec(strategy={"name": "tpe", "startup": 1}, space=space, budget={"trials": 6, "epochs": 0}), path)
    assert run_worker(str(path), "fake", prepare=fakes.prepare, measure=fakes.measure) == 0
    assert of_each == [1] * 6


def test_a_trial_writes_each_epoch_once_and_costs_what_the_first_one_did(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, each = Asked(), []

    def counted(*given: Any) -> None:
        asked.statements.clear()
        real(*given)
        each.append((asked.count("UPDATE kdnas_trial"), len(asked.statements)))

    real = Worker.run_slot
    monkeypatch.setattr(Worker, "run_slot", counted)
    monkeypatch.setattr(trial_run, "time", Looks())  # so that no write is due for the time
    begin(fakes.spec(budget={"trials": 6, "epochs": 2}), path)
    with asked.listening():
        assert run_worker(str(path), "fake", prepare=fakes.prepare, measure=fakes.measure) == 0
    # Two epochs, the end; timing and training, which are over in a moment, are written with the first.
    assert [writes for writes, _ in each] == [3] * 6
    assert len({whole for _, whole in each[1:-1]}) == 1  # the last one ends the study, too
