"""Opening a store: what it makes, what it refuses, and that refusing leaves every byte as it was."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from kdnas.store import changes, queries, sqlite_file
from kdnas.store import tables as t
from kdnas.store.addresses import store_url
from kdnas.store.complaints import StoreError
from kdnas.store.database import Store, open_reader, open_store, reader_if_there
from kdnas.store.optuna_storage import optuna_storage
from kdnas.store.studies import create_study
from kdnas.system.errors import UsageError
from tests import fakes


def test_a_new_store_is_its_owners_alone_and_marked(path: Path) -> None:
    open_store(path, create=True).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA application_id").fetchone()[0] == t.APPLICATION_ID
        version = connection.execute("SELECT value FROM kdnas_meta WHERE key = 'schema_version'").fetchone()[0]
        assert version == str(t.SCHEMA_VERSION)


def test_writers_use_wal_normal_and_foreign_keys_on_both_sides(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = sqlite_file.on_connect.__wrapped__  # type: ignore[attr-defined] # tests do not wait for the disk
    monkeypatch.setattr(sqlite_file, "on_connect", own)
    with open_store(path, create=True) as store:
        create_study(store, fakes.spec())
        for engine in (store.engine, optuna_storage(store).engine):
            with engine.connect() as connection:
                settings = [
                    connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
                    for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
                ]
            assert settings == ["wal", 1, 1, 60_000]


def test_a_folder_that_is_missing_is_made(tmp_path: Path) -> None:
    open_store(tmp_path / "a" / "b" / "kdnas.db", create=True).close()
    assert (tmp_path / "a" / "b" / "kdnas.db").exists()


@pytest.mark.parametrize("name", ["a b.db", "50%25.db", "what?.db", "#1.db", "{x}.db", "ü.db"])
def test_any_file_name_works(tmp_path: Path, name: str) -> None:
    with open_store(tmp_path / name, create=True) as store:
        create_study(store, fakes.spec())
        url = store.url
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.endswith(".db")) == [name]
    with open_reader(url) as again:
        assert queries.study_row(again, "fake").trials == 8


def test_without_create_a_missing_store_is_not_made(path: Path) -> None:
    for opener in (open_store, open_reader):
        with pytest.raises(UsageError, match=r"There is no store at .*kdnas.db. Begin a study"):
            opener(path)
    assert not path.exists()


def test_addresses() -> None:
    assert store_url("postgres://me@host/db").drivername == "postgresql+psycopg"
    assert store_url("sqlite:///x.db").database == str(Path.cwd() / "x.db")
    with pytest.raises(UsageError, match="cannot keep its store in 'mysql'"):
        store_url("mysql://host/db")
    with pytest.raises(UsageError, match="names no file"):
        store_url("sqlite://")
    with pytest.raises(UsageError, match="not a URL"):
        store_url("://")


def test_a_password_is_never_shown() -> None:
    with pytest.raises(StoreError) as caught:
        open_store("postgresql://me:secret@127.0.0.1:1/db")
    assert "127.0.0.1:1/db does not answer" in str(caught.value)
    assert "secret" not in str(caught.value)


# ---------------------------------------------------------------------------- what is refused


def refused(path: Path, match: str) -> None:
    """Opening refuses, and changes neither the file nor its neighbours."""
    before = {p: p.read_bytes() for p in path.parent.iterdir() if p.is_file() and not p.name.endswith("-shm")}
    for opener in (open_store, open_reader, lambda p: open_store(p, create=True)):
        with pytest.raises(UsageError, match=match) as caught:
            opener(path)
        assert caught.value.hint
        assert "\n" not in str(caught.value)
    assert before == {p: p.read_bytes() for p in before}


def test_text_is_no_store(path: Path) -> None:
    path.write_text("dear diary, today I searched for a student")
    refused(path, "is not a database")


def test_a_folder_is_no_store(path: Path) -> None:
    path.mkdir()
    with pytest.raises(UsageError, match="is not a file"):
        open_store(path, create=True)


def test_another_programs_database_is_left_as_it_is(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE bookmarks (url TEXT)")
    connection.close()
    refused(path, "belongs to another program")


def test_optunas_own_database_is_left_as_it_is(path: Path) -> None:
    import optuna

    storage = optuna.storages.RDBStorage(f"sqlite:///{path}")
    storage.engine.dispose()
    refused(path, "belongs to another program")


def test_a_newer_version_is_refused(path: Path) -> None:
    open_store(path, create=True).close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE kdnas_meta SET value = '99' WHERE key = 'schema_version'")
    connection.close()
    refused(path, rf"written by a newer kdnas .its version is 99, this one knows {t.SCHEMA_VERSION}.* Update kdnas")


def test_an_optuna_that_is_newer_is_named(path: Path) -> None:
    with open_store(path, create=True) as store:
        create_study(store, fakes.spec())
        with store.begin() as connection:
            connection.exec_driver_sql("UPDATE alembic_version SET version_num = 'v9.9.9'")
        with pytest.raises(StoreError, match=r"written by a newer Optuna|older Optuna"):
            create_study(store, fakes.spec("other"))
        assert [row.name for row in queries.study_rows(store)] == ["fake"]


def filled(path: Path, trials: int = 3000) -> None:
    with open_store(path, create=True) as store:
        create_study(store, fakes.spec(budget={"trials": trials}))
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


def test_a_damaged_file_is_told_from_others(path: Path) -> None:
    filled(path)
    data = bytearray(path.read_bytes())
    data[4096:] = os.urandom(len(data) - 4096)
    path.write_bytes(data)
    refused(path, "is damaged. Nothing was changed")


def test_a_locked_store_says_so_and_is_unharmed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(path, 10)
    monkeypatch.setattr(sqlite_file, "BUSY_S", 0.05)
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    try:
        with open_store(path) as store, pytest.raises(StoreError, match=r"is locked by another program. Close what"):
            changes.set_wanted(store, 1, "pause")
    finally:
        holder.execute("ROLLBACK")
        holder.close()
    with open_reader(path) as store:
        assert queries.events(store, 1)[-1].kind == "created"


def as_nobody(ask: Callable[[], str]) -> str:
    """What a process says whose rights files can deny: root's cannot be denied any."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            said = ask()
        except BaseException as error:
            said = str(error)
        os.write(writing, said.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    return said


def names_by(opener: Callable[[Path], Store], path: Path) -> str:
    with opener(path) as store:
        return str([row.name for row in queries.study_rows(store)])


@pytest.mark.parametrize("folder_mode", [0o755, 0o555])
def test_a_store_that_may_only_be_read(folder_mode: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory() as name:
        monkeypatch.setenv("KDNAS_STATE", f"{name}/state")
        Path(name).chmod(0o755)
        folder = Path(name) / "theirs"
        folder.mkdir()
        filled(folder / "kdnas.db", 10)
        (folder / "kdnas.db").chmod(0o444)
        folder.chmod(folder_mode)
        before = (folder / "kdnas.db").read_bytes()
        said = as_nobody(lambda: names_by(open_store, folder / "kdnas.db"))
        assert said.startswith(f"The store {folder}/kdnas.db may only be read by you. Ask its owner")
        assert as_nobody(lambda: names_by(open_reader, folder / "kdnas.db")) == "['fake']"
        assert (folder / "kdnas.db").read_bytes() == before
        folder.chmod(0o755)


FILL = """
import resource, signal, sys
from kdnas.system.errors import KdnasError
from kdnas.store import changes
from kdnas.store.database import open_store
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with open_store(sys.argv[1]) as store:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
    try:
        for line in range(10_000):
            changes.add_log(store, 1, "info", f"line {line} " + "x" * 2000)
    except KdnasError as error:
        print(line, error)
"""


def test_a_full_disk_keeps_what_was_written(path: Path) -> None:
    filled(path, 10)
    limit = path.stat().st_size + 300_000
    said = subprocess.run(
        [sys.executable, "-c", FILL, str(path), str(limit)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
    )
    line, _, complaint = said.stdout.strip().partition(" ")
    assert complaint.startswith(f"The disk under the store {path} is full or failing. Make room"), said
    with open_store(path) as store:
        assert len(queries.logs(store, 1, limit=100_000)) == int(line)
        with store.connect() as connection:
            assert connection.exec_driver_sql("PRAGMA integrity_check").scalar_one() == "ok"


def test_a_full_disk_at_creation_leaves_an_empty_file_that_the_next_start_fills(path: Path) -> None:
    script = (
        "import resource, signal, sys\n"
        "from kdnas.system.errors import KdnasError\n"
        "from kdnas.store.database import open_store\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))\n"
        "try: open_store(sys.argv[1], create=True)\n"
        "except KdnasError as error: print(error)\n"
    )
    said = subprocess.run(
        [sys.executable, "-c", script, str(path)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
    )
    assert said.stdout.startswith(f"The disk under the store {path} is full"), said
    open_store(path, create=True).close()


def test_network_file_systems_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The kernel mounts no network share for a test: the list of mounts is what is made up, nothing else.
    mounts = [("/", "ext4"), (str(tmp_path / "share"), "nfs4"), (str(tmp_path / "share-not"), "ext4")]
    parts = [type(psutil.disk_partitions(all=True)[0])("x", place, kind, "rw") for place, kind in mounts]
    monkeypatch.setattr(psutil, "disk_partitions", lambda all: parts)
    with pytest.raises(UsageError, match=r"network file system \(nfs4\).*use PostgreSQL"):
        open_store(tmp_path / "share" / "a" / "kdnas.db", create=True)
    open_store(tmp_path / "share-not" / "kdnas.db", create=True).close()


# ---------------------------------------------------------------------------- at the same moment


def test_many_first_starts_at_once_make_one_store(path: Path) -> None:
    barrier = threading.Barrier(6)

    def start(n: int) -> int:
        barrier.wait()
        with open_store(path, create=True) as store:
            return create_study(store, fakes.spec(f"study-{n % 2}"))

    with ThreadPoolExecutor(6) as pool:
        ids = list(pool.map(start, range(6)))
    assert len(set(ids)) == 2
    with open_reader(path) as store:
        assert sorted(row.name for row in queries.study_rows(store)) == ["study-0", "study-1"]


def test_a_reader_sees_each_commit_and_writes_nothing(path: Path) -> None:
    filled(path, 10)
    with open_reader(path) as watching, open_store(path) as writing:
        first = queries.changed(watching)
        assert queries.changed(watching) == first
        changes.add_log(writing, 1, "info", "news")
        assert queries.changed(watching) != first
        with pytest.raises(UsageError, match="reading only"):
            changes.add_log(watching, 1, "info", "never")


def test_the_first_search_on_an_empty_file_begins_there_and_who_only_looks_is_told(tmp_path: Path) -> None:
    from kdnas.cli.search import _begin

    path = tmp_path / "kdnas.db"
    path.touch()
    for look in (open_reader, open_store):
        with pytest.raises(UsageError, match="is empty"):
            look(path)
    assert reader_if_there(path) is None and path.stat().st_size == 0
    row = _begin(str(path), fakes.spec().model_dump(mode="json"), {}, check=False)
    with open_reader(path) as store:
        assert queries.find_study(store, "fake") == row
