"""What is of PostgreSQL alone, and whole searches there; most tests of the store run on both kinds (`address`)."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import optuna
import pytest

from kdnas.search import joining, warm_start
from kdnas.search.begin import begin
from kdnas.search.heartbeat import ASK_S
from kdnas.search.worker import run_worker
from kdnas.store import changes, ends, patience, queries, tables
from kdnas.store.copies import copy
from kdnas.store.database import open_reader, open_store, reader_if_there
from kdnas.store.optuna_storage import optuna_storage
from kdnas.store.studies import create_study, delete_study
from kdnas.study.campaign_rows import CampaignStatus
from kdnas.study.rows import Status
from kdnas.system import moments
from kdnas.system.errors import BadOptionError, UsageError
from kdnas_tui.feed import Feed
from tests import fakes
from tests.campaigns import two_classes
from tests.encoders import tiny_encoder
from tests.forks import Forked
from tests.postgres import EmptyStore, Server, needs_server
from tests.search.asked import long_study, waited
from tests.search.test_joining import leaving, wait_for
from tests.store.revised import LAST, NEXT, next_version, version_of

pytestmark = needs_server


@pytest.fixture
def url(empty_store: EmptyStore) -> Iterator[str]:
    with empty_store.lent() as url:
        yield url


@pytest.fixture
def bare(server: Server) -> Iterator[str]:
    """The address of a database without tables."""
    server.sql("CREATE DATABASE bare")
    yield server.url("bare")
    server.sql("DROP DATABASE bare WITH (FORCE)")


def told(url: str) -> list[tuple[Any, ...]]:
    with open_reader(url) as store:
        rows = [r for r in queries.trial_rows(store, 1) if r.state in ("done", "pruned")]
    return sorted((r.slot, str(r.candidate), r.state, r.loss, r.reward) for r in rows)


def test_a_study_runs_as_it_does_on_sqlite(url: str, tmp_path: Path) -> None:
    spec = fakes.spec(strategy={"name": "tpe", "startup": 3}, budget={"trials": 6, "epochs": 2, "pruner": "median"})
    for place in (url, str(tmp_path / "kdnas.db")):
        begin(spec, place)
        assert run_worker(place, "fake", prepare=fakes.prepare, measure=fakes.measure) == 0
    assert told(url) == told(str(tmp_path / "kdnas.db"))
    with open_store(url) as store:
        study = optuna.load_study(study_name="fake", storage=optuna_storage(store))
        assert len(study.trials) == 6
        assert queries.study_row(store, "fake").status == Status.FINISHED


def test_a_study_ends_by_the_servers_clock(url: str) -> None:
    begun: list[object] = []

    def trouble(candidate: object) -> None:
        begun.append(candidate)
        if len(begun) == 3:
            with open_store(url) as other:
                ends.set_end(other, 1, ends.now(other))

    spec = fakes.spec(budget={"trials": None, "epochs": 1, "hours": 5})
    begin(spec, url)
    assert run_worker(url, "fake", prepare=lambda s, *_: fakes.FakeBench(s, trouble), measure=fakes.measure) == 0
    with open_store(url) as store:
        row = queries.study_row(store, "fake")
        assert (row.status, row.done, row.trials, row.open) == (Status.FINISHED, 3, 3, True)
        [first, _] = [event.detail for event in queries.events(store, 1) if event.kind == "time"]
        assert abs(moments.of_utc_text(first["to"]) - 5 * 3600 - row.created) < 600


def test_the_controllers_episodes_run_there_too(url: str) -> None:
    spec = fakes.spec(strategy={"name": "lstm", "episodes": 2, "samples": 3, "pool": 20}, budget={"trials": 6})
    begin(spec, url)
    run_worker(url, "fake", prepare=fakes.prepare, measure=fakes.measure)
    with open_reader(url) as store:
        assert queries.study_row(store, "fake").done == 6
        assert [row.episode for row in queries.episodes(store, 1)] == [0, 1]


def test_many_workers_share_one_budget_and_a_killed_one_is_made_good(url: str) -> None:
    begin(fakes.spec(budget={"trials": 14}), url)
    pids = []
    for _ in range(3):
        pid = os.fork()
        if pid == 0:
            code = 70
            try:
                code = run_worker(url, "fake", prepare=fakes.prepare, measure=fakes.measure)
            finally:
                os._exit(code)
        pids.append(pid)
    with open_reader(url) as store:
        end = time.monotonic() + 60
        while queries.study_row(store, "fake").done < 3:
            assert time.monotonic() < end
            time.sleep(0.01)
    os.kill(pids[0], signal.SIGKILL)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    assert codes[1:] == [0, 0]
    with open_reader(url) as store:
        row = queries.study_row(store, "fake")
        rows = queries.trial_rows(store, 1)
    assert (row.status, row.done) == (Status.FINISHED, 14)
    states = Counter(r.state for r in rows)
    assert states["done"] == 14
    assert set(states) <= {"done", "lost", "reused"}
    finished = [r for r in rows if r.state == "done"]
    assert len({r.slot for r in finished}) == len({str(r.candidate) for r in finished}) == 14


def test_a_worker_that_waits_for_others_does_not_hear_that_one_asks_for_its_latency(url: str, tmp_path: Path) -> None:
    begin(fakes.spec(budget={"trials": 1}), url)
    run_worker(url, "fake", prepare=fakes.prepare, measure=fakes.measure)
    with open_store(url) as store:
        changes.set_trials(store, 1, 2)
        joining.allow_unlike(store, 1, "leave")
        go = tmp_path / "go"
        other = leaving(url, before_asking=lambda: wait_for(go.exists))
        wait_for(lambda: queries.study_row(store, "fake").running)
        waits = Forked(lambda: run_worker(url, "fake", prepare=fakes.prepare, measure=fakes.measure))
        wait_for(lambda: any(w.doing == "waiting for other workers" for w in queries.workers(store, 1)))
        go.touch()
        assert [other.wait(), waits.wait()] == [0, 0]
        [row] = [row for row in queries.trial_rows(store, 1) if row.slot == 1]
        assert (row.state, row.latency_ms) == ("done", fakes.latency_ms(row.candidate))


def test_many_first_starts_at_once_make_one_store(bare: str) -> None:
    def start(n: int) -> int:
        with open_store(bare, create=True) as store:
            return create_study(store, fakes.spec(f"study-{n % 2}"))

    with ThreadPoolExecutor(4) as pool:
        ids = list(pool.map(start, range(4)))
    assert len(set(ids)) == 2


def test_a_server_that_was_restarted_is_used_again(url: str, server: Server) -> None:
    begin(fakes.spec(budget={"trials": 2}), url)
    with open_store(url) as store:
        assert queries.study_row(store, "fake").status == Status.NEW
        server.stop()
        with pytest.raises(UsageError, match="does not answer"), open_store(url):
            pass
        server.start()
        changes.set_wanted(store, 1, "pause")
        assert queries.study_row(store, "fake").status == Status.PAUSED


def test_a_server_that_is_away_while_a_candidate_trains_costs_nothing(
    url: str, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(fakes.spec(budget={"trials": 3, "epochs": 2}), url)
    begun: list[Any] = []
    pauses: list[float] = []

    def trouble(candidate: Any) -> None:
        begun.append(candidate)
        if len(begun) == 2:
            server.stop()

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            server.start()

    monkeypatch.setattr(patience, "pause", pause)
    prepare = lambda spec, *_: fakes.FakeBench(spec, trouble)  # noqa: E731
    assert run_worker(url, "fake", prepare=prepare, measure=fakes.measure) == 0
    assert (len(begun), len(pauses) >= 3) == (3, True)
    with open_reader(url) as store:
        assert queries.study_row(store, "fake").status == Status.FINISHED
        assert [row.state for row in queries.trial_rows(store, 1)] == ["done"] * 3
        assert any("answers again" in row.line for row in queries.logs(store, 1))


def test_a_backup_to_a_file_and_back(url: str, server: Server, tmp_path: Path) -> None:
    begin(fakes.spec(strategy={"name": "nsga2", "population": 2}, budget={"trials": 5}), url)
    run_worker(url, "fake", prepare=fakes.prepare, measure=fakes.measure)
    path = tmp_path / "backup.db"
    with open_reader(url) as source, open_store(path, create=True) as target:
        copy(source, target)
    with open_store(url) as store:
        delete_study(store, "fake")
        with open_reader(path) as source:
            copy(source, store)
        assert queries.study_row(store, "fake").done == 5
        changes.set_trials(store, queries.study_row(store, "fake").study_id, 7)
    assert run_worker(url, "fake", prepare=fakes.prepare, measure=fakes.measure) == 0


def test_a_store_of_an_earlier_version_does_not_go_on(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(fakes.spec(budget={"trials": 4}), url)
    next_version(tmp_path, monkeypatch, "op.execute('SELECT * FROM nowhere')")
    with pytest.raises(UsageError, match="nowhere"):
        open_store(url)
    for name in ("SCHEMA_VERSION", "READABLE_SINCE"):
        monkeypatch.setattr(tables, name, LAST)
    with open_reader(url) as store:
        assert version_of(store) == (str(LAST), False, False)
    next_version(tmp_path, monkeypatch)
    with open_store(url) as store:
        assert version_of(store) == (str(NEXT), True, True)
    assert run_worker(url, "fake", prepare=fakes.prepare, measure=fakes.measure) == 0
    assert len(told(url)) == 4


def test_deleting_leaves_no_row_in_either_side(url: str) -> None:
    begin(fakes.spec(budget={"trials": 2}), url)
    run_worker(url, "fake", prepare=fakes.prepare, measure=fakes.measure)
    with open_store(url) as store:
        delete_study(store, "fake")
        with store.connect() as connection:
            for table in ("studies", "trials", "kdnas_study", "kdnas_trial", "kdnas_slot", "kdnas_log"):
                assert connection.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar_one() == 0, table


def test_a_reader_sees_changes_and_cannot_write(url: str) -> None:
    begin(fakes.spec(), url)
    with open_reader(url) as watching, open_store(url) as writing:
        seen = queries.changed(watching)
        assert queries.changed(watching) == seen
        changes.add_log(writing, 1, "info", "news")
        assert queries.changed(watching) != seen
        with pytest.raises(UsageError, match="may only be read"), watching.connect() as connection:
            connection.exec_driver_sql("DELETE FROM kdnas_log")


def test_a_reader_looks_in_another_schema_than_its_address_says(bare: str, server: Server) -> None:
    server.sql("CREATE SCHEMA own", "bare")
    address = f"{bare}?options=-csearch_path%3Down"
    with open_store(address, create=True) as store:
        create_study(store, fakes.spec("there"))
    with open_reader(address) as store:
        assert [row.name for row in queries.study_rows(store)] == ["there"]
        with pytest.raises(UsageError, match="may only be read"), store.connect() as connection:
            connection.exec_driver_sql("DELETE FROM kdnas_log")
    with pytest.raises(UsageError, match="There is no store at"):
        open_reader(bare)


def test_what_an_address_asks_of_its_connections_is_dropped(bare: str) -> None:
    for asked in ("connect_timeout=x", "keepalives_idle=x"):
        with pytest.raises(UsageError, match=asked.partition("=")[0]):
            open_reader(f"{bare}?{asked}")


def test_a_database_that_is_not_there_or_not_a_store(bare: str, server: Server) -> None:
    with pytest.raises(UsageError, match="There is no store at"):
        open_store(bare)
    with pytest.raises(UsageError, match="nowhere"):
        open_store(server.url("nowhere"))


def test_the_first_search_on_a_server_finds_no_store_to_look_for_its_study_in(bare: str) -> None:
    from kdnas.cli.search import _begin

    with pytest.raises(UsageError, match="There is no store at"):
        open_reader(bare)
    assert reader_if_there(bare) is None
    row = _begin(bare, fakes.spec().model_dump(mode="json"), {}, check=False)
    assert (row.name, row.status) == ("fake", Status.NEW)
    there = reader_if_there(bare)
    assert there is not None
    with there as store:
        assert queries.find_study(store, "fake") == row


CAMPAIGN = """
name = "c"
device = "cpu"
[task]
source = 'rows.csv'
label_column = "label"
length = 16
max_held_out = 24
[budget]
trials = 10
[latency]
length = 16
[members.one]
teacher = {model = 'bert'}
[members.other]
teacher = {model = 'roberta'}
"""


def test_a_campaign_makes_a_store_on_a_server_before_it_begins_or_begins_none(
    bare: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kdnas.cli.campaign import _begun, _found

    monkeypatch.chdir(tmp_path)
    for family in ("bert", "roberta"):
        tiny_encoder(tmp_path / family, family)
    two_classes.write(tmp_path / "rows.csv")
    Path("c.toml").write_text(CAMPAIGN)
    planned = _begun(bare, "c.toml", None, only_plan=True)
    assert reader_if_there(bare) is None
    row = _begun(bare, "c.toml", None, only_plan=False)
    assert row.status is CampaignStatus.NEW and [one.name for one in row.members] == ["one", "other"]
    assert (row.spec, row.folder) == (planned.spec, planned.folder)
    assert _found(bare, "c") == row == _begun(bare, "c.toml", None, only_plan=False)


def test_who_looks_at_a_server_before_the_first_study_is_refused_or_makes_a_store(bare: str) -> None:
    asked = fakes.spec(strategy={"name": "auto"})
    dimensions = {one.name: one.choices for one in fakes.SPACE.dimensions}
    assert warm_start.notes(asked, dimensions, bare) == ()
    lent = asked.model_copy(update={"like": "nobody"})
    for ask in (lambda: begin(lent, bare), lambda: warm_start.notes(lent, dimensions, bare)):
        with pytest.raises(BadOptionError, match="there is no store yet"):
            ask()
    feed = Feed(bare, lambda: None)
    feed.tick()
    news = feed.take()
    assert news is not None and (news.studies, news.campaigns, news.error) == ([], [], None)
    assert reader_if_there(bare) is None


def test_a_worker_that_cannot_listen_asks_more_than_once_a_second(url: str) -> None:
    asked, looks = waited(url, long_study(url), lambda *_: None)
    assert looks.seconds == {ASK_S}
    assert asked.count("SELECT") == looks.done and not asked.of_trials
