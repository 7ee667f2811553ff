"""Whatever the strategy and wherever a worker dies, the study goes on as if nothing had happened."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from kdnas.search.worker import run_worker
from kdnas.store.database import open_store
from kdnas.store.studies import create_study
from tests import fakes
from tests.search.deaths import dies, told

STRATEGIES = {
    "tpe": {"name": "tpe", "startup": 3, "pool": 8},
    "tpe-two": {"name": "tpe", "startup": 3, "pool": 8, "two_objectives": True},
    "gp": {"name": "gp", "startup": 6},
    "gp-two": {"name": "gp", "startup": 6, "two_objectives": True},
    "auto": {"name": "auto"},
    "auto-two": {"name": "auto", "two_objectives": True},
    "surrogate": {"name": "surrogate"},
    "surrogate-two": {"name": "surrogate", "two_objectives": True},
    "random": {"name": "random"},
    "grid": {"name": "grid"},
    "evolution": {"name": "evolution", "population": 3, "tournament": 2},
    "nsga2": {"name": "nsga2", "population": 3},
    "lstm": {"name": "lstm", "episodes": 2, "samples": 4, "pool": 12},
}
DEATHS = ((0, "training"), (3, "asked"), (4, "training"), (6, "finished"))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_death_changes_what_comes_after_it(strategy: str, tmp_path: Path) -> None:
    spec = fakes.spec(strategy=STRATEGIES[strategy], budget={"trials": 8, "epochs": 1}, seed=5)
    whole, killed = tmp_path / "whole.db", tmp_path / "killed.db"
    with open_store(whole, create=True) as store:
        create_study(store, spec, enqueue=[fakes.SPACE.from_ordinal(n) for n in (7, 111)])
    shutil.copy(whole, killed)
    for slot, moment in DEATHS:
        dies(killed, slot, moment)
    for path in (whole, killed):
        assert run_worker(str(path), "fake", prepare=fakes.prepare, measure=fakes.measure) == 0
    assert told(killed) == told(whole)
    assert len(told(whole)) == 8
