"""After α and β have changed, every strategy and pruner sees all trials by the new ones."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import optuna
import pytest

from kdnas.search import worker
from kdnas.search.begin import begin
from kdnas.search.worker import run_worker
from kdnas.store import changes, queries
from kdnas.store.database import open_reader, open_store
from kdnas.store.optuna_storage import optuna_storage
from kdnas.store.rewards import Rescoring
from kdnas.store.studies import create_study
from kdnas.store.trial_figures import TrialFigures
from kdnas.study.reward import reward
from kdnas.study.rows import TrialRow
from kdnas.study.spec import StudySpec
from tests import fakes

FIRST, THEN = {"alpha": -0.02, "beta": 0.6}, {"alpha": -1.5, "beta": 0.4}
STRATEGIES: list[dict[str, Any]] = [
    {"name": "tpe", "startup": 3},
    {"name": "gp", "startup": 3},
    {"name": "evolution", "population": 4, "tournament": 3},
    {"name": "lstm", "episodes": 4, "samples": 4, "pool": 20},
]


def run(path: Path) -> list[TrialRow]:
    assert run_worker(str(path), "fake", prepare=fakes.prepare, measure=fakes.measure) == 0
    with open_reader(path) as store:
        return queries.trial_rows(store, 1)


def changed_after_eight(path: Path, spec: StudySpec, trials: int = 12) -> list[TrialRow]:
    begin(spec, path)
    run(path)
    with open_store(path) as store:
        changes.set_reward(store, 1, THEN["alpha"], THEN["beta"])
        changes.set_trials(store, 1, trials)
    return run(path)


@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda s: s["name"])
def test_a_strategy_learns_from_rewards_at_mixed_rates(tmp_path: Path, strategy: dict[str, Any]) -> None:
    """It goes on as it would have, had the same candidates been rewarded by the new α and β from the beginning."""
    spec = fakes.spec(strategy=strategy, reward=FIRST, budget={"trials": 8, "epochs": 1})
    found = changed_after_eight(tmp_path / "changed.db", spec)
    with open_store(tmp_path / "whole.db", create=True) as store:
        begun = fakes.spec(strategy=strategy, reward=THEN, budget={"trials": 12, "epochs": 1})
        create_study(store, begun, enqueue=[row.candidate for row in found[:8]])
    expected = run(tmp_path / "whole.db")
    if strategy["name"] == "lstm":  # its first two episodes chose for themselves; both learn from the same eight
        assert len({str(row.candidate) for row in found}) == 12
    else:
        assert [row.candidate for row in found] == [row.candidate for row in expected]
    # … and not as it would with the rewards that were reported.
    assert found[0].reward != expected[0].reward and found[8].reward == expected[8].reward


class Bare:
    """Optuna's own storage and nothing before it."""

    def __init__(self, storage: Any) -> None:
        self.storage = storage

    def __getattr__(self, name: str) -> Any:
        own = {"one_look": nullcontext, "constrain": lambda violations: None}
        return own[name] if name in own else getattr(self.storage, name)


@pytest.mark.parametrize("strategy", [*STRATEGIES[:3], {"name": "nsga2", "population": 4}], ids=lambda s: s["name"])
def test_a_study_that_changed_nothing_goes_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strategy: dict[str, Any]
) -> None:
    spec = fakes.spec(strategy=strategy, budget={"trials": 8, "epochs": 1})
    found = []
    for name in ("seen", "bare"):
        begin(spec, tmp_path / name)
        found.append([row.candidate for row in run(tmp_path / name)])
        monkeypatch.setattr(worker, "Rescored", Bare)
    assert found[0] == found[1]


@pytest.mark.parametrize("pruner", ["median", "asha", "hyperband"])
def test_a_pruner_compares_epochs_at_mixed_rates(tmp_path: Path, pruner: str) -> None:
    path = tmp_path / "kdnas.db"
    budget = {"trials": 8, "epochs": 4, "pruner": pruner}
    changed_after_eight(path, fakes.spec(strategy={"name": "tpe", "startup": 3}, reward=FIRST, budget=budget), 12)
    with open_store(path) as store:
        rows = {row.number: row for row in queries.trial_rows(store, 1)}
        curves = queries.curves(store, 1, rows)
        storage = worker.Rescored(optuna.storages.get_storage(optuna_storage(store)))
        figures = TrialFigures(store, 1, epochs=True)
        found = Rescoring(figures, "normalised").now(THEN["alpha"], THEN["beta"], figures.read())
        storage.use(found.final, found.by_epoch)
        seen = optuna.load_study(study_name="fake", storage=storage).get_trials()  # type: ignore[arg-type]
        reported = optuna.load_study(study_name="fake", storage=optuna_storage(store)).get_trials()

    def now(number: int, loss: float) -> float:
        row = rows[number]
        assert row.latency_ms is not None and row.teacher_latency_ms is not None
        return reward(loss, row.latency_ms, row.teacher_latency_ms, **THEN)

    assert len(seen) == 12
    rungs = 0
    for trial in seen:
        by_epoch = {point.epoch: now(trial.number, point.loss) for point in curves[trial.number]}
        assert trial.intermediate_values == by_epoch
        assert trial.value == by_epoch[max(by_epoch)]
        for name, value in trial.system_attrs.items():
            if name.startswith("completed_rung_"):
                rungs += 1
                assert value in by_epoch.values()
    assert rungs or pruner == "median"
    assert [t.value for t in seen] != [t.value for t in reported]  # what Optuna keeps stays as it was reported
    assert reported[0].value == rows[0].reward
