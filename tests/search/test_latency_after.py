"""`latency.when = "after"`: a score is lost while it waits, a latency never comes, a strategy ranks what has none."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
import sqlalchemy as sa
from optuna.trial import FrozenTrial

from kdnas.measuring import devices
from kdnas.recipes.contract import Workbench
from kdnas.search import every, joining, others
from kdnas.search.candidate import Measure, Timed
from kdnas.search.worker import run_worker
from kdnas.store import changes, ends, queries, recovery, slots, waiting
from kdnas.store import tables as t
from kdnas.store.check import check
from kdnas.store.database import Store, open_reader, open_store
from kdnas.store.optuna_storage import optuna_storage
from kdnas.store.studies import create_study, enter, leave
from kdnas.study.rows import Status
from kdnas.study.space import Candidate
from kdnas.study.spec import StudySpec
from kdnas.study.states import SlotState, Wanted
from kdnas.system import liveness
from kdnas.system.errors import KdnasError, UsageError
from kdnas.training.contract import Student
from tests import fakes
from tests.forks import Forked
from tests.search.deaths import die, forked, told
from tests.search.test_deaths import STRATEGIES
from tests.search.test_joining import OTHER, wait_for

AFTER = {"when": "after"}


def spec(trials: int = 6, **parts: Any) -> StudySpec:
    return fakes.spec(**{"latency": AFTER, "budget": {"trials": trials, "epochs": 1}, "seed": 5, **parts})


def begun(place: str | Path, of: StudySpec) -> str:
    with open_store(place, create=True) as store:
        create_study(store, of)
    return str(place)


def work(place: str | Path, measure: Measure = fakes.measure, *, only_times: bool = False) -> int:
    return run_worker(str(place), "fake", prepare=fakes.prepare, measure=measure, only_times=only_times)


def states(store: Store) -> list[str]:
    return [row.state for row in queries.trial_rows(store, 1)]


def theirs_of(place: str) -> list[FrozenTrial]:
    """What Optuna knows."""
    with open_store(place) as store:
        return optuna.load_study(study_name="fake", storage=optuna_storage(store)).trials


def scored(place: str | Path, trials: int = 6) -> None:
    """A worker trains them all, and is gone before it times the first."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(waiting, "claim", lambda *_: None)
        other = Forked(lambda: work(place))
    with open_store(place) as store:
        wait_for(lambda: states(store) == ["waiting"] * trials)
        wait_for(lambda: any("waiting for" in (w.doing or "") for w in queries.workers(store, 1)))
        other.kill()
        other.wait()


# ---------------------------------------------------------------------------- one worker


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_strategy_proposes_others_when_latencies_come_after(strategy: str, tmp_path: Path) -> None:
    found = []
    for when in ("now", "after"):
        of = spec(8, strategy=STRATEGIES[strategy], latency={"when": when})
        place = begun(tmp_path / f"{when}.db", of)
        assert work(place) == 0
        found.append(told(place))
    assert found[0] == found[1] and len(found[0]) == 8


def test_a_trial_is_timed_before_its_score_is_written_or_told_without_a_latency(address: str) -> None:
    place = begun(address, spec(3))
    seen = []

    def measure(bench: Workbench, student: Student, chosen: Candidate) -> Timed:
        with open_reader(place) as store:
            row = queries.trial_rows(store, 1)[-1]
            with store.connect() as connection:
                theirs = connection.execute(sa.text("SELECT state FROM trials ORDER BY number DESC")).scalars().first()
            seen.append((row.state, row.phase, row.loss, row.latency_ms, row.reward, theirs))
            assert row.candidate == chosen
        return fakes.measure(bench, student, chosen)

    assert work(place, measure) == 0
    with open_reader(place) as store:
        rows = queries.trial_rows(store, 1)
        assert seen == [("waiting", "timing", row.loss, None, None, "RUNNING") for row in rows]
        assert [row.latency_ms for row in rows] == [fakes.latency_ms(row.candidate) for row in rows]
        assert all(row.state == "done" and row.phase is None and row.extra["figure"] == 1.0 for row in rows)
        study = queries.study_row(store, "fake")
        assert (study.status, study.done, study.waiting) == (Status.FINISHED, 3, 0)
        assert study.teacher_latency_ms == 10.0
        assert not [found for found in check(store) if found.state != "whole"]
    found = theirs_of(place)
    assert [trial.value for trial in found] == [row.reward for row in rows]
    assert all(trial.user_attrs["speedup"] == 10.0 / trial.user_attrs["latency_ms"] for trial in found)


def test_the_wait_counts_as_what_a_trial_took(tmp_path: Path) -> None:
    place = begun(tmp_path / "kdnas.db", spec(2))
    scored(place, 2)
    with open_store(place) as store:
        c = t.trial.c
        with store.begin() as connection:  # an hour ago
            connection.execute(sa.update(t.trial).values(started=c.started - 3600, ended=c.ended - 3600))
    assert work(place) == 0
    with open_reader(place) as store:
        assert len(costs := ends.costs(store, 1, str)) == 2 and all(0 <= cost.seconds < 600 for cost in costs)


def test_a_candidate_that_cannot_be_timed_waits_for_ever(tmp_path: Path) -> None:
    place = begun(tmp_path / "kdnas.db", spec(3))
    timed: list[Candidate] = []

    def measure(bench: Workbench, student: Student, chosen: Candidate) -> Timed:
        timed.append(chosen)
        if len(timed) == 2:
            raise ValueError("no such kernel")
        return fakes.measure(bench, student, chosen)

    assert work(place, measure) == 0
    with open_reader(place) as store:
        assert states(store) == ["done", "failed", "done"]
        row = queries.trial_rows(store, 1)[1]
        assert row.error == "its latency: ValueError: no such kernel" and row.loss is not None
    assert [trial.state.name for trial in theirs_of(place)] == ["COMPLETE", "FAIL", "COMPLETE"]


@pytest.mark.parametrize(
    ("parts", "why"),
    [
        ({"budget": {"trials": 4, "epochs": 2, "pruner": "asha"}}, "budget.pruner asha compares rewards"),
        ({"budget": {"trials": 4, "epochs": 2, "rungs": [0.5]}}, "budget.rungs compares rewards"),
        ({"latency": {"when": "after", "by": "blocks"}}, "no candidate is timed at all"),
    ],
    ids=["pruner", "rungs", "blocks"],
)
def test_what_needs_a_latency_before_the_end_is_begun_without(parts: dict[str, Any], why: str) -> None:
    with pytest.raises(UsageError, match=r"latency\.when is after, and") as caught:
        spec(**parts)
    assert why in str(caught.value)


# ---------------------------------------------------------------------------- deaths


def dies(place: str, nth: int, room: Any, name: str, *, after: bool = False) -> None:
    """A worker works on the study until it comes to the nth call of a function, before it or after."""

    def work_until() -> int:
        real, calls = getattr(room, name), [0]

        def call(*given: Any, **named: Any) -> Any:
            calls[0] += 1
            if calls[0] == nth and not after:
                die()
            found = real(*given, **named)
            if calls[0] == nth:
                die()
            return found

        setattr(room, name, call)
        return work(place, lambda *given: fakes.measure(*given))

    assert forked(work_until) == -signal.SIGKILL


DEATHS = {  # moment: the function, and whether it has been called
    "before its score is written": (waiting, "scored", False),
    "once its score is written": (waiting, "scored", True),
    "while it is timed": (fakes, "measure", False),
    "once it is timed": (fakes, "measure", True),
    "before it has ended": (slots, "finish", False),
    "before Optuna is told": (slots, "finish", True),
}


@pytest.mark.parametrize("moment", DEATHS)
def test_a_death_loses_a_score_or_changes_what_comes_after_it(
    moment: str, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = spec(strategy=STRATEGIES["tpe"])
    whole = begun(tmp_path / "whole.db", of)
    assert work(whole) == 0
    monkeypatch.setenv("KDNAS_FAKE", str(tmp_path))
    place = begun(address, of)
    for nth in (1, 3):
        dies(place, nth, *DEATHS[moment][:2], after=DEATHS[moment][2])
    assert work(place) == 0
    assert told(place) == told(whole)
    trained = (tmp_path / "begun").read_text().split()
    again = 2 if moment == "before its score is written" else 0
    assert len(trained) == 6 + again and len(set(trained)) == 6
    with open_reader(place) as store:
        assert not [found for found in check(store) if found.state != "whole"]


def test_a_candidate_that_kills_who_times_it_kills_them_all(tmp_path: Path) -> None:
    place = begun(tmp_path / "kdnas.db", spec(3, budget={"trials": 3, "epochs": 1, "attempts": 2}))
    for _ in range(2):
        dies(place, 1, fakes, "measure")
    assert work(place) == 0
    with open_reader(place) as store:
        assert states(store) == ["failed", "done", "done"]
        assert "died each of the 2 times that it was timed" in (queries.trial_rows(store, 1)[0].error or "")
        assert queries.study_row(store, "fake").status is Status.FINISHED


def test_who_is_stopped_while_it_times_has_failed_to(tmp_path: Path) -> None:
    place = begun(tmp_path / "kdnas.db", spec(2, budget={"trials": 2, "epochs": 1, "attempts": 1}))

    def interrupted(*_: object) -> Timed:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
        raise AssertionError

    assert forked(lambda: work(place, interrupted)) == 130
    with open_reader(place) as store:
        assert states(store) == ["waiting"]
        assert queries.trial_rows(store, 1)[0].phase == "waiting for latency"
    assert work(place) == 0
    with open_reader(place) as store:
        assert states(store) == ["done", "done"]


def test_one_that_was_taken_for_dead_ends_a_trial_that_another_has_timed(address: str) -> None:
    place = begun(address, spec(1))
    scored(place, 1)
    with open_store(place) as store:
        holds = [liveness.Hold(), liveness.Hold()]
        slow, quick = (enter(store, 1, lock=str(hold.path), device=None, task="search") for hold in holds)
        held = waiting.claim(store, 1, slow)
        assert held is not None and waiting.claim(store, 1, slow) == held  # an answer was lost
        assert waiting.claim(store, 1, quick) is None
        assert waiting.let_go(store, 1, slow, attempts=3) == [held.number]
        assert waiting.claim(store, 1, quick) == held
        figures = {"loss": held.loss, "latency_ms": 1.0, "teacher_latency_ms": 10.0}
        for _ in range(2):  # an answer was lost
            slots.finish(store, 1, held.slot, held.number, SlotState.DONE, timed_by=quick, **figures)
        with pytest.raises(slots.SlotTaken):
            slots.finish(store, 1, held.slot, held.number, SlotState.DONE, timed_by=slow, **figures)
        assert waiting.let_go(store, 1, slow, attempts=3) == []
        for hold in holds:
            hold.release(known=False)


# ---------------------------------------------------------------------------- several workers


def test_who_trains_times_while_there_is_a_latency_worker(address: str) -> None:
    place = begun(address, spec(8, strategy={"name": "random"}))
    times = Forked(lambda: work(place, only_times=True))
    early = []
    with open_store(place) as store:
        wait_for(lambda: recovery.any_with(recovery.at_work(store, 1), recovery.LATENCY))

        def measure(bench: Workbench, student: Student, chosen: Candidate) -> Timed:
            if slots.counts(store, 1).get(SlotState.FREE):
                early.append(chosen)
            return fakes.measure(bench, student, chosen)

        assert work(place, measure) == 0
        assert times.wait() == 0 and not early
        assert states(store) == ["done"] * 8
        assert len({row.slot for row in queries.trial_rows(store, 1)}) == 8
        by = {worker.task for worker in queries.workers(store, 1)}
        assert by == {"search", "latency"}
        assert queries.study_row(store, "fake").status is Status.FINISHED


def test_latencies_of_a_killed_latency_worker_never_come(address: str) -> None:
    place = begun(address, spec(4))
    scored(place, 4)

    def dying(*_: object) -> Timed:
        die()
        raise AssertionError

    assert forked(lambda: work(place, dying, only_times=True)) == -signal.SIGKILL
    with open_reader(place) as store:
        assert [row.phase for row in queries.trial_rows(store, 1)].count("timing") == 1
    assert work(place, only_times=True) == 0
    with open_reader(place) as store:
        assert states(store) == ["done"] * 4 and queries.study_row(store, "fake").status is Status.FINISHED


def test_a_machine_without_the_studys_device_waits_before_it_trains_the_next_or_times_itself(address: str) -> None:
    place = begun(address, spec(4))
    with open_store(place) as store:
        changes.set_trials(store, 1, 1)
        assert work(place) == 0
        changes.set_trials(store, 1, 4)
        joining.allow_unlike(store, 1, "leave")

        def elsewhere(only_times: bool = False) -> int:
            devices.device_name = lambda device: OTHER

            def measured_here(*_: object) -> Timed:
                raise AssertionError("it was to be left to others")

            return work(place, measured_here, only_times=only_times)

        assert Forked(lambda: refused(lambda: elsewhere(only_times=True))).wait() == 2
        other = Forked(elsewhere)
        wait_for(lambda: states(store) == ["done"] + ["waiting"] * 3)
        says = "on the study's device to time 3 trials"
        wait_for(lambda: any(says in (w.doing or "") for w in queries.workers(store, 1)))
        study = queries.study_row(store, "fake")
        assert (study.done, study.waiting, study.running, study.status) == (1, 3, 0, Status.RUNNING)
        assert work(place, only_times=True) == 0
        assert other.wait() == 0
        rows = queries.trial_rows(store, 1)
        assert [row.latency_ms for row in rows] == [fakes.latency_ms(row.candidate) for row in rows]


def refused(work: Callable[[], int]) -> int:
    try:
        return work()
    except UsageError as error:
        assert f"this machine is {OTHER}" in str(error)
        return 2


def test_a_study_that_is_stopped_ends_without_what_waits(tmp_path: Path) -> None:
    place = begun(tmp_path / "kdnas.db", spec(3))
    scored(place, 3)
    with open_store(place) as store:
        changes.set_wanted(store, 1, Wanted.STOP)
        assert work(place) == 0 and work(place, only_times=True) == 0
        assert states(store) == ["waiting"] * 3
        assert queries.study_row(store, "fake").status is Status.STOPPED
        changes.set_wanted(store, 1, Wanted.RUN)
        with pytest.raises(UsageError, match="3 trials are finished, running or planned"):
            changes.set_trials(store, 1, 2)
    assert work(place) == 0
    with open_reader(place) as store:
        assert states(store) == ["done"] * 3


# ---------------------------------------------------------------------------- nobody who searches


def test_a_latency_worker_waits_without_end_for_those_who_were_killed(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = begun(address, spec(2))
    scored(place, 2)
    monkeypatch.setattr(others, "NOBODY_S", 0.0)
    said = "Nobody has searched fake for 10 minutes, and it has 2 of 6 trials. Let it go on with `kdnas worker fake`"
    with open_store(place) as store:
        changes.set_trials(store, 1, 6)

        def given_up() -> int:
            with pytest.raises(KdnasError, match=said) as caught:
                work(place, only_times=True)
            return caught.value.exit_code

        times = Forked(given_up)
        try:
            assert times.wait(60) == 1
        finally:
            times.kill()
        assert states(store) == ["done"] * 2  # what waited it has timed
        [worker] = [worker for worker in queries.workers(store, 1) if worker.task == "latency"]
        assert worker.state == "failed" and said in str(worker.error)
        assert [row.level for row in queries.logs(store, 1) if said in row.line] == ["error"]
        assert queries.study_row(store, "fake").status is Status.DEAD
    assert work(place) == 0
    with open_reader(place) as store:
        assert states(store) == ["done"] * 6


def test_a_latency_worker_gives_up_before_who_searches_has_begun_or_while_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = begun(tmp_path / "kdnas.db", spec(2))
    now = [1e6]
    monkeypatch.setattr(every, "time", SimpleNamespace(monotonic=lambda: now[0]))
    with open_store(place) as store:
        crew = others.Others(store, 1, None)  # type: ignore[arg-type]  # it does not wait

        def given_up_after() -> float:
            began = now[0]
            while not crew.nobody_searches():
                now[0] += 1
                assert now[0] - began < 10_000
            return now[0] - began

        def looks(seconds: int) -> list[bool]:
            found = []
            for _ in range(seconds):
                now[0] += 1
                found.append(crew.nobody_searches())
            return found

        assert not any(looks(590))
        hold = liveness.Hold()
        worker = enter(store, 1, lock=str(hold.path), device=None, task="search")
        assert not any(looks(2000))
        leave(store, 1, worker, device=None, error=None)
        hold.release()
        assert not any(looks(300))
        now[0] += 7200  # paused
        assert not any(looks(200))
        assert given_up_after() <= 110
