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

# Debian keeps PostgreSQL's programs out of PATH.
_PLACES = os.pathsep.join([os.environ.get("PATH", ""), *map(str, sorted(Path("/usr/lib/postgresql").glob("*/bin")))])
INITDB, POSTGRES = shutil.which("initdb", path=_PLACES), shutil.which("postgres", path=_PLACES)
BINARIES = INITDB is not None and POSTGRES is not None


@contextlib.contextmanager
def running(password: str | None = None) -> Iterator[Server]:
    """A server in a folder of its own, which its account may enter."""
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder), password)
        try:
            server.start()
            yield server
        finally:
            server.stop()


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

    def stop(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGINT)  # "fast": connections are ended
            self.process.wait()

    def sql(self, statement: str) -> None:
        import psycopg

        with psycopg.connect(
            host="127.0.0.1",
            port=self.port,
            user=self.user,
            password=self.password,
            dbname="postgres",
            autocommit=True,
        ) as connection:
            connection.execute(statement)  # type: ignore[arg-type]

    def url(self, database: str) -> str:
        return f"postgresql://{self.user}@127.0.0.1:{self.port}/{database}"
