"""Copies of studies: of one moment while a search runs, and as good as the original once they are brought back."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from kdnas.search.begin import begin
from kdnas.search.worker import run_worker
from kdnas.store import changes, queries
from kdnas.store.copies import copy
from kdnas.store.database import open_reader, open_store
from kdnas.study.rows import Status
from kdnas.system.errors import UsageError
from tests import fakes
from tests.search.deaths import told

SPECS: dict[str, dict[str, Any]] = {
    "nsga2": {"name": "nsga2", "population": 3},
    "lstm": {"name": "lstm", "episodes": 2, "samples": 4, "pool": 12},
}


@pytest.mark.parametrize("strategy", SPECS)
def test_a_copy_of_a_running_study_goes_on_otherwise(strategy: str, address: str, empty: Path, tmp_path: Path) -> None:
    backup, other = tmp_path / "backup.db", tmp_path / "other.db"
    spec = fakes.spec(strategy=SPECS[strategy], budget={"trials": 8, "epochs": 1})
    for place in (backup, other):
        shutil.copy(empty, place)
    begun: list[Any] = []

    def trouble(candidate: Any) -> None:
        begun.append(candidate)
        if len(begun) == 6:
            with open_store(address) as running, open_store(backup) as target:
                changes.set_remark(running, 1, 2, marked=True, tags=["good"])
                assert copy(running, target) == ["fake"]

    begin(spec, address)
    assert run_worker(address, "fake", prepare=lambda s, *_: fakes.FakeBench(s, trouble), measure=fakes.measure) == 0
    # Brought back beside another study, so that every number is another one.
    begin(fakes.spec("before", budget={"trials": 2}), other)
    run_worker(str(other), "before", prepare=fakes.prepare, measure=fakes.measure)
    with open_reader(backup) as source, open_store(other) as target:
        row = queries.study_row(source, "fake")
        assert (row.status, row.done, row.workers) == (Status.DEAD, 5, 0)
        copy(source, target, ["fake"])
        study_id = queries.study_row(target, "fake").study_id
    assert run_worker(str(other), "fake", prepare=fakes.prepare, measure=fakes.measure) == 0
    assert told(other, study_id) == told(address)
    with open_reader(other) as store:
        assert queries.study_row(store, "before").done == 2
        rows = {row.number: row for row in queries.trial_rows(store, study_id)}
        assert (rows[2].marked, rows[2].tags) == (True, ("good",))
        assert len(queries.logs(store, study_id)) > 8
        with pytest.raises(UsageError, match=r"There is a study 'fake' in .* already"), open_store(address) as target:
            copy(store, target)


def test_a_name_that_is_not_there(path: Path, empty: Path, tmp_path: Path) -> None:
    for place in (path, tmp_path / "b.db"):
        shutil.copy(empty, place)
    begin(fakes.spec(), path)
    said = r"There is no study 'fke' in .* Did you mean 'fake'"
    with open_reader(path) as source, open_store(tmp_path / "b.db") as to, pytest.raises(UsageError, match=said):
        copy(source, to, ["fke"])
