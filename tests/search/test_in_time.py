"""A study with an end: its last trial is the last that ends in time, whatever happens on the way.

The clock is one that only evaluations move on, so that no test depends on how fast the machine is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from kdnas.recipes.contract import Workbench
from kdnas.search.begin import begin
from kdnas.search.set_up import Prepare
from kdnas.search.worker import Worker, run_worker
from kdnas.store import ends, queries, slots, studies, study_figures
from kdnas.store.database import open_store
from kdnas.study.rows import Status, StudyRow, TrialRow
from kdnas.study.space import Candidate
from kdnas.study.spec import StudySpec
from kdnas.system import liveness
from kdnas.system.errors import KdnasError, UsageError
from kdnas.system.progress import Progress
from tests import fakes
from tests.search.asked import steered

BEGUN = 1_790_000_000.0


class Clock:
    """Seconds that pass only where somebody says so."""

    def __init__(self) -> None:
        self.now = BEGUN

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    clock = Clock()
    monkeypatch.setattr(time, "time", clock)
    study_figures._statement.cache_clear()  # it holds the clock of whoever asked first
    yield clock
    study_figures._statement.cache_clear()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "kdnas.db"


def cost(candidate: Candidate) -> float:
    """Seconds: deep students take twelve times as long as shallow ones."""
    return 5.0 + 15.0 * float(candidate["num_hidden_layers"]) + float(candidate["intermediate_size"]) / 1024


def slow(clock: Clock, of: Callable[[Candidate], float] = cost) -> Prepare:
    """Trials that take what `of` says, by the clock."""

    def trouble(candidate: Candidate) -> None:
        clock.now += of(candidate)

    def prepare(spec: StudySpec, device: torch.device, on_progress: Progress) -> Workbench:
        return fakes.FakeBench(spec, trouble)

    return prepare


def spec(name: str = "fake", strategy: str = "random", **budget: Any) -> StudySpec:
    # Nested values anew, so that a time without trials leaves their number open.
    values = fakes.spec(name, strategy={"name": strategy}).model_dump(mode="json")
    return type(fakes.spec()).model_validate({**values, "budget": {"epochs": 1, **budget}})


def work(path: Path, spec: StudySpec, prepare: Prepare, **more: Any) -> int:
    begin(spec, path, **more)
    return run_worker(str(path), spec.name, prepare=prepare, measure=fakes.measure)


def seen(path: Path, name: str = "fake") -> tuple[StudyRow, list[TrialRow]]:
    with open_store(path) as store:
        row = queries.study_row(store, name)
        return row, queries.trial_rows(store, row.study_id)


def by_slot(trials: list[TrialRow]) -> dict[int, Any]:
    return {t.slot: t.candidate for t in trials if t.state == "done"}


@pytest.mark.parametrize("strategy", ["tpe", "lstm"])
def test_a_study_ends_within_a_trial_of_its_time(path: Path, clock: Clock, strategy: str) -> None:
    assert work(path, spec(strategy=strategy, hours=0.25), slow(clock)) == 0
    row, trials = seen(path)
    longest = max(cost(t.candidate) for t in trials)
    assert row.status is Status.FINISHED and row.until == BEGUN + 900 and row.open
    assert -longest <= clock.now - row.until <= longest
    assert row.done == len(trials) > 8 and row.trials - row.done <= (strategy == "lstm")  # a candidate is planned
    assert row.ending is not None and row.ending.startswith("Its time ends at ")
    with open_store(path) as store:
        kinds = [event.kind for event in queries.events(store, row.study_id)]
    assert kinds == ["created", "time", "ended"]


def test_whichever_comes_first_ends_it(path: Path, clock: Clock) -> None:
    work(path, spec(hours=0.5, trials=4), slow(clock))
    row, _ = seen(path)
    assert (row.status, row.done, row.ending, row.open) == (
        Status.FINISHED, 4, "The budget of 4 trials is spent.", False,
    )  # fmt: skip
    work(path, spec("long", hours=0.15, trials=400), slow(clock))
    row, _ = seen(path, "long")
    assert row.status is Status.FINISHED and row.done < 100 and row.trials == 400
    assert row.ending is not None and row.ending.startswith("Its time ends")


def test_more_hours_go_on_with_the_candidates_of_a_longer_study(path: Path, clock: Clock) -> None:
    work(path, spec("short", strategy="tpe", hours=0.2), slow(clock))
    first, _ = seen(path, "short")
    work(path, spec("short", strategy="tpe", hours=0.2), slow(clock), anew=True)
    row, trials = seen(path, "short")
    assert row.done > first.done and row.until is not None and first.until is not None and row.until > first.until
    begin(spec("whole", strategy="tpe", trials=row.done), path)
    run_worker(str(path), "whole", prepare=slow(clock), measure=fakes.measure)
    assert by_slot(seen(path, "whole")[1]) == by_slot(trials)


def test_deep_candidates_are_not_begun_where_shallow_ones_would_fit(path: Path, clock: Clock) -> None:
    """By the mean of its depth, once that is known."""

    def of(candidate: Candidate) -> float:
        return 100.0 if candidate["num_hidden_layers"] >= 3 else 10.0

    work(path, spec(hours=0.25), slow(clock, of))
    row, trials = seen(path)
    assert row.status is Status.FINISHED and row.done == len(trials)
    assert BEGUN + 900 - 100 < clock.now <= BEGUN + 900


def test_a_killed_workers_study_still_ends_in_time(path: Path, clock: Clock) -> None:
    """One of two workers dies in a trial; the other ends the study, and evaluates the lost candidate only in time."""
    begin(spec(hours=0.1), path)
    with open_store(path) as others:
        hold = liveness.Hold()
        other = studies.enter(others, 1, lock=str(hold.path), device=None, task="search")
        ends.one_more(others, 1)
        claim = slots.claim(others, 1, other)
        assert isinstance(claim, slots.Claim) and claim.slot == 0
        killed: list[bool] = []

        def of(candidate: Candidate) -> float:
            if clock.now > BEGUN + 200 and not killed:
                killed.append(True)
                hold.release(known=False)  # as a kill does
            return 40.0

        assert run_worker(str(path), "fake", prepare=slow(clock, of), measure=fakes.measure) == 0
    row, trials = seen(path)
    assert row.status is Status.FINISHED and clock.now - BEGUN <= 360
    assert row.done == 9 and sorted(t.slot for t in trials if t.state == "done") == list(range(9))


def test_a_worker_waits_for_the_others_and_the_last_one_ends_the_study(path: Path, clock: Clock) -> None:
    one = spec(hours=0.1)
    begin(one, path)
    with open_store(path) as store, open_store(path) as others:
        hold = liveness.Hold()
        other = studies.enter(others, 1, lock=str(hold.path), device=None, task="search")
        ends.one_more(others, 1)
        slots.claim(others, 1, other)
        clock.now = BEGUN + 400
        worker = Worker(store, 1, one, steered(store), fakes.measure)
        worker.prepare(slow(clock), torch.device("cpu"))
        waits: list[str] = []

        def wait(known: str, seconds: float) -> bool:
            waits.append(known)
            assert queries.study_row(others, "fake").status is not Status.FINISHED
            slots.give_back(others, 1, 0, other)
            return False

        worker.steering.wait_for_news = wait  # type: ignore[method-assign]
        try:
            worker.search()
        finally:
            worker.close()
            hold.release()
        assert waits == ["run"]
        row = queries.study_row(others, "fake")
        assert row.ending is not None and (row.done, row.trials) == (0, 0)


def test_people_may_move_the_end_of_a_study_that_runs(path: Path, clock: Clock) -> None:
    moved: list[float] = []

    def of(candidate: Candidate) -> float:
        if clock.now > BEGUN + 200 and not moved:
            moved.append(BEGUN + 720)
            with open_store(path) as others:
                ends.set_end(others, 1, moved[0])
        return 40.0

    work(path, spec(hours=0.1), slow(clock, of))
    row, _ = seen(path)
    assert (row.until, row.done, row.status) == (BEGUN + 720, 18, Status.FINISHED)
    with open_store(path) as store:
        [first, then] = [event.detail for event in queries.events(store, 1) if event.kind == "time"]
    assert first["from"] is None and then["from"] == first["to"] and then["to"] != first["to"]


def test_more_trials_limit_a_study_whose_time_alone_did(path: Path, clock: Clock) -> None:
    work(path, spec(hours=0.1), slow(clock))
    ended, _ = seen(path)
    again = spec(hours=1)
    work(path, again, slow(clock), anew=True, trials=ended.done + 3)
    row, _ = seen(path)
    assert (row.done, row.open, row.trials) == (ended.done + 3, False, ended.done + 3)
    assert row.ending == f"The budget of {row.done} trials is spent."


def test_a_finished_study_of_trials_goes_on_for_its_hours(path: Path, clock: Clock) -> None:
    work(path, spec(trials=3), slow(clock))
    work(path, spec(trials=3, hours=0.1), slow(clock), anew=True)
    row, _ = seen(path)
    assert row.open and row.done > 3 and row.status is Status.FINISHED


def test_a_study_whose_time_is_over_is_not_begun_again(path: Path, clock: Clock) -> None:
    begin(spec(hours=0.1), path)
    clock.now += 3600
    with pytest.raises(UsageError, match=r"The time of fake was over at .*Give it more: kdnas search fake --hours 2"):
        begin(spec(hours=0.1), path)
    begin(spec(hours=0.1), path, anew=True)
    assert seen(path)[0].until == clock.now + 360


def test_hours_for_a_space_that_is_exhausted_are_refused(path: Path, clock: Clock) -> None:
    small = {"num_hidden_layers": [1], "num_attention_heads": [1], "intermediate_size": [128]}
    values = spec(hours=5).model_dump(mode="json") | {"space": {"choices": small}}
    whole = StudySpec.model_validate(values)
    work(path, whole, slow(clock))
    row, _ = seen(path)
    assert (row.status, row.done, row.space_size) == (Status.FINISHED, 3, 3) and clock.now < BEGUN + 3600
    with pytest.raises(UsageError, match="Every candidate of fake has been evaluated; more time brings nothing"):
        begin(whole, path, anew=True)


def test_no_trial_is_begun_that_the_plan_says_would_not_end(path: Path, clock: Clock) -> None:
    work(path, spec(hours=0.01), slow(clock), trial_s=60.0)
    row, trials = seen(path)
    assert row.status is Status.FINISHED and not trials and clock.now == BEGUN
    assert row.ending is not None and row.ending.endswith("no further trial would end by then: a trial takes 1m00.")


def test_a_study_that_only_fails_ends_after_as_many_trials_as_ever(path: Path, clock: Clock) -> None:
    def of(candidate: Candidate) -> float:
        raise KdnasError("broken")

    with pytest.raises(KdnasError, match="5 trials failed"):
        work(path, spec(hours=1), slow(clock, of))
    assert seen(path)[0].failed == 5


def test_a_machine_that_slept_says_nothing_of_trials(path: Path, clock: Clock) -> None:
    """Nor does a clock that was set back: one trial that seems to have taken hours, or less than nothing."""
    wild = iter([5000.0, -1000.0])
    begun: list[Candidate] = []

    def of(candidate: Candidate) -> float:
        begun.append(candidate)
        return next(wild, 200.0) if len(begun) > 5 else 200.0

    work(path, spec(hours=2), slow(clock, of))
    assert seen(path)[0].status is Status.FINISHED and abs(clock.now - (BEGUN + 7200)) <= 200
