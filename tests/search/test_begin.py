"""Beginning a study again: what a later change set stays, and what the spec newly asks for is done."""

from __future__ import annotations

from pathlib import Path

from kdnas.search.begin import begin
from kdnas.store import changes, queries
from kdnas.store.database import open_store
from tests import fakes


def test_running_the_same_spec_again_does_not_raise_a_budget_that_was_lowered(tmp_path: Path) -> None:
    path, spec = tmp_path / "s.db", fakes.spec(budget={"trials": 12, "epochs": 1})
    study_id = begin(spec, path).study_id
    with open_store(path) as store:
        changes.set_trials(store, study_id, 6)
    assert begin(spec, path).row.trials == 6
    assert begin(fakes.spec(budget={"trials": 8, "epochs": 1}), path).row.trials == 8
    assert begin(spec, path, trials=12).row.trials == 12
    with open_store(path) as store:
        told = [event.detail for event in queries.events(store, study_id) if event.kind == "budget"]
    assert [(detail["from"], detail["to"]) for detail in told] == [(12, 6), (6, 8), (8, 12)]
