"""Opens a store: one SQLite file by default, PostgreSQL by its URL; the same code serves both.

Creates the file for its owner only, marks it as kdnas's own, refuses what belongs to another program or to a newer
version, and turns what a database can complain of into one line with the hint. Runs no query of its own beyond that.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import URL, Connection, Engine
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from kdnas.store import addresses, keyring_password, migration, postgres_engine, sides, sqlite_file, tables
from kdnas.store.addresses import store_url
from kdnas.store.complaints import StoreError, explain
from kdnas.store.file_systems import refuse_network_folder
from kdnas.store.patience import Patience
from kdnas.system import interrupts
from kdnas.system.errors import UsageError, first_line

LARGE_LOG = 16 * 2**20  # bytes of a file's log that is brought into the file at the next occasion
PATIENT_MS = 250  # for which that waits for readers; writers wait with it
MOST_LETTERS = 500  # of what a database complains of
_CREATION_LOCK = 0x6B644E41  # PostgreSQL's advisory lock while tables are made


class Store:
    """An open store. `url` may hold a password: show `place` instead."""

    def __init__(self, url: URL, engine: Engine, read_only: bool, given: URL | None = None) -> None:
        """`given` is the address as people know it, where `url` has more."""
        self.url = url.render_as_string(hide_password=False)
        self.place = addresses.shown(given or url)
        self._secrets = addresses.secrets(url)
        self.path = Path(str(url.database)) if url.get_backend_name() == "sqlite" else None
        self.engine = engine
        self.read_only = read_only
        self.patience: Patience | None = None  # what becomes of those who ask while it is away
        self._file = self._identity()
        self._watch: sa.PoolProxiedConnection | None = None
        self._watch_lock = threading.Lock()

    @property
    def is_sqlite(self) -> bool:
        return self.path is not None

    def _identity(self) -> tuple[int, int] | None:
        """Device and inode of the file; None where there is none."""
        try:
            found = None if self.path is None else self.path.stat()
        except OSError:
            return None
        return None if found is None else (found.st_dev, found.st_ino)

    def require_there(self) -> None:
        """Raises StoreError where the file that was opened is no longer the one under its name: what is written goes
        nowhere then."""
        if self._file is not None and self._identity() != self._file:
            raise StoreError(
                f"The store {self.place} was deleted or replaced while it was in use.",
                "Put it back, or begin the study again; what was not in it is lost.",
            )

    @contextlib.contextmanager
    def connect(self) -> Iterator[Connection]:
        """One consistent look at the store. An interrupt waits for its end, here and in `begin`: between two lines of
        SQLAlchemy it may leave a transaction open, and its locks held."""
        with self.explained(), interrupts.deferred(), self.engine.connect() as connection:
            yield connection

    @functools.cached_property
    def _looking(self) -> Engine:
        return self.engine if self.is_sqlite else self.engine.execution_options(isolation_level="AUTOCOMMIT")

    @contextlib.contextmanager
    def look(self) -> Iterator[Connection]:
        """For single statements that read: as `connect`, but on a server each is a transaction of its own, which takes
        a third of the messages."""
        with self.explained(), interrupts.deferred(), self._looking.connect() as connection:
            yield connection

    @contextlib.contextmanager
    def begin(self) -> Iterator[Connection]:
        """One writing transaction; on SQLite it takes the write lock at once, so that what it reads stays true."""
        if self.read_only:
            raise UsageError(f"The store {self.place} was opened for reading only.", "Open it for writing.")
        with self.explained(), interrupts.deferred(), self.engine.connect() as connection:
            connection.execution_options(kdnas_immediate=True)
            with connection.begin():
                yield connection

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """What the database complains of inside becomes a StoreError with the hint."""
        try:
            yield
        except (SQLAlchemyError, self.engine.dialect.loaded_dbapi.Error) as error:
            # The latter from connections that are used directly.
            raise self.complaint(error) from error
        except (json.JSONDecodeError, RecursionError) as error:
            raise StoreError(
                f"A row of the store {self.place} is damaged: {getattr(error, 'msg', first_line(error))}.",
                "See which with `kdnas doctor --store`.",
            ) from error

    def complaint(self, error: BaseException) -> StoreError:
        """What the database says, as a line; a file that is gone comes before whatever SQLite makes of it."""
        try:
            self.require_there()
        except StoreError as gone:
            return gone
        found = explain(error, self.place)
        problem = addresses.without(found.problem, self._secrets)
        if len(problem) > MOST_LETTERS:  # a server repeats whatever it was given
            problem = problem[: MOST_LETTERS - 1] + "…"
        return StoreError(problem, found.hint, passes=found.passes)

    @contextlib.contextmanager
    def watching(self) -> Iterator[Any]:
        """The one DBAPI connection kept for noticing changes, for one thread at a time."""
        with self._watch_lock, self.explained():
            if self._watch is None:
                self._watch = self.engine.raw_connection()
            yield self._watch.driver_connection

    def settle(self) -> None:
        """Brings a file's log into the file, so that whoever copies it has all of it. Waits for nobody: what a reader
        still needs of the log stays in it."""
        self._write_back(0)

    def trim(self) -> None:
        """Does the same where the log has grown large, and waits a moment for those who look at it. SQLite begins a log
        anew only in a moment in which nobody reads, and several busy workers leave none for hours."""
        if self.path is not None and sides.log_bytes(self.path) > LARGE_LOG:
            self._write_back(PATIENT_MS)

    def _write_back(self, patient_ms: int) -> None:
        if self.is_sqlite and not self.read_only:
            with contextlib.suppress(StoreError), self.explained(), self.engine.connect() as connection:
                cursor = connection.connection.cursor()
                cursor.execute(f"PRAGMA busy_timeout={patient_ms}")
                cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").close()
                connection.invalidate()  # with its time-out

    def close(self) -> None:
        with self._watch_lock:
            if self._watch is not None:
                self._watch.close()
                self._watch = None
        self.engine.dispose()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Store({self.place})"


def open_store(url: str | Path, *, create: bool = False) -> Store:
    """The store at a URL or path, for reading and writing; `create` makes it where there is none.

    Raises UsageError for one that is missing, locked, read-only, damaged, full, another program's or a newer version's.
    """
    address = store_url(url)
    if address.get_backend_name() == "sqlite":
        return _open_sqlite(address, create)
    store = _postgres_store(address, read_only=False)
    with _closing_on_error(store):
        with store.connect() as connection:
            known = sa.inspect(connection).has_table("kdnas_meta")
        if not known:
            if not create:
                raise sqlite_file.NoStoreError(store.place)
            with creation_lock(store), store.begin() as connection:
                migration.make_tables(connection)
        if _is_older(store):
            _bring_up(store)
    return store


def reader_if_there(url: str | Path) -> Store | None:
    """As `open_reader`; None where nobody has begun a study there yet: a server's database or a file may be empty."""
    try:
        return open_reader(url)
    except (sqlite_file.NoStoreError, sqlite_file.EmptyFileError):
        return None


def open_reader(url: str | Path) -> Store:
    """The store for reading only: nothing done with it can change a byte. Raises UsageError as `open_store` does."""
    address = store_url(url)
    if address.get_backend_name() != "sqlite":
        store = _postgres_store(address, read_only=True)
        with _closing_on_error(store):
            with store.connect() as connection:
                known = sa.inspect(connection).has_table("kdnas_meta")
            if not known:
                raise sqlite_file.NoStoreError(store.place)
            _require_readable(store)
        return store
    path = sqlite_file.path_of(address)
    sqlite_file.require_database(path)
    store = Store(address, sqlite_file.engine_of(path, mode="ro"), read_only=True)
    try:
        _check_ours(store)
        _require_readable(store)
    except UsageError as error:
        store.close()
        # A file in WAL mode needs its shared-memory file; where the folder forbids one, nobody can write either.
        if os.access(path.parent, os.W_OK) or not isinstance(error.__cause__, DBAPIError):
            raise
        store = Store(address, sqlite_file.engine_of(path, mode="ro", immutable=True), read_only=True)
        with _closing_on_error(store):
            _check_ours(store)
            _require_readable(store)
    return store


def clock(connection: Connection) -> float:
    """UTC seconds by the clock that all who use the store share: the server's, or this machine's for a file."""
    if connection.dialect.name == "sqlite":
        return time.time()
    return float(connection.execute(sa.select(clock_column(connection.dialect.name))).scalar_one())


def clock_column(dialect: str) -> sa.ColumnElement[float]:
    """The same as a column, for a statement that asks for more."""
    if dialect == "sqlite":
        return sa.bindparam("clock", callable_=lambda: time.time(), type_=sa.Float, unique=True)
    return sa.cast(sa.extract("epoch", sa.func.clock_timestamp()), sa.Float)


@contextlib.contextmanager
def creation_lock(store: Store) -> Iterator[None]:
    """Held by whoever makes tables, so that processes that start at the same moment wait for each other."""
    if store.path is not None:
        with sqlite_file.file_lock(store.path):
            yield
    else:
        with store.connect() as connection:
            connection.execute(sa.text("SELECT pg_advisory_lock(:key)"), {"key": _CREATION_LOCK})
            try:
                yield
            finally:
                connection.execute(sa.text("SELECT pg_advisory_unlock(:key)"), {"key": _CREATION_LOCK})


# ---------------------------------------------------------------------------- SQLite


def _open_sqlite(address: URL, create: bool) -> Store:
    path = sqlite_file.path_of(address)
    made = False
    if not path.exists():
        if not create:
            raise sqlite_file.NoStoreError(path)
        refuse_network_folder(path.parent)
        sides.require_own(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError):
                os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
                made = True
        except OSError as error:
            raise sqlite_file.cannot_open(path, error) from None
    if create and path.is_file() and path.stat().st_size == 0:
        with sqlite_file.file_lock(path):
            if path.is_file() and path.stat().st_size == 0:
                try:
                    refuse_network_folder(path.parent)
                    sides.require_own(path)
                    sqlite_file.fill_new_file(path)
                except BaseException:
                    if made:  # no empty store stays behind
                        path.unlink(missing_ok=True)
                    raise
    sqlite_file.require_database(path)
    sides.require_own(path)
    # Looked at through a connection that cannot write, so that another program's file stays as it is.
    with Store(address, sqlite_file.engine_of(path, mode="ro"), read_only=True) as look:
        _check_ours(look)
        older = _is_older(look)
    refuse_network_folder(path.parent)
    if not os.access(path, os.W_OK) or not os.access(path.parent, os.W_OK):
        raise UsageError(
            f"The store {path} may only be read by you.",
            "Ask its owner for the right to write, or give another --storage.",
        )
    store = Store(address, sqlite_file.engine_of(path, mode="rw"), read_only=False)
    with _closing_on_error(store):
        with store.connect() as connection:
            connection.execute(sa.text("SELECT 1"))
        if older:
            _bring_up(store)
    return store


def _check_ours(store: Store) -> None:
    with store.connect() as connection:
        mark = connection.exec_driver_sql("PRAGMA application_id").scalar_one()
    if mark != tables.APPLICATION_ID:
        raise UsageError(
            f"The file {store.place} belongs to another program; it was left as it is.", "Give another --storage."
        )


# ---------------------------------------------------------------------------- both


def _postgres_store(given: URL, *, read_only: bool) -> Store:
    address = keyring_password.completed(given)
    return Store(address, postgres_engine.engine_of(address, read_only=read_only), read_only, given)


def _require_readable(store: Store) -> None:
    """Raises UsageError for tables of a version that this kdnas cannot read as they are."""
    if _version(store) < tables.READABLE_SINCE:
        raise migration.older(store.place)


def _is_older(store: Store) -> bool:
    """Whether its tables are of an earlier version. Raises UsageError for a newer one."""
    return _version(store) < tables.SCHEMA_VERSION


def _version(store: Store) -> int:
    with store.connect() as connection:
        return migration.version_of(connection, store.place)


def _bring_up(store: Store) -> None:
    with creation_lock(store), store.begin() as connection:
        migration.bring_up(connection, store.place, clock(connection))


@contextlib.contextmanager
def _closing_on_error(store: Store) -> Iterator[None]:
    try:
        yield
    except BaseException:
        store.close()
        raise
