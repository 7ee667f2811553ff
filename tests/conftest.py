"""Every test has folders of its own, so that none meets the user's studies, settings or locks.

One thread for each process, and before anything imports torch: tests run side by side, one process for each core, and
threads of tiny models cost more in waiting than they compute. Child processes inherit it.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import itertools
import os
import re
import shutil
import signal
import sqlite3
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings

from tests.outside import Outside
from tests.postgres import BOTH, EmptyStore, Server, running

# A busy machine is slow to make inputs; that is no fault of what is tested.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
# Of `make mutants`: the same few inputs for every planted fault, and no search for a smaller one once a fault is found.
settings.register_profile(
    "mutants",
    settings.get_profile("patient"),
    max_examples=15,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "patient"))

for _library in ("OMP", "MKL", "OPENBLAS"):
    os.environ[f"{_library}_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"  # a forked process would wait for the threads of a pool it lacks

# Compiled modules are kept, whatever the shell says: else each of the many processes compiles all of kdnas again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False


@pytest.fixture(scope="session")
def numbered_places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder that no test has had. pytest's own way looks through the folders of all earlier tests for each."""
    whole = tmp_path_factory.mktemp("places")
    return (whole / str(number) for number in itertools.count())


@pytest.fixture(autouse=True)
def own_places(numbered_places: Iterator[Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = next(numbered_places)
    folder.mkdir()
    monkeypatch.setenv("KDNAS_STATE", str(folder / "state"))
    monkeypatch.setenv("KDNAS_CONFIG", str(folder / "config"))
    monkeypatch.delenv("KDNAS_STORAGE", raising=False)
    return folder


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty cache, and no hub."""
    monkeypatch.setenv("KDNAS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(autouse=True, scope="session")
def _migrations_read_once() -> Iterator[None]:
    """Optuna executes the files of all its migrations at each look for the newest: most of what a new store takes."""
    from optuna.storages._rdb.storage import _VersionManager

    read, known = _VersionManager._create_alembic_script, []

    def remembered(manager: Any) -> Any:
        if not known:
            known.append(read(manager))
        return known[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_VersionManager, "_create_alembic_script", remembered)
        yield


@pytest.fixture(autouse=True, scope="session")
def _statements_compiled_once() -> Iterator[None]:
    """Each of a test's stores has engines of its own, which compile the same statements anew: a third of what a search
    of a few trials takes. All of SQLite's are alike, and all of PostgreSQL's, and share what they have compiled."""
    from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
    from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
    from sqlalchemy.engine import Engine
    from sqlalchemy.util import LRUCache

    begin, known = Engine.__init__, {kind: LRUCache(5_000) for kind in (SQLiteDialect_pysqlite, PGDialect_psycopg)}

    def sharing(engine: Any, *given: Any, **named: Any) -> None:
        begin(engine, *given, **named)
        if type(engine.dialect) in known:
            engine._compiled_cache = known[type(engine.dialect)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "__init__", sharing)
        for kind in known:  # a statement is looked up by its dialect, among others
            patch.setattr(kind, "__hash__", lambda one: hash(type(one)))
            patch.setattr(kind, "__eq__", lambda one, other: type(one) is type(other))
        yield


@pytest.fixture(autouse=True, scope="session")
def _nothing_waits_for_the_disk() -> Iterator[None]:
    """No test cuts the power, and what a killed process has written is there at once; to have each commit and file on
    the disk took ten milliseconds and more."""
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    from kdnas.store import sqlite_file

    settings_of = sqlite_file.on_connect

    def unsynced(connection: Any) -> None:
        with contextlib.suppress(sqlite3.Error):  # whoever asks next is told what is wrong with the file
            connection.execute("PRAGMA synchronous=OFF").close()

    @functools.wraps(settings_of)
    def settled(connection: Any, *given: Any) -> None:
        settings_of(connection, *given)
        unsynced(connection)

    def connected(dialect: Any, _record: Any, given: list[Any], named: dict[str, Any]) -> Any:
        if dialect.name != "sqlite" or "mode=ro" in str(given[0]):
            return None
        connection = dialect.connect(*given, **named)
        unsynced(connection)
        return connection

    event.listen(Engine, "do_connect", connected)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        patch.setattr(sqlite_file, "on_connect", settled)
        yield
    event.remove(Engine, "do_connect", connected)


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Of the tiny encoder."""
    from transformers import AutoTokenizer

    from tests.encoders import tiny_encoder

    return AutoTokenizer.from_pretrained(tiny_encoder(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="session")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outside]:
    made = Outside(tmp_path_factory.mktemp("outside"))
    yield made
    made.close()


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, Any, Any]:
    """Nothing that is imported here is ever garbage: looking for some among it takes a fifth of a second each time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()
        # What tests load later is never garbage either, and looking through it took an eighth of their time.
        gc.set_threshold(20_000, 20, 20)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.get_closest_marker("heavy") is None)


def pytest_configure() -> None:
    """A shell that starts us in the background ignores Ctrl-C, and children would inherit that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--none-skipped", action="store_true", help="Fail where a test was skipped, unless it needs a GPU."
    )


def pytest_sessionfinish(session: pytest.Session) -> None:
    """With --none-skipped, a part that did not run is a failure, and its reason is named."""
    terminal = session.config.pluginmanager.get_plugin("terminalreporter")
    if terminal is None or not session.config.getoption("none_skipped"):
        return
    skipped = [(one.nodeid, str(one.longrepr[-1])) for one in terminal.stats.get("skipped", [])]
    wanted = [(name, reason) for name, reason in skipped if not re.search("GPU|CUDA", reason)]
    for name, reason in wanted:
        terminal.write_line(f"\nMust not be skipped here: {name}: {reason}", red=True)
    if wanted and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="session")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store without studies: copied, since making Optuna's tables takes most of a second."""
    from kdnas.store.database import open_store
    from kdnas.store.optuna_storage import optuna_storage

    path = tmp_path_factory.mktemp("empty") / "kdnas.db"
    with open_store(path, create=True) as opened:
        optuna_storage(opened).engine.dispose()
    return path


@pytest.fixture(scope="session")
def whole_server() -> Iterator[Server]:
    with running() as server:
        yield server


@pytest.fixture
def server(whole_server: Server) -> Iterator[Server]:
    """The one PostgreSQL server of this process's tests. A test may stop it."""
    yield whole_server
    if whole_server.process is None:
        whole_server.start()


@pytest.fixture(scope="session")
def empty_store(whole_server: Server) -> EmptyStore:
    return EmptyStore(whole_server)


@pytest.fixture(params=BOTH)
def address(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The address of a store without studies, on each kind of database in turn."""
    if request.param == "sqlite":
        yield str(shutil.copy(request.getfixturevalue("empty"), tmp_path / "kdnas.db"))
        return
    store: EmptyStore = request.getfixturevalue("empty_store")
    with store.lent() as url:
        yield url
