"""A store of an earlier version: brought up to date half, twice, under working workers, or never."""

from __future__ import annotations

import gzip
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.script import ScriptDirectory

from kdnas.search.worker import run_worker
from kdnas.store import campaigns, migration, queries, tables
from kdnas.store.copies import copy
from kdnas.store.database import open_reader, open_store
from kdnas.store.studies import enter, leave
from kdnas.study.campaign_spec import campaign_from
from kdnas.system.errors import UsageError
from tests import fakes
from tests.search.test_earlier_stores import EARLIER, on_any_device
from tests.store.revised import NEXT, next_version, version_of


@pytest.fixture
def earlier(address: str, tmp_path: Path) -> str:
    """A store of version 1, in the midst of a study whose worker was killed."""
    path = Path(tmp_path / "earlier.db" if "://" in address else address)
    path.write_bytes(gzip.decompress((EARLIER / "half-finished-lstm.db.gz").read_bytes()))
    path.chmod(0o600)
    if "://" in address:
        with open_store(path) as source, open_store(address) as target:
            copy(source, target)
            later = [table for name, table in tables.metadata.tables.items() if name.startswith("kdnas_campaign")]
            tables.metadata.drop_all(target.engine, later)
            with target.begin() as connection:  # version 1 had all but these
                connection.execute(tables.meta.update().where(tables.meta.c.key == "schema_version").values(value="1"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "SCHEMA_VERSION", 1)
        on_any_device(address)
    return address


def test_every_version_has_its_revision_and_the_last_one_is_ours() -> None:
    scripts = ScriptDirectory(str(migration.REVISIONS), version_locations=[str(migration.REVISIONS)])
    known = [script.revision for script in scripts.walk_revisions()]
    assert known == [str(version) for version in range(tables.SCHEMA_VERSION, 0, -1)]


def test_an_earlier_store_does_not_go_on_or_loses_something(
    earlier: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "SCHEMA_VERSION", 1)
    with open_reader(earlier) as store:
        assert version_of(store) == ("1", False, False)
        before = queries.trial_rows(store, 1)
    next_version(tmp_path, monkeypatch)
    with pytest.raises(UsageError, match="written by an older kdnas, and is only read here"):
        open_reader(earlier)
    with open_store(earlier) as store:
        assert version_of(store) == (str(NEXT), True, True)
        assert queries.trial_rows(store, 1) == before
        with store.connect() as connection:
            assert connection.exec_driver_sql("SELECT DISTINCT rack FROM kdnas_worker").scalar_one() == "first"
            noted = connection.exec_driver_sql(f"SELECT version_num FROM {migration.VERSION_TABLE}").scalar_one()
            assert noted == str(NEXT)
            if store.is_sqlite:
                assert connection.exec_driver_sql("PRAGMA integrity_check").scalar_one() == "ok"
    assert run_worker(earlier, "fake", prepare=fakes.prepare, measure=fakes.measure) == 0
    with open_reader(earlier) as store:
        done = [row for row in queries.trial_rows(store, 1) if row.state == "done"]
    found = [{"slot": r.slot, "candidate": dict(r.candidate), "loss": r.loss, "reward": r.reward} for r in done]
    assert found == json.loads((EARLIER / "half-finished-lstm.json").read_text())
    monkeypatch.setattr(tables, "SCHEMA_VERSION", 1)  # the kdnas of before meets it
    for opened in (open_store, open_reader):
        with pytest.raises(UsageError, match=rf"newer kdnas .its version is {NEXT}, this one knows 1"):
            opened(earlier)


def test_a_migration_that_fails_leaves_half_of_it(
    earlier: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    next_version(tmp_path, monkeypatch, "op.execute('SELECT * FROM nowhere')")
    with pytest.raises(UsageError, match="nowhere"):
        open_store(earlier)
    monkeypatch.setattr(tables, "SCHEMA_VERSION", 1)
    monkeypatch.setattr(tables, "READABLE_SINCE", 1)
    with open_reader(earlier) as store:
        assert version_of(store) == ("1", False, False)
    next_version(tmp_path, monkeypatch)
    with open_store(earlier) as store:
        assert version_of(store) == (str(NEXT), True, True)


def test_several_that_open_an_earlier_store_at_once_migrate_it_twice(
    earlier: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    next_version(tmp_path, monkeypatch)

    def opened(_: int) -> tuple[str, bool, bool]:
        with open_store(earlier) as store:
            return version_of(store)

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(opened, range(4))) == {(str(NEXT), True, True)}


def test_tables_change_under_a_worker(earlier: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "SCHEMA_VERSION", 1)
    with open_store(earlier) as store:
        worker = enter(store, 1, lock=None, device=None, task="search")
        next_version(tmp_path, monkeypatch)
        with pytest.raises(UsageError, match=r"older kdnas, 1 worker\(s\) of which may still be at work"):
            open_store(earlier)
        assert version_of(store) == ("1", False, False)
        leave(store, 1, worker, device=None, error=None)
    with open_store(earlier) as store:
        assert version_of(store) == (str(NEXT), True, True)


def test_a_store_of_before_campaigns_holds_none_and_knows_its_studies_no_more(earlier: str) -> None:
    with open_reader(earlier) as store:  # which is read as it is, and stays so
        assert version_of(store)[0] == "1" and [row.name for row in queries.study_rows(store)] == ["fake"]
        assert campaigns.campaign_rows(store) == [] and campaigns.campaign_of_study(store, "fake") is None
    with open_store(earlier) as store:
        assert version_of(store)[0] == str(tables.SCHEMA_VERSION)
        assert campaigns.campaign_rows(store) == []
        spec = campaign_from(
            {"name": "c", "task": {"source": "x.csv"}, "budget": {"trials": 5}, "members": {"a": {}, "b": {}}}
        )
        assert [member.study for member in campaigns.begin_campaign(store, spec, "/c").members] == ["c-a", "c-b"]
        assert [row.name for row in queries.study_rows(store)] == ["fake"]
        with store.connect() as connection:
            look = sa.inspect(connection)
            there = {name: look.get_columns(name) for name in look.get_table_names()}
        for table in (t for t in tables.metadata.tables.values() if t.name.startswith("kdnas_campaign")):
            assert [c["name"] for c in there[table.name]] == [c.name for c in table.columns]


def test_a_new_store_has_a_version_that_it_is_not_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_store(tmp_path / "new.db", create=True) as store:
        assert version_of(store) == (str(tables.SCHEMA_VERSION), False, False)
