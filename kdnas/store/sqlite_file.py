"""What is SQLite's own of a store: a new file for its owner only, the settings of connections, whether a path can be
one."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import URL, Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from kdnas.store import migration, tables
from kdnas.store.complaints import explain
from kdnas.system import locks
from kdnas.system.errors import UsageError
from kdnas.system.paths import private_folder, state_folder

BUSY_S = 60.0  # how long a writer waits for another one


def on_connect(connection: Any, _record: object = None) -> None:
    """Settings of every SQLite connection that may write, Optuna's included."""
    cursor = connection.cursor()
    mode = cursor.execute("PRAGMA journal_mode").fetchone()[0]
    if mode != "wal":
        mode = cursor.execute("PRAGMA journal_mode=WAL").fetchone()[0]
    if mode != "wal":
        raise UsageError(
            f"The store's file system allows only the journal mode {mode!r}; workers would block each other.",
            "Put the store on a local disk, or use PostgreSQL.",
        )
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def engine_of(path: Path, *, mode: str, immutable: bool = False) -> Engine:
    """`mode`: ro to read, rw to write, new for the first transaction of an empty file."""
    query = {"mode": "ro" if mode == "ro" else "rw", "uri": "true"} | ({"immutable": "1"} if immutable else {})
    quoted = str(path).replace("%", "%25").replace("?", "%3f").replace("#", "%23")
    engine = sa.create_engine(
        URL.create("sqlite", database=f"file:{quoted}", query=query), connect_args={"timeout": BUSY_S}
    )

    @sa.event.listens_for(engine, "connect")
    def _settings(connection: Any, record: object) -> None:
        connection.isolation_level = None  # we say BEGIN ourselves
        if mode == "rw":
            on_connect(connection, record)

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        immediate = connection.get_execution_options().get("kdnas_immediate", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")

    return engine


def fill_new_file(path: Path) -> None:
    """Our mark and our tables in one transaction of the default journal, so that they are in the file itself."""
    engine = engine_of(path, mode="new")
    try:
        with engine.connect() as connection:
            connection.execution_options(kdnas_immediate=True)
            with connection.begin():
                connection.exec_driver_sql(f"PRAGMA application_id={tables.APPLICATION_ID}")
                migration.make_tables(connection)
            # Now, while nobody else has it open: later on this needs the file alone. See on_connect.
            connection.connection.cursor().execute("PRAGMA journal_mode=WAL").close()
    except SQLAlchemyError as error:
        with contextlib.suppress(OSError):
            os.truncate(path, 0)  # it was empty before
        raise explain(error, str(path)) from error
    finally:
        engine.dispose()


def path_of(address: URL) -> Path:
    return Path(str(address.database))


class NoStoreError(UsageError):
    """No file is there, or a database without kdnas's tables."""

    def __init__(self, place: str | Path) -> None:
        super().__init__(
            f"There is no store at {place}.", "Begin a study with `kdnas search`, or give another --storage."
        )


class EmptyFileError(UsageError):
    """A file without a byte: a study may begin there, and nothing else is to be had."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"The store {path} is empty.", "Begin a study there with `kdnas search`.")


def cannot_open(path: Path, error: OSError) -> UsageError:
    return UsageError(
        f"The store {path} cannot be opened: {error.strerror}.", "Give a --storage in a folder where you may write."
    )


def require_database(path: Path) -> None:
    """A file that is there, can be read and is not empty. Whether it is a database, SQLite says itself: to open and
    close the file here would take away the locks that SQLite holds on it in this process (so POSIX wants it), and
    another process would then put the log aside under a reader that never hears of it."""
    try:
        found = path.stat()
    except FileNotFoundError:
        raise NoStoreError(path) from None
    except OSError as error:
        raise cannot_open(path, error) from None
    if not stat.S_ISREG(found.st_mode):
        raise UsageError(f"The store {path} is not a file.", "Give the path of a kdnas store.")
    if not os.access(path, os.R_OK):
        raise cannot_open(path, PermissionError(errno.EACCES, os.strerror(errno.EACCES)))
    if not found.st_size:
        raise EmptyFileError(path)


@contextlib.contextmanager
def file_lock(path: Path) -> Iterator[None]:
    folder = state_folder() / "locks"
    try:
        private_folder(folder)
        name = hashlib.sha256(os.fsencode(path.absolute())).hexdigest()[:32]
        file = locks.opened(folder / name)
    except OSError as error:
        raise cannot_open(folder, error) from None
    try:
        locks.take(file)
        yield
    finally:
        os.close(file)
