"""A search under constraints: what is never proposed, what strategies see, what follows when constraints change."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest

from kdnas.recipes.contract import Workbench
from kdnas.search import block_latency
from kdnas.search.begin import begin
from kdnas.search.worker import run_worker
from kdnas.store import changes, queries
from kdnas.store.database import open_reader, open_store
from kdnas.store.optuna_storage import optuna_storage
from kdnas.store.studies import create_study
from kdnas.study.ranked_rows import rank_of
from kdnas.study.rows import StudyRow, TrialRow
from kdnas.study.space import Candidate
from kdnas.study.spec import StudySpec, from_values
from kdnas.study.spec_constraints import ConstraintsSpec
from kdnas.study.states import Status
from kdnas.system.errors import UsageError
from tests import fakes

ALL: list[dict[str, Any]] = [
    {"name": "tpe", "startup": 3},
    {"name": "tpe", "startup": 3, "two_objectives": True},
    {"name": "gp", "startup": 3},
    {"name": "random"},
    {"name": "grid"},
    {"name": "evolution", "population": 4, "tournament": 3},
    {"name": "nsga2", "population": 4},
    {"name": "lstm", "samples": 4, "pool": 20},
]
LEARNING = [ALL[0], ALL[1], ALL[2], ALL[5], ALL[6], ALL[7]]


def parameters(candidate: Candidate) -> int:
    """Of `torch.nn.Linear(layers, inner)`."""
    layers, inner = int(candidate["num_hidden_layers"]), int(candidate["intermediate_size"])
    return layers * inner + inner


class Counted(fakes.FakeBench):
    def parameters(self, candidate: Candidate) -> int:
        return parameters(candidate)


def counted(spec: StudySpec, device: object, on_progress: object) -> Workbench:
    return Counted(spec)


def run(path: Path, prepare: Callable[..., Workbench] = counted, measure: Any = fakes.measure) -> list[TrialRow]:
    assert run_worker(str(path), "fake", prepare=prepare, measure=measure) == 0
    return rows(path)


def rows(path: Path) -> list[TrialRow]:
    with open_reader(path) as store:
        return queries.trial_rows(store, 1)


def study(path: Path) -> StudyRow:
    with open_reader(path) as store:
        return queries.study_of(store, 1)


def constrain(path: Path, trials: int | None = None, **bounds: float) -> None:
    with open_store(path) as store:
        changes.set_constraints(store, 1, ConstraintsSpec(**bounds))  # type: ignore[arg-type]
        if trials is not None:
            changes.set_trials(store, 1, trials)


# ------------------------------------------------------------------------------------- known before training


@pytest.mark.parametrize("strategy", ALL, ids=lambda s: s["name"] + "-two" * ("two_objectives" in s))
def test_no_strategy_proposes_what_is_too_large(tmp_path: Path, strategy: dict[str, Any]) -> None:
    """A tenth of the space is small enough: every trial is one of it, and there are as many as asked for."""
    spec = fakes.spec(strategy=strategy, budget={"trials": 8, "epochs": 1}, constraints={"max_parameters": 500})
    begin(spec, tmp_path / "s.db")
    found = run(tmp_path / "s.db")
    assert len(found) == 8 and len({str(row.candidate) for row in found}) == 8
    assert all(parameters(row.candidate) <= 500 and row.state == "done" for row in found)


@pytest.mark.parametrize("strategy", [ALL[0], ALL[4], ALL[7]], ids=lambda s: s["name"])
def test_a_search_ends_when_all_that_are_small_enough_are_tried(tmp_path: Path, strategy: dict[str, Any]) -> None:
    spec = fakes.spec(strategy=strategy, budget={"trials": 18, "epochs": 1}, constraints={"max_parameters": 256})
    begin(spec, tmp_path / "s.db")
    assert len(run(tmp_path / "s.db")) == 12
    ended = study(tmp_path / "s.db")
    words = "All 12 of 360 candidates that keep to max_parameters 256 have been tried; the search is complete."
    assert ended.status == Status.FINISHED and str(ended.ending).startswith(words)
    # With a looser one the same study goes on.
    begin(spec, tmp_path / "s.db", constraints=ConstraintsSpec(max_parameters=384))  # type: ignore[call-arg]
    more = run(tmp_path / "s.db")
    assert 12 < len(more) <= 18 and max(parameters(row.candidate) for row in more) == 384


def test_a_space_in_which_nothing_is_small_enough_is_told_before_any_trial(tmp_path: Path) -> None:
    begin(fakes.spec(constraints={"max_parameters": 100}), tmp_path / "s.db")
    words = "No candidate of this space keeps to max_parameters 100; the nearest has 256 parameters for at most 100."
    with pytest.raises(UsageError, match=words):
        run(tmp_path / "s.db")
    assert not rows(tmp_path / "s.db") and words in str(study(tmp_path / "s.db").ending)


def test_sizes_that_only_building_tells_are_a_soft_constraint(tmp_path: Path) -> None:
    spec = fakes.spec(constraints={"max_size_mib": 0.005}, budget={"trials": 12, "epochs": 1})
    begin(spec, tmp_path / "s.db")
    found = run(tmp_path / "s.db", prepare=fakes.prepare)
    assert len({s.infeasible for s in rank_of(study(tmp_path / "s.db"), found)}) == 2


class ByBlocks(block_latency.ByBlocks):
    """The fake's latency, known of a candidate without building it."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def predicted(self, bench: Workbench, chosen: Candidate) -> Any:
        self.asked.append(bench.space.key(chosen))
        return fakes.measure(bench, None, chosen)  # type: ignore[arg-type]


@pytest.mark.parametrize("strategy", ALL[:7], ids=lambda s: s["name"] + "-two" * ("two_objectives" in s))
def test_no_strategy_proposes_what_is_predicted_too_slow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strategy: dict[str, Any]
) -> None:
    measure = ByBlocks()
    monkeypatch.setattr("kdnas.search.worker.of_search", lambda spec, protocol, aside: (measure, aside))
    spec = fakes.spec(
        strategy=strategy,
        budget={"trials": 7, "epochs": 1},
        latency={"by": "blocks"},
        constraints={"max_latency_ms": 1.0},
    )
    begin(spec, tmp_path / "s.db")
    found = run(tmp_path / "s.db")
    assert len(found) == 7 and all(fakes.latency_ms(row.candidate) <= 1.0 for row in found)
    if strategy["name"] in ("random", "tpe"):
        assert len(set(measure.asked)) < 300  # not every candidate of the space was looked at


# --------------------------------------------------------------------------------------- known after training


@pytest.mark.parametrize("strategy", LEARNING, ids=lambda s: s["name"] + "-two" * ("two_objectives" in s))
def test_strategies_see_the_constraints_of_now(tmp_path: Path, strategy: dict[str, Any]) -> None:
    """Changed after eight trials, the search goes on as one that had them from the beginning."""
    budget = {"trials": 8, "epochs": 1}
    bounds = {"max_latency_ms": 2.0, "max_loss": 0.7}
    spec = fakes.spec(strategy=strategy, budget=budget, constraints={"min_speedup": 0.1})
    begin(spec, tmp_path / "changed.db")
    first = run(tmp_path / "changed.db")
    shutil.copy(tmp_path / "changed.db", tmp_path / "old.db")
    constrain(tmp_path / "changed.db", 12, **bounds)
    changed = run(tmp_path / "changed.db")
    with open_store(tmp_path / "whole.db", create=True) as store:
        whole = fakes.spec(strategy=strategy, budget={"trials": 12, "epochs": 1}, constraints=bounds)
        create_study(store, whole, enqueue=[row.candidate for row in first])
    expected = run(tmp_path / "whole.db")
    if strategy["name"] != "lstm":  # whose first two episodes chose for themselves
        assert [row.candidate for row in changed] == [row.candidate for row in expected]
    # … and not as one that still has the old ones.
    begin(spec, tmp_path / "old.db", trials=12)
    assert [row.candidate for row in run(tmp_path / "old.db")] != [row.candidate for row in changed]


def test_what_optuna_reads_of_a_trial_are_its_violations(tmp_path: Path) -> None:
    bounds = {"max_latency_ms": 2.0, "max_loss": 0.7}
    begin(fakes.spec(constraints=bounds), tmp_path / "s.db")
    found = run(tmp_path / "s.db")
    with open_store(tmp_path / "s.db") as store:
        storage = optuna_storage(store)
        trials = optuna.load_study(study_name="fake", storage=storage).trials
        storage.engine.dispose()
    for row, trial in zip(found, trials, strict=True):
        assert trial.constraints == pytest.approx(
            {
                "max_latency_ms": math.log((row.latency_ms or 0) / 2.0),
                "max_loss": math.log((row.loss or 0) / 0.7),
            }
        )


@pytest.mark.parametrize("strategy", [ALL[0], ALL[2]], ids=lambda s: s["name"])
def test_a_strategy_that_learns_proposes_what_keeps_a_constraint_on_measured_latency(
    tmp_path: Path, strategy: dict[str, Any]
) -> None:
    """A tenth of the space is fast enough: by chance one of twelve candidates would be."""
    spec = fakes.spec(
        strategy={**strategy, "startup": 8}, budget={"trials": 20, "epochs": 1}, constraints={"max_latency_ms": 0.8}
    )
    begin(spec, tmp_path / "s.db")
    learnt = run(tmp_path / "s.db")[8:]
    assert sum(fakes.latency_ms(row.candidate) <= 0.8 for row in learnt) >= 5


def test_best_ranks_and_the_row_follow_changed_constraints(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    begin(fakes.spec(budget={"trials": 12, "epochs": 1}), path)
    found = run(path)
    free = study(path)
    slowest = next(row for row in found if row.number == free.best_number)
    constrain(path, max_latency_ms=0.9 * float(slowest.latency_ms or 0))
    bound = study(path)
    ranked = [s for s in rank_of(bound, found) if s.rank is not None]
    assert bound.best_number == ranked[0].number != free.best_number and not ranked[0].infeasible
    assert bound.best_reward == ranked[0].reward
    constrain(path, max_latency_ms=0.001)
    assert study(path).best_number is None and study(path).best_reward is None
    constrain(path)
    assert study(path).best_number == free.best_number
    with open_reader(path) as store:
        told = [event.detail["to"] for event in queries.events(store, 1) if event.kind == "constraints"]
    assert [detail["max_latency_ms"] is None for detail in told] == [False, False, True]


def test_running_the_same_spec_again_undoes_no_change(tmp_path: Path) -> None:
    path, spec = tmp_path / "s.db", fakes.spec(constraints={"max_loss": 0.5})
    begin(spec, path)
    begin(spec, path, constraints=ConstraintsSpec(max_loss=0.6))  # type: ignore[call-arg]
    assert study(path).spec["constraints"]["max_loss"] == 0.6
    begin(spec, path)
    assert study(path).spec["constraints"]["max_loss"] == 0.6
    other = from_values({**spec.model_dump(mode="json"), "constraints": {"min_speedup": 2}})
    begin(other, path)
    assert study(path).spec["constraints"] == {
        **dict.fromkeys(ConstraintsSpec.model_fields),
        "min_speedup": 2.0,
    }


def test_after_ten_trials_it_is_told_that_none_keeps_the_constraints(tmp_path: Path) -> None:
    begin(fakes.spec(constraints={"max_loss": 0.01}, budget={"trials": 12, "epochs": 1}), tmp_path / "s.db")
    found = run(tmp_path / "s.db")
    with open_reader(tmp_path / "s.db") as store:
        warned = [log.line for log in queries.logs(store, 1, 0, 1000) if log.level == "warning"]
    best = min(found[:10], key=lambda row: row.loss or 1)
    assert len(warned) == 1 and warned[0].startswith("None of 10 trials keeps to max_loss 0.01; nearest: trial ")
    assert f"trial {best.number}, loss {best.loss:.3g} for at most 0.01" in warned[0]


def test_a_search_that_is_taken_up_again_under_constraints_proposes_the_same(tmp_path: Path) -> None:
    bounds = {"max_parameters": 1500, "max_latency_ms": 1.5}
    spec = fakes.spec(strategy=ALL[0], budget={"trials": 9, "epochs": 1}, constraints=bounds)
    begin(spec, tmp_path / "whole.db")
    whole = run(tmp_path / "whole.db")
    for trials in (4, 6, 9):  # another process each time
        begin(replaced(spec, 4), tmp_path / "parts.db", trials=trials)
        parts = run(tmp_path / "parts.db")
    assert [row.candidate for row in parts] == [row.candidate for row in whole]


def replaced(spec: StudySpec, trials: int) -> StudySpec:
    values = spec.model_dump(mode="json")
    return from_values({**values, "budget": {**values["budget"], "trials": trials}})


def test_a_row_of_a_study_without_the_part_has_no_limits(tmp_path: Path) -> None:
    begin(fakes.spec(), tmp_path / "s.db")
    row = study(tmp_path / "s.db")
    earlier = replace(row, spec={key: value for key, value in row.spec.items() if key != "constraints"})
    found = run(tmp_path / "s.db")
    assert [s.rank for s in rank_of(earlier, found)] == [s.rank for s in rank_of(row, found)]
