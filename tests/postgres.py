"""A private PostgreSQL server on loopback, in a folder that goes with it. As root it runs through another account."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# Debian keeps PostgreSQL's programs out of PATH.
_PLACES = os.pathsep.join([os.environ.get("PATH", ""), *map(str, sorted(Path("/usr/lib/postgresql").glob("*/bin")))])
INITDB, POSTGRES = shutil.which("initdb", path=_PLACES), shutil.which("postgres", path=_PLACES)
BINARIES = INITDB is not None and POSTGRES is not None
needs_server = pytest.mark.skipif(not BINARIES, reason="no PostgreSQL on this machine")
BOTH = ["sqlite", pytest.param("postgres", marks=needs_server)]  # the kinds of store, for a test that is for each


@contextlib.contextmanager
def running(password: str | None = None) -> Iterator[Server]:
    """A server in a folder of its own, which its account may enter."""
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder), password)
        try:
            server.start()
            yield server
        finally:
            server.stop(signal.SIGQUIT)  # "immediate": nothing is written that goes with the folder


class Server:
    """A server that can be stopped and started again."""

    def __init__(self, folder: Path, password: str | None = None) -> None:
        """With a `password`, everybody has to give it (SCRAM-SHA-256); without, nobody."""
        self.password = password
        self.data = folder / "data"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        # The server refuses to run as root.
        account: dict[str, Any] = {"user": 65534, "group": 65534, "extra_groups": []} if os.geteuid() == 0 else {}
        if account:
            os.chown(folder, 65534, 65534)
        self.how: dict[str, Any] = {**account, "cwd": folder, "stdin": subprocess.DEVNULL}
        user = pwd.getpwuid(65534).pw_name if account else pwd.getpwuid(os.geteuid()).pw_name
        self.user = user
        asked = ["-A", "trust"]
        if password is not None:
            file = folder / "password"
            file.write_text(password, encoding="utf-8")
            if account:
                os.chown(file, 65534, 65534)
            asked = ["-A", "scram-sha-256", "--pwfile", str(file)]
        subprocess.run(
            [str(INITDB), "-D", self.data, *asked, "-U", user, "-E", "UTF8", "--no-sync"],
            check=True,
            capture_output=True,
            **self.how,
        )
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        log = (self.data.parent / "log").open("ab")
        self.process = subprocess.Popen(
            [str(POSTGRES), "-D", self.data, "-p", str(self.port), "-h", "127.0.0.1", "-k", "", "-F"],
            stdout=log,
            stderr=log,
            **self.how,
        )
        end = time.monotonic() + 60
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    break
            assert time.monotonic() < end and self.process.poll() is None
            time.sleep(0.02)
        while True:
            try:
                self.sql("SELECT 1")
                return
            except Exception:
                assert time.monotonic() < end
                time.sleep(0.05)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """ "Fast" by default: connections are ended."""
        if self.process is not None:
            self.process.send_signal(how)
            self.process.wait()
            self.process = None

    def sql(self, statement: str, database: str = "postgres") -> list[Any]:
        """The rows that it gives."""
        import psycopg

        with psycopg.connect(
            host="127.0.0.1",
            port=self.port,
            user=self.user,
            password=self.password,
            dbname=database,
            autocommit=True,
        ) as connection:
            given = connection.execute(statement)  # type: ignore[arg-type]
            return given.fetchall() if given.description else []

    def url(self, database: str) -> str:
        return f"postgresql://{self.user}@127.0.0.1:{self.port}/{database}"


# What says which version the tables are of stays; counters begin anew, and nobody checks keys while all of them go.
_EMPTY = """
SET session_replication_role = replica;
DO $$ DECLARE name text; BEGIN
    FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = 'public'
        AND tablename NOT IN ('kdnas_meta', 'kdnas_alembic_version', 'alembic_version', 'version_info')
    LOOP EXECUTE format('DELETE FROM %I', name); END LOOP;
    PERFORM setval(format('%I', sequencename)::regclass, 1, false) FROM pg_sequences WHERE schemaname = 'public';
END $$
"""
_COLUMNS = "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'public' ORDER BY 1, 2"


class EmptyStore:
    """A store without studies for one test after the other. Its rows are taken out in between: to make a database of
    three hundred files takes some file systems a third of a second. Where a test changed tables, it is made anew.
    Each test finds it under another name, since a process remembers what it saw at an address."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._columns: list[Any] = []
        self._lent = 0

    @contextlib.contextmanager
    def lent(self) -> Iterator[str]:
        """The store's address."""
        if not self._columns:
            self._make()
        yield self._server.url(self._name)
        if self._server.process is None:
            self._server.start()
        self._server.sql(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{self._name}'")
        if self._server.sql(_COLUMNS, self._name) == self._columns:
            self._server.sql(_EMPTY, self._name)
            before, self._lent = self._name, self._lent + 1
            self._server.sql(f"ALTER DATABASE {before} RENAME TO {self._name}")
        else:
            self._columns = []

    @property
    def _name(self) -> str:
        return f"store_{self._lent}"

    def _make(self) -> None:
        from kdnas.store.database import open_store
        from kdnas.store.optuna_storage import optuna_storage

        self._lent += 1
        self._server.sql(f"CREATE DATABASE {self._name}")
        with open_store(self._server.url(self._name), create=True) as opened:
            optuna_storage(opened).engine.dispose()
        self._columns = self._server.sql(_COLUMNS, self._name)
