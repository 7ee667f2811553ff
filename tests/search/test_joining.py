"""Who joins a study that is not his: it has ended, is of another version, or measures on another device."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from kdnas.measuring import devices
from kdnas.search import joining
from kdnas.search.begin import begin
from kdnas.search.worker import run_worker
from kdnas.store import changes, ends, queries
from kdnas.store import tables as t
from kdnas.store.database import Store, open_reader, open_store
from kdnas.store.studies import enter
from kdnas.study.rows import Status, StudyRow
from kdnas.system import liveness
from kdnas.system.errors import UsageError
from tests import fakes

OTHER = "cpu: a Processor of Another Kind"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A study of six trials, two of them done here."""
    path = tmp_path / "kdnas.db"
    work(path, 2)
    with open_store(path) as store:
        changes.set_trials(store, 1, 6)
    return path


def work(path: Path, trials: int) -> int:
    begin(fakes.spec(budget={"trials": trials}), path, trials=trials)
    return run_worker(str(path), "fake", prepare=fakes.prepare, measure=fakes.measure)


def row(store: Store) -> StudyRow:
    return queries.study_row(store, "fake")


def rewrite(path: Path, **facts: Any) -> None:
    """What the study's first worker found."""
    with open_store(path) as store:
        known = {**queries.provenance(store, 1), **facts}
        with store.begin() as connection:
            connection.execute(sa.update(t.study).values(provenance=json.dumps(known)))


def test_a_study_in_which_nothing_is_left_to_do_is_joined(path: Path) -> None:
    with open_store(path) as store:
        joining.require_joinable(store, row(store))
        changes.set_wanted(store, 1, "stop")
        with pytest.raises(UsageError, match=r"fake was stopped\. Let it go on: kdnas resume fake"):
            joining.require_joinable(store, row(store))
        changes.set_wanted(store, 1, "run")
        changes.set_trials(store, 1, 2)
        with pytest.raises(UsageError, match=r"has finished its 2 trials\. Raise the budget: kdnas search fake"):
            joining.require_joinable(store, row(store))
        changes.set_trials(store, 1, 6)
        ends.set_end(store, 1, ends.now(store) - 1)
        with pytest.raises(UsageError, match="The time of fake was over"):
            joining.require_joinable(store, row(store))


def test_another_version_joins_unless_it_is_told_to(path: Path) -> None:
    rewrite(path, versions={"kdnas": "0.0.9"})
    with open_store(path) as store:
        with pytest.raises(UsageError, match=r"begun with kdnas 0\.0\.9.*give --unlike"):
            joining.require_joinable(store, row(store))
        # A host that works on it already, by `kdnas resume` after an update, has been let in.
        hold = liveness.Hold()
        enter(store, 1, lock=str(hold.path), device=None, task="search")
        joining.require_joinable(store, row(store))
        hold.release(known=False)
        with pytest.raises(UsageError, match="begun with kdnas"):
            joining.require_joinable(store, row(store))
        joining.allow_unlike(store, 1)
        joining.require_joinable(store, row(store))


def test_latencies_of_unlike_devices_are_mixed_unless_that_is_asked_for(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "device_name", lambda device: OTHER)
    with pytest.raises(UsageError, match=rf"this worker would on {OTHER}\. Give --unlike"):
        work(path, 6)
    with open_store(path) as store:
        assert (row(store).done, row(store).status) == (2, Status.FAILED)
        joining.allow_unlike(store, 1)
        joining.allow_unlike(store, 1)
    assert work(path, 6) == 0
    with open_reader(path) as store:
        assert row(store).done == 6
        assert [event.kind for event in queries.events(store, 1)].count(joining.UNLIKE) == 1
        assert [line.level for line in queries.logs(store, 1) if "latencies of this worker" in line.line] == ["warning"]


def test_a_study_of_before_devices_were_written_down_takes_nobody(path: Path) -> None:
    with open_store(path) as store:
        known = queries.provenance(store, 1)
        with store.begin() as connection:
            connection.execute(sa.update(t.study).values(provenance=json.dumps({"versions": known["versions"]})))
    assert work(path, 6) == 0
