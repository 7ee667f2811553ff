"""One worker in this process: what it finds, writes and does when something goes wrong."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from optuna.trial import TrialState

from kdnas.recipes.contract import Student, Workbench
from kdnas.search.begin import begin
from kdnas.search.recheck import recheck
from kdnas.search.set_up import Prepare
from kdnas.search.worker import run_worker
from kdnas.store import changes, queries
from kdnas.store.database import Store, open_store
from kdnas.store.optuna_storage import optuna_storage
from kdnas.students.distil import Job, Telling, distil
from kdnas.study.reward import reward
from kdnas.study.rows import Status, StudyRow, TrialRow
from kdnas.study.space import Candidate
from kdnas.study.spec import StudySpec
from kdnas.system.errors import KdnasError, UsageError
from kdnas.system.progress import Progress
from kdnas.system.seeds import Purpose, number
from tests import fakes


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "kdnas.db"


def work(path: Path, spec: StudySpec, prepare: Prepare = fakes.prepare, **more: Any) -> int:
    begin(spec, path)
    return run_worker(str(path), spec.name, prepare=prepare, **{"measure": fakes.measure, **more})


@pytest.fixture
def look(path: Path) -> Iterator[Callable[[], tuple[StudyRow, list[TrialRow]]]]:
    opened: list[Store] = []

    def looking() -> tuple[StudyRow, list[TrialRow]]:
        if not opened:
            opened.append(open_store(path))
        [row] = queries.study_rows(opened[0])
        return row, queries.trial_rows(opened[0], row.study_id)

    yield looking
    for store in opened:
        store.close()


Look = Callable[[], tuple[StudyRow, list[TrialRow]]]


def troubled(trouble: Callable[[Candidate], None]) -> Prepare:
    def prepare(spec: StudySpec, device: torch.device, on_progress: Progress) -> Workbench:
        return fakes.FakeBench(spec, trouble)

    return prepare


def lines(path: Path, level: str) -> list[str]:
    with open_store(path) as store:
        return [row.line for row in queries.logs(store, 1) if row.level == level]


def test_a_study_runs_to_its_end_and_tells_all(path: Path, look: Look) -> None:
    spec = fakes.spec(budget={"trials": 5, "epochs": 3})
    assert work(path, spec) == 0
    row, trials = look()
    assert (row.status, row.done, row.ending) == (Status.FINISHED, 5, "The budget of 5 trials is spent.")
    assert row.space_size == fakes.SPACE.size
    assert row.teacher_latency_ms == 10.0
    for trial in trials:
        assert (trial.state, trial.epoch, trial.progress >= 0.99, trial.phase) == ("done", 3, True, None)
        assert trial.loss == fakes.loss(trial.candidate, 3)
        assert trial.raw_loss == 2 * fakes.loss(trial.candidate, 3)
        assert trial.latency_ms == fakes.latency_ms(trial.candidate)
        assert trial.reward == reward(trial.loss, trial.latency_ms, 10.0, -0.06, 0.6)
        assert trial.seed == number(spec.seed, Purpose.STUDENT, 0)
        assert trial.config["model_type"] == "bert"
        assert trial.extra == {"figure": 1.0}
        assert trial.memory_mib is not None and trial.memory_mib > 1
    with open_store(path) as store:
        points = queries.curves(store, row.study_id, [0])[0]
        assert [(p.epoch, p.loss) for p in points] == [(e, fakes.loss(trials[0].candidate, e)) for e in (1, 2, 3)]
        [worker] = queries.workers(store, row.study_id)
        assert (worker.state, worker.alive, worker.device, worker.error) == ("ended", False, "cpu", None)
        assert queries.provenance(store, row.study_id)["versions"]["optuna"] == optuna.__version__
        study = optuna.load_study(study_name="fake", storage=optuna_storage(store))
    assert [t.value for t in study.trials] == [trial.reward for trial in trials]
    assert study.trials[0].user_attrs["latency_ms"] == trials[0].latency_ms


def interrupted() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0)  # the handler runs here


def swallowed() -> None:
    with contextlib.suppress(BaseException):
        interrupted()


def renamed() -> None:
    try:
        interrupted()
    except KeyboardInterrupt:
        raise RuntimeError("returned a result with an exception set") from None


@pytest.mark.parametrize("trouble", [interrupted, swallowed, renamed])
def test_an_interrupt_frees_the_trial_whatever_a_library_made_of_it(
    path: Path, look: Look, trouble: Callable[[], None]
) -> None:
    def second(candidate: Candidate) -> None:
        with open_store(path) as store:
            if queries.study_of(store, 1).done == 1:
                trouble()

    assert work(path, fakes.spec(budget={"trials": 4}), troubled(second)) == 130
    row, trials = look()
    assert (row.status, row.done, row.failed) == (Status.STOPPED, 1, 0)
    assert [trial.state for trial in trials] == ["done", "lost"]
    assert lines(path, "error") == []


def test_two_runs_of_one_spec_are_the_same(tmp_path: Path) -> None:
    told = []
    for name in ("a", "b"):
        work(tmp_path / name, fakes.spec(strategy={"name": "tpe", "startup": 3}, budget={"trials": 6}))
        with open_store(tmp_path / name) as store:
            told.append([(r.candidate, r.loss, r.reward, r.seed) for r in queries.trial_rows(store, 1)])
    assert told[0] == told[1]


def test_the_raw_loss_is_what_the_reward_sees_where_the_spec_says_so(path: Path, look: Look) -> None:
    work(path, fakes.spec(reward={"loss": "raw"}, budget={"trials": 2}))
    _, trials = look()
    for trial in trials:
        assert trial.raw_loss is not None and trial.latency_ms is not None
        assert trial.reward == reward(trial.raw_loss, trial.latency_ms, 10.0, -0.06, 0.6)


def test_two_objectives_are_told_as_two_and_still_have_a_reward(path: Path, look: Look) -> None:
    work(path, fakes.spec(strategy={"name": "nsga2", "population": 4}, budget={"trials": 6}))
    _, trials = look()
    with open_store(path) as store:
        study = optuna.load_study(study_name="fake", storage=optuna_storage(store))
    assert [t.values for t in study.trials] == [[trial.loss, trial.latency_ms] for trial in trials]
    assert all(trial.reward is not None for trial in trials)


def test_latencies_are_told_for_one_time_of_the_teacher(path: Path, look: Look) -> None:
    """Each trial finds the machine busier than the one before: it and its teacher take longer and longer."""
    busy = itertools.count(1)

    def measure(bench: Workbench, student: Student, candidate: Candidate) -> fakes.FakeTimed:
        calm, times = fakes.measure(bench, student, candidate), next(busy)
        return replace(calm, p50=times * calm.p50, teacher_p50=times * calm.teacher_p50)

    work(path, fakes.spec(strategy={"name": "nsga2", "population": 4}, budget={"trials": 4}), measure=measure)
    _, trials = look()
    assert [trial.teacher_latency_ms for trial in trials] == [10.0, 20.0, 30.0, 40.0]
    with open_store(path) as store:
        study = optuna.load_study(study_name="fake", storage=optuna_storage(store))
    calm = [fakes.latency_ms(trial.candidate) for trial in trials]
    assert [t.values[1] for t in study.trials] == pytest.approx(calm)


@pytest.mark.parametrize("pruner", ["median", "asha", "hyperband"])
def test_pruned_trials_keep_their_figures_and_count(path: Path, look: Look, pruner: str) -> None:
    work(path, fakes.spec(budget={"trials": 12, "epochs": 4, "pruner": pruner}))
    row, trials = look()
    pruned = [trial for trial in trials if trial.state == "pruned"]
    assert row.done == 12
    assert row.pruned == len(pruned) > 0
    assert all(trial.loss is not None and trial.epoch < 4 for trial in pruned)
    with open_store(path) as store:
        study = optuna.load_study(study_name="fake", storage=optuna_storage(store))
    assert {t.number for t in study.get_trials(states=(TrialState.PRUNED,))} == {t.number for t in pruned}
    # Those that went on were better than those that were stopped, at the end of the first epoch.
    assert row.best_number not in {trial.number for trial in pruned}


def test_a_reward_changed_on_the_way_is_used_from_then_on(path: Path, look: Look) -> None:
    def change(candidate: Candidate) -> None:
        with open_store(path) as store:
            if queries.study_of(store, 1).done == 2:
                changes.set_reward(store, 1, -0.3, 0.5)

    work(path, fakes.spec(budget={"trials": 4}), troubled(change))
    _, trials = look()
    assert [(t.alpha, t.beta) for t in trials] == [(-0.06, 0.6)] * 2 + [(-0.3, 0.5)] * 2


# ---------------------------------------------------------------------------- the end of a space, and reuse


def test_an_exhausted_space_ends_the_study_and_says_so(path: Path, look: Look) -> None:
    space = {"choices": {"num_hidden_layers": [2], "num_attention_heads": [2], "hidden_act": ["gelu"]}}
    assert work(path, fakes.spec(space=space, budget={"trials": 9})) == 0
    row, trials = look()
    assert (row.status, row.done, row.trials) == (Status.FINISHED, 5, 9)
    assert "All 5 candidates" in (row.ending or "")
    assert len({str(trial.candidate) for trial in trials}) == 5
    # Taking it up again ends at once, in the same words.
    assert work(path, fakes.spec(space=space, budget={"trials": 9})) == 0
    assert look()[0].ending == row.ending
    with open_store(path) as store:
        study = optuna.load_study(study_name="fake", storage=optuna_storage(store))
    assert not study.get_trials(states=(TrialState.RUNNING,))


def test_a_repeated_proposal_is_reused_at_no_cost(path: Path, look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    # Our samplers never repeat themselves; one that does stands in for any that might.
    from kdnas import strategies
    from kdnas.search import worker
    from kdnas.strategies.without_replacement import Planned

    asked: list[int] = []

    def stubborn(spec: StudySpec, space: Any, slot: int, taken: Any, planned: Any = None, *more: Any) -> Any:
        asked.append(slot)
        if slot == 1 and asked.count(1) == 1:
            return Planned(space, look()[1][0].candidate)
        return strategies.sampler(spec, space, slot, taken, planned)

    monkeypatch.setattr(worker, "sampler", stubborn)
    evaluated: list[Candidate] = []
    work(path, fakes.spec(budget={"trials": 3}), troubled(evaluated.append))
    row, trials = look()
    assert [t.state for t in trials] == ["done", "reused", "done", "done"]
    assert (trials[1].reused_from, trials[1].loss, trials[1].reward) == (0, trials[0].loss, trials[0].reward)
    assert (row.done, row.reused, len(evaluated)) == (3, 1, 3)


def test_enqueued_candidates_come_first(path: Path, look: Look) -> None:
    from kdnas.store.studies import create_study

    wanted = [fakes.SPACE.from_ordinal(n) for n in (7, 3)]
    with open_store(path, create=True) as store:
        create_study(store, fakes.spec(budget={"trials": 4}), enqueue=wanted)
    run_worker(str(path), "fake", prepare=fakes.prepare, measure=fakes.measure)
    _, trials = look()
    assert [t.candidate for t in trials][:2] == wanted
    assert [t.origin for t in trials] == ["enqueued", "enqueued", "strategy", "strategy"]


# ---------------------------------------------------------------------------- what goes wrong


def on_second(error: Exception) -> Callable[[Candidate], None]:
    calls = []

    def trouble(candidate: Candidate) -> None:
        calls.append(candidate)
        if len(calls) == 2:
            raise error

    return trouble


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.00 GiB"), "The memory of cpu ran out. Give a"),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to get 9 bytes"), "The memory of cpu ran"),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied\nmore"), "RuntimeError: mat1 and mat2 shapes cannot"),
        (UsageError("1,000,001 parameters are too many.", "Lower the rank."), "1,000,001 parameters are too many. Low"),
    ],
)
def test_one_trial_fails_and_the_study_goes_on(path: Path, look: Look, error: Exception, said: str) -> None:
    assert work(path, fakes.spec(budget={"trials": 4}), troubled(on_second(error))) == 0
    row, trials = look()
    assert [t.state for t in trials] == ["done", "failed", "done", "done"]
    assert (trials[1].error or "").startswith(said)
    assert "\n" not in (trials[1].error or "")
    assert (row.status, row.failed, row.done) == (Status.FINISHED, 1, 4)
    assert any(line.startswith(f"trial 1: failed: {said}") for line in lines(path, "error"))


def test_a_loss_that_is_no_number_fails_the_trial(path: Path, look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    real = fakes.loss
    first: list[str] = []

    def sometimes(candidate: Any, epoch: int = 2) -> float:
        first.append(str(candidate))
        return float("nan") if str(candidate) == first[0] else real(candidate, epoch)

    monkeypatch.setattr(fakes, "loss", sometimes)
    work(path, fakes.spec(budget={"trials": 3}))
    _, trials = look()
    assert [t.state for t in trials] == ["failed", "done", "done"]
    assert trials[0].error == "The loss is nan after epoch 1. Try a lower training.learning_rate."


def test_a_study_in_which_everything_fails_ends_early(path: Path, look: Look) -> None:
    def always(candidate: Candidate) -> None:
        raise RuntimeError("no kernel image is available")

    with pytest.raises(KdnasError, match="All of the first 5 trials failed, the last one so: RuntimeError: no kernel"):
        work(path, fakes.spec(budget={"trials": 50}), troubled(always))
    row, _ = look()
    assert (row.status, row.done) == (Status.FAILED, 5)


def test_a_small_budget_whose_trials_all_fail_ends_as_if_all_were_well(path: Path, look: Look) -> None:
    def never(_: Candidate) -> None:
        raise RuntimeError("no kernel")

    with pytest.raises(KdnasError, match="All 2 trials failed, the last one so: RuntimeError: no kernel"):
        work(path, fakes.spec(budget={"trials": 2}), troubled(never))
    assert (look()[0].status, look()[0].failed) == (Status.FINISHED, 2)
    # One result is enough.
    once = iter([RuntimeError("no kernel")])

    def at_first(_: Candidate) -> None:
        for error in once:
            raise error

    assert work(path, fakes.spec("another", budget={"trials": 2}), troubled(at_first)) == 0


def test_what_fails_in_preparing_fails_the_worker_with_its_line(path: Path, look: Look) -> None:
    def no_teacher(spec: StudySpec, device: torch.device, on_progress: Progress) -> Workbench:
        raise UsageError("There is no model 'x'.", "Give a folder.")

    with pytest.raises(UsageError, match="There is no model 'x'"):
        work(path, fakes.spec(), no_teacher)
    row, trials = look()
    assert (row.status, row.ending, trials) == (Status.FAILED, "There is no model 'x'. Give a folder.", [])
    with open_store(path) as store:
        [worker] = queries.workers(store, 1)
        assert (worker.state, worker.error) == ("failed", row.ending)
    # Once that is mended, nothing of it is left.
    assert work(path, fakes.spec()) == 0
    assert look()[0].status == Status.FINISHED


@pytest.mark.parametrize("step", ["search", "recheck", "finalize"])
def test_preparing_that_runs_out_of_memory_is_one_line_with_the_hint(path: Path, look: Look, step: str) -> None:
    def too_large(spec: StudySpec, device: torch.device, on_progress: Progress) -> Workbench:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    with pytest.raises(KdnasError, match=r"The memory of cpu ran out\. Give a smaller data\.batch_size") as caught:
        if step == "search":
            work(path, fakes.spec(), too_large)
        else:
            work(path, fakes.spec())
            if step == "recheck":
                recheck(str(path), "fake", top=1, seeds=1, device="cpu", say=lambda line: None, prepare=too_large)
            else:
                job = Job(fakes.spec(), look()[1][0].candidate)
                telling = Telling(lambda words, share: None)
                distil(job, path.parent / "student", telling, device="cpu", prepare=too_large)
    assert "fault" not in str(caught.value) and not any("Traceback" in line for line in lines(path, "error"))


def test_a_fault_of_ours_is_told_as_one(path: Path, look: Look) -> None:
    def fault(spec: StudySpec, device: torch.device, on_progress: Progress) -> Workbench:
        return {}["key"]  # type: ignore[return-value]

    with pytest.raises(KdnasError, match="A fault of kdnas: KeyError: 'key'"):
        work(path, fakes.spec(), fault)
    assert look()[0].status == Status.FAILED
    assert any("Traceback" in line for line in lines(path, "error"))


def test_no_gpu_where_one_was_asked_for(path: Path, look: Look) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(UsageError, match=r"The device cuda:7 is not there: torch finds no GPU. Give --device cpu"):
        work(path, fakes.spec(device="cuda:7"))
    assert look()[0].status == Status.FAILED
    assert run_worker(str(path), "fake", device="cpu", prepare=fakes.prepare, measure=fakes.measure) == 0


def test_a_space_that_has_changed_stops_the_worker(path: Path, look: Look) -> None:
    work(path, fakes.spec(budget={"trials": 2}))

    def other_space(spec: StudySpec, device: torch.device, on_progress: Progress) -> Workbench:
        bench = fakes.FakeBench(spec)
        bench.space = type(bench.space)(bench.space.dimensions[:2])
        return bench

    with pytest.raises(UsageError, match="no longer the one"):
        work(path, fakes.spec(budget={"trials": 4}), other_space)
    assert look()[0].done == 2


# ---------------------------------------------------------------------------- steering


PATIENCE_S = 120.0


class Gate:
    """Holds an evaluation at its first step until it is opened, and tells when one has come."""

    def __init__(self) -> None:
        self.came = threading.Event()
        self.open = threading.Event()

    def __call__(self, candidate: Candidate) -> None:
        self.came.set()
        assert self.open.wait(PATIENCE_S)


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, "it never came to it"
        time.sleep(0.01)


@pytest.fixture
def running(path: Path) -> Iterator[tuple[Gate, Store, list[int]]]:
    """A worker in a thread, held in its first evaluation; its exit code comes into the list."""
    begin(fakes.spec(budget={"trials": 4, "epochs": 3}), path)
    gate, codes = Gate(), []

    def run() -> None:
        codes.append(run_worker(str(path), "fake", prepare=troubled(gate), measure=fakes.measure))

    thread = threading.Thread(target=run)
    thread.start()
    with open_store(path) as store:
        assert gate.came.wait(PATIENCE_S)
        yield gate, store, codes
        changes.set_wanted(store, 1, "abandon")
        gate.open.set()
        thread.join(PATIENCE_S)
    assert not thread.is_alive()


Running = tuple[Gate, Store, list[int]]


def test_pause_lets_the_epoch_end_and_keeps_the_training(running: Running) -> None:
    gate, store, codes = running
    changes.set_wanted(store, 1, "pause")
    assert queries.study_of(store, 1).status == Status.PAUSING
    gate.open.set()
    until(lambda: queries.study_of(store, 1).status == Status.PAUSED)
    [trial] = queries.trial_rows(store, 1)
    assert (trial.state, trial.epoch < 3) == ("running", True)
    changes.set_wanted(store, 1, "run")
    until(lambda: queries.study_of(store, 1).status == Status.FINISHED)
    until(lambda: codes == [0])
    rows = queries.trial_rows(store, 1)
    assert [(row.number, row.state, row.epoch) for row in rows] == [(n, "done", 3) for n in range(4)]


def test_stop_ends_the_running_trial_first(running: Running) -> None:
    gate, store, codes = running
    changes.set_wanted(store, 1, "stop")
    assert queries.study_of(store, 1).status == Status.STOPPING
    gate.open.set()
    until(lambda: codes == [0])
    row = queries.study_of(store, 1)
    assert (row.status, row.done) == (Status.STOPPED, 1)
    assert [trial.state for trial in queries.trial_rows(store, 1)] == ["done"]


def test_abandon_loses_the_running_trial_and_frees_its_slot(running: Running, path: Path) -> None:
    gate, store, codes = running
    changes.set_wanted(store, 1, "abandon")
    assert queries.study_of(store, 1).status == Status.STOPPING
    gate.open.set()
    until(lambda: codes == [0])
    [lost] = queries.trial_rows(store, 1)
    assert (lost.state, lost.error) == ("lost", "its worker was stopped")
    assert queries.study_of(store, 1).status == Status.STOPPED
    assert work(path, fakes.spec(budget={"trials": 4, "epochs": 3})) == 0
    rows = queries.trial_rows(store, 1)
    assert sum(row.state == "done" for row in rows) == 4
    assert [row.candidate for row in rows if row.slot == lost.slot] == [lost.candidate] * 2


def test_a_study_deleted_under_its_worker_ends_it(path: Path) -> None:
    def delete(candidate: Candidate) -> None:
        with open_store(path) as store, store.begin() as connection:
            connection.exec_driver_sql("DELETE FROM kdnas_study")

    begin(fakes.spec(), path)
    try:
        assert run_worker(str(path), "fake", prepare=troubled(delete), measure=fakes.measure) == 0
    except UsageError as error:
        assert str(error) == "The study was deleted. Begin another one."
    with open_store(path) as store:
        assert queries.study_rows(store) == []


def test_a_budget_raised_meanwhile_is_used(running: Running) -> None:
    gate, store, codes = running
    changes.set_trials(store, 1, 6)
    gate.open.set()
    until(lambda: codes == [0])
    assert queries.study_of(store, 1).done == 6


# ---------------------------------------------------------------------------- taking up, and again


def test_taking_up_raises_the_budget_and_keeps_later_changes(path: Path, look: Look) -> None:
    work(path, fakes.spec(budget={"trials": 2}))
    with open_store(path) as store:
        changes.set_reward(store, 1, -0.3, 0.6)
    begun = begin(fakes.spec(budget={"trials": 5}), path)
    assert begun.resumed
    row, _ = look()
    assert (row.trials, row.alpha, row.status) == (5, -0.3, Status.STOPPED)
    begin(fakes.spec(reward={"alpha": -0.1}), path)
    assert (look()[0].alpha, look()[0].trials) == (-0.1, 8)
    with pytest.raises(UsageError, match=r"budget.epochs is 2, asked for 9"):
        begin(fakes.spec(budget={"epochs": 9}), path)


def test_recheck_evaluates_the_leaders_with_fresh_seeds_once(path: Path, look: Look) -> None:
    with open_store(path, create=True):
        pass
    begin(fakes.spec(budget={"trials": 5}), path)
    said: list[str] = []
    again = {"prepare": fakes.prepare, "measure": fakes.measure, "device": None, "say": said.append}
    with pytest.raises(UsageError, match="no finished trial"):
        recheck(str(path), "fake", top=2, seeds=2, **again)
    work(path, fakes.spec(budget={"trials": 5}))
    ranked = recheck(str(path), "fake", top=2, seeds=2, **again)
    row, trials = look()
    assert sorted(t.repeats for t in trials) == [0, 0, 0, 2, 2]
    assert {s.row.number for s in ranked if s.row.repeats} == {s.row.number for s in ranked[:2]}
    assert (row.status, row.done) == (Status.FINISHED, 5)
    count = len(said)
    recheck(str(path), "fake", top=2, seeds=2, **again)
    assert len(said) == count + 1  # that there is nothing to do
    with open_store(path) as store:
        tasks = [(w.task, w.state) for w in queries.workers(store, 1)]
        kinds = [e.kind for e in queries.events(store, 1)]
    assert tasks == [("search", "ended"), ("recheck", "ended")]
    assert kinds.count("recheck") == 1
