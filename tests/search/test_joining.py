"""Who joins a study that is not his: it has ended, is of another version, or measures on another device."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from kdnas.measuring import devices
from kdnas.recipes.contract import Workbench
from kdnas.search import joining
from kdnas.search.begin import begin
from kdnas.search.candidate import Timed
from kdnas.search.worker import run_worker
from kdnas.store import changes, ends, queries
from kdnas.store import tables as t
from kdnas.store.copies import copy
from kdnas.store.database import Store, open_reader, open_store
from kdnas.store.latency_requests import Requests
from kdnas.store.studies import enter
from kdnas.study.rows import Status, StudyRow
from kdnas.study.space import Candidate
from kdnas.system import liveness
from kdnas.system.errors import UsageError
from kdnas.training.contract import Student
from tests import fakes
from tests.forks import Forked

OTHER = "cpu: a Processor of Another Kind"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of six trials, two of them done here."""
    path = tmp_path_factory.mktemp("joined") / "kdnas.db"
    work(path, 2)
    with open_store(path) as store:
        changes.set_trials(store, 1, 6)
        store.settle()
    return path


@pytest.fixture
def place(made: Path, address: str) -> str:
    if "://" in address:
        with open_reader(made) as source, open_store(address) as target:
            copy(source, target)
        return address
    return str(shutil.copy(made, address))


def work(place: str | Path, trials: int) -> int:
    begin(fakes.spec(budget={"trials": trials}), place, trials=trials)
    return run_worker(str(place), "fake", prepare=fakes.prepare, measure=fakes.measure)


def row(store: Store) -> StudyRow:
    return queries.study_row(store, "fake")


def rewrite(place: str, **facts: Any) -> None:
    """What the study's first worker found."""
    with open_store(place) as store:
        known = {**queries.provenance(store, 1), **facts}
        with store.begin() as connection:
            connection.execute(sa.update(t.study).values(provenance=json.dumps(known)))


def test_a_study_in_which_nothing_is_left_to_do_is_joined(place: str) -> None:
    with open_store(place) as store:
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


def test_another_version_joins_unless_it_is_told_to(place: str) -> None:
    rewrite(place, versions={"kdnas": "0.0.9"})
    with open_store(place) as store:
        with pytest.raises(UsageError, match=r"begun with kdnas 0\.0\.9.*let it join all the same: --unlike leave"):
            joining.require_joinable(store, row(store))
        # A host that works on it already, by `kdnas resume` after an update, has been let in.
        hold = liveness.Hold()
        enter(store, 1, lock=str(hold.path), device=None, task="search")
        joining.require_joinable(store, row(store))
        hold.release(known=False)
        with pytest.raises(UsageError, match="begun with kdnas"):
            joining.require_joinable(store, row(store))
        joining.allow_unlike(store, 1, "leave")
        joining.require_joinable(store, row(store))


def test_latencies_of_unlike_devices_are_mixed_unless_that_is_asked_for(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "device_name", lambda device: OTHER)
    with pytest.raises(UsageError, match=rf"this worker would on {OTHER}\. Give --unlike leave"):
        work(place, 6)
    with open_store(place) as store:
        assert (row(store).done, row(store).status) == (2, Status.FAILED)
        joining.allow_unlike(store, 1, "mix")
        joining.allow_unlike(store, 1, "mix")
    assert work(place, 6) == 0
    with open_reader(place) as store:
        assert row(store).done == 6
        assert [event.kind for event in queries.events(store, 1)].count(joining.UNLIKE) == 1
        assert [line.level for line in queries.logs(store, 1) if "latencies of this worker" in line.line] == ["warning"]


def test_a_study_of_before_devices_were_written_down_takes_nobody(place: str) -> None:
    with open_store(place) as store:
        known = queries.provenance(store, 1)
        with store.begin() as connection:
            connection.execute(sa.update(t.study).values(provenance=json.dumps({"versions": known["versions"]})))
    assert work(place, 6) == 0


# ---------------------------------------------------------------------------- latency left to others


def leaving(place: Path | str, before_asking: Callable[[], object] = lambda: None) -> Forked:
    """A worker on a machine of another kind, which must not measure."""

    def work() -> int:
        devices.device_name = lambda device: OTHER

        def measured_here(*_: object) -> Timed:
            raise AssertionError("it was to be left to others")

        class Bench(fakes.FakeBench):
            def build(self, candidate: Candidate, seed: int) -> Student:
                before_asking()
                return super().build(candidate, seed)

        return run_worker(str(place), "fake", prepare=lambda spec, *_: Bench(spec), measure=measured_here)

    return Forked(work)


def wait_for(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_worker_without_the_studys_device_measures_itself(place: str) -> None:
    with open_store(place) as store:
        joining.allow_unlike(store, 1, "leave")
        requests = Requests.of(store, 1, queries.provenance(store, 1)["device"])
        others: list[Forked] = []

        def trouble(_: object) -> None:
            """In mid-trial, the other one begins and asks."""
            if not others:
                others.append(leaving(place))
                wait_for(requests.asked)

        prepare = lambda spec, *_: fakes.FakeBench(spec, trouble)  # noqa: E731
        assert run_worker(place, "fake", prepare=prepare, measure=fakes.measure) == 0
        assert [other.wait() for other in others] == [0]
        rows = [one for one in queries.trial_rows(store, 1) if one.state == "done"]
        assert len(rows) == 6 and not requests.asked()
        assert all(one.latency_ms == fakes.latency_ms(one.candidate) for one in rows)
        by = {one.worker_id for one in rows}
        assert len(by) == 3  # of the two first trials, and the two of today
        assert any("leaves latency to workers on" in line.line for line in queries.logs(store, 1))


def test_a_study_that_is_stopped_waits_for_its_latency_or_loses_the_candidate(place: str) -> None:
    with open_store(place) as store:
        joining.allow_unlike(store, 1, "leave")
        requests = Requests.of(store, 1, queries.provenance(store, 1)["device"])
        other = leaving(place)
        wait_for(requests.asked)
        [asked] = requests.asked().values()
        wait_for(lambda: any("waiting for a worker on" in (w.doing or "") for w in queries.workers(store, 1)))
        changes.set_wanted(store, 1, "stop")
        assert other.wait() == 0
        assert [one.state for one in queries.trial_rows(store, 1)] == ["done", "done", "lost"]
        changes.set_wanted(store, 1, "run")
    assert work(place, 6) == 0
    with open_reader(place) as store:
        again = [one.candidate for one in queries.trial_rows(store, 1) if one.slot == 2 and one.state == "done"]
        assert again == [asked] and row(store).failed == 0


def test_what_cannot_be_timed_elsewhere_is_waited_for_for_ever(place: str) -> None:
    with open_store(place) as store:
        joining.allow_unlike(store, 1, "leave")
        requests = Requests.of(store, 1, queries.provenance(store, 1)["device"])
        other = leaving(place)
        wait_for(requests.asked)
        [(key, candidate)] = requests.asked().items()

        def measure(bench: Workbench, student: Student, chosen: Candidate) -> Timed:
            if chosen == candidate:
                raise ValueError("no such kernel")
            return fakes.measure(bench, student, chosen)

        assert run_worker(place, "fake", prepare=fakes.prepare, measure=measure) == 0
        assert other.wait() == 0
        assert requests.answered(key) == {"error": "ValueError: no such kernel"}
        assert row(store).failed == 1
        [failed] = [one.error for one in queries.trial_rows(store, 1) if one.state == "failed"]
        assert failed is not None and "could not be timed on cpu" in failed and "no such kernel" in failed


def test_requests_of_one_study_are_those_of_another(place: str) -> None:
    begin(fakes.spec("other"), place)
    with open_store(place) as store:
        first, other = Requests.of(store, 1, "gpu"), Requests.of(store, 2, "gpu")
        first.ask("k", {"layers": 2})
        first.ask("k", {"layers": 3})
        assert first.asked() == {"k": {"layers": 2}} and not other.asked() and not Requests.of(store, 1, "cpu").asked()
        changes.rename(store, 1, "renamed")
        again = Requests.of(store, 1, "gpu")
        again.answer("k", {"p50": 1.0})
        again.answer("k", {"p50": 2.0})
        assert (first.answered("k"), other.answered("k"), first.asked()) == ({"p50": 2.0}, None, {})
