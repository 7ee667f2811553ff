"""A password of the store is read by others: in the list of processes, a log, an export, an error or on a screen."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from kdnas.cli import COMMANDS
from kdnas.cli.frame import Lazy, place, run
from kdnas.search.begin import begin
from kdnas.search.launch import start_workers
from kdnas.search.worker import run_worker
from kdnas.store import keyring_password, queries, studies
from kdnas.store.command_line import without_passwords
from kdnas.store.database import Store, open_store
from kdnas.system import liveness
from kdnas.system.errors import UsageError
from tests import fakes
from tests.postgres import BINARIES, Server, running
from tests.tui.driving import app_on, driven, opened, text_of, until

PASSWORD = "SECRET@/?&x"  # as it is, and the part of it that no quoting changes
MARK = "SECRET"

pytestmark = pytest.mark.skipif(not BINARIES, reason="no PostgreSQL on this machine")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running(PASSWORD) as server:
        server.sql("CREATE DATABASE studies")
        begin(fakes.spec(budget={"trials": 2}), whole(server))
        run_worker(whole(server), "fake", prepare=fakes.prepare, measure=fakes.measure)
        yield server


def whole(server: Server) -> str:
    return f"postgresql://{server.user}:{quote(PASSWORD, safe='')}@127.0.0.1:{server.port}/studies"


def asked(server: Server) -> str:
    return f"postgresql://127.0.0.1:{server.port}/studies?user={server.user}&password={quote(PASSWORD, safe='')}"


def bare(server: Server) -> str:
    return f"postgresql://{server.user}@127.0.0.1:{server.port}/studies"


def in_environment(server: Server, folder: Path, patch: pytest.MonkeyPatch) -> str:
    patch.setenv("PGPASSWORD", PASSWORD)
    return bare(server)


def in_passfile(server: Server, folder: Path, patch: pytest.MonkeyPatch) -> str:
    file = folder / "pgpass"
    file.write_text(f"127.0.0.1:{server.port}:*:{server.user}:{PASSWORD}\n")
    file.chmod(0o600)
    patch.setenv("PGPASSFILE", str(file))
    return bare(server)


def in_home(server: Server, folder: Path, patch: pytest.MonkeyPatch) -> str:
    in_passfile(server, folder, patch)
    (folder / "pgpass").rename(folder / ".pgpass")
    patch.delenv("PGPASSFILE")
    patch.setenv("HOME", str(folder))
    return bare(server)


def _service(server: Server, folder: Path, patch: pytest.MonkeyPatch) -> None:
    file = folder / "services"
    known = {"host": "127.0.0.1", "port": server.port, "user": server.user, "password": PASSWORD, "dbname": "studies"}
    file.write_text("[kdnas]\n" + "".join(f"{key}={value}\n" for key, value in known.items()))
    patch.setenv("PGSERVICEFILE", str(file))


def by_service(server: Server, folder: Path, patch: pytest.MonkeyPatch) -> str:
    _service(server, folder, patch)
    patch.setenv("PGSERVICE", "kdnas")
    return "postgresql://"


def in_address_of_service(server: Server, folder: Path, patch: pytest.MonkeyPatch) -> str:
    _service(server, folder, patch)
    return "postgresql:///?service=kdnas"


def in_keyring(server: Server, folder: Path, patch: pytest.MonkeyPatch) -> str:
    keyring = pytest.importorskip("keyring")

    class Kept(keyring.backend.KeyringBackend):  # type: ignore[misc, name-defined]
        priority = 1
        set_password = None

        def get_password(self, service: str, username: str) -> str | None:
            return PASSWORD if (service, username) == ("kdnas", bare(server)) else None

    # What other tests were answered is forgotten, and so is this afterwards.
    patch.setattr(keyring_password, "_kept", functools.cache(keyring_password._kept.__wrapped__))
    patch.setattr(keyring.core, "_keyring_backend", Kept())
    return bare(server)


Form = Callable[[Server, Path, pytest.MonkeyPatch], str]
FORMS: dict[str, Form] = {
    "address": lambda server, *_: whole(server),
    "query": lambda server, *_: asked(server),
    "PGPASSWORD": in_environment,
    "PGPASSFILE": in_passfile,
    ".pgpass": in_home,
    "PGSERVICE": by_service,
    "service": in_address_of_service,
    "keyring": in_keyring,
}


@pytest.mark.parametrize("form", FORMS)
def test_a_form_of_connection_is_not_taken_or_its_password_is_said(
    form: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KDNAS_STATE", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    url = FORMS[form](server, tmp_path, monkeypatch)
    monkeypatch.setenv("KDNAS_STORAGE", url)
    out = tmp_path / "out"
    out.mkdir()
    always = [["studies"], ["show", "nobody"], ["worker", "fake", "--storage", url]]  # the last two fail
    where_it_is_known = [
        ["show", "fake", "--json"],
        ["show", "fake", "--as", "command", "--storage", url],
        ["logs", "fake", "--json"],
        ["export", "fake", "--output", str(out / "fake.json")],
        ["report", "fake", "--output", str(out / "fake.html")],
        ["backup", "fake", str(out / "fake.db")],
        ["doctor", "--store"],
    ]
    for words in [*always, *(where_it_is_known if form in ("address", "PGPASSWORD") else [])]:
        code = run(Lazy("kdnas", COMMANDS), words)
        assert code == (2 if words in always[1:] else 0), capfd.readouterr()
    said = capfd.readouterr()
    assert "fake" in said.out and "has finished its 2 trials" in said.err
    assert MARK not in said.out + said.err
    for file in [*out.rglob("*"), *(tmp_path / "state").rglob("*")]:
        assert not file.is_file() or MARK.encode() not in file.read_bytes(), file


def test_a_wrong_password_or_what_the_server_says_of_it_is_repeated(
    server: Server, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSWORD", "SECRET of another server")
    for url in (whole(server).replace(quote(PASSWORD, safe=""), "SECRETOTHER"), bare(server), "postgresql://"):
        assert run(Lazy("kdnas", COMMANDS), ["studies", "--storage", url]) == 2
    said = capfd.readouterr()
    assert said.err.count("refuses the user or the password") == 2
    assert MARK not in said.out + said.err


def test_the_store_itself_keeps_the_password(server: Server) -> None:
    with open_store(whole(server)) as store, store.connect() as connection:
        names = connection.exec_driver_sql(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'"
        ).scalars()
        for name in list(names):
            assert MARK not in str(connection.exec_driver_sql(f'SELECT * FROM "{name}"').all()), name
        assert MARK not in repr(store)


async def test_a_screen_shows_the_password(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDNAS_STATE", str(tmp_path))
    monkeypatch.setenv("KDNAS_CONFIG", str(tmp_path))
    async with driven(app_on(whole(server))) as pilot:
        app = pilot.app
        await until(pilot, lambda: "127.0.0.1" in text_of(app), "the store's place is shown")
        seen = [text_of(app)]
        await pilot.press("n")
        await until(pilot, lambda: "$ kdnas search" in text_of(app), "the form shows its command")
        seen.append(text_of(app))
        assert ":***@" in str(app.screen.query_one("#command").content)  # type: ignore[attr-defined]
        await pilot.press("escape")
        await opened(pilot, "fake")
        seen.append(text_of(app))
        assert not [text for text in seen if MARK in text]
        assert MARK not in f"{app.title} {app.sub_title}"


# ---------------------------------------------------------------------------- the list of processes


def words_of(pid: int) -> str:
    """What `ps` shows of a process."""
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="no /proc here")
def test_a_command_shows_the_password_of_its_storage_in_the_list_of_processes(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KDNAS_STATE", str(tmp_path))
    with open_store(whole(server)) as store:
        studies.create_study(store, fakes.spec("watched"))
        study_id = queries.study_row(store, "watched").study_id
        hold = liveness.Hold()
        worker = enter(store, study_id, hold)
        command = [sys.executable, "-m", "kdnas", "logs", "watched", "-f", f"--storage={asked(server)}"]
        following = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=without_storage(), text=True
        )
        assert following.stdout is not None and "a line" in following.stdout.readline()
        shown = words_of(following.pid)
        assert "kdnas logs watched -f" in shown and "127.0.0.1" in shown and MARK not in shown
        following.kill()
        following.wait()
        studies.leave(store, study_id, worker, device=None, error=None)
    hold.release()


def enter(store: Store, study_id: int, hold: liveness.Hold) -> int:
    from kdnas.store import changes

    changes.add_log(store, study_id, "info", "a line")
    return studies.enter(store, study_id, lock=str(hold.path), device=None, task="search")


def without_storage() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "KDNAS_STORAGE"}


def test_a_worker_gets_its_password_by_its_words(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KDNAS_STATE", str(tmp_path))
    told = "import json, os, sys; print(json.dumps([sys.orig_argv, os.environ['KDNAS_STORAGE']]))"
    [one] = start_workers(whole(server), "fake", 1, command=[sys.executable, "-S", "-c", told])
    assert one.process.wait() == 0
    words, storage = json.loads(one.log.read_text())
    assert MARK not in str(words) and storage == whole(server)


@pytest.mark.parametrize(
    ("word", "shown"),
    [
        ("postgresql://me:SECRET@h/d", "postgresql+psycopg://me:***@h/d"),
        ("--storage=postgresql://me:SECRET@h/d", "--storage=postgresql+psycopg://me:***@h/d"),
        ("--stor=postgresql://h/d?password=SECRET", "--stor=postgresql+psycopg://h/d?password=***"),
    ],
)
def test_a_word_of_a_command_keeps_its_password(word: str, shown: str) -> None:
    words, address = without_passwords(["python", "-m", "kdnas", "show", word, "--json"])
    assert words == ["python", "-m", "kdnas", "show", shown, "--json"]
    assert "SECRET" not in str(words) and address is not None and "SECRET" in address
    for other in ("postgresql://me@h/d", "postgresql://me:***@h/d", "https://x@y/?z", "pg:/me:SECRET@h/d", "a=b"):
        assert without_passwords(["kdnas", other]) == (["kdnas", other], None)
    two = ["kdnas", word, "postgresql://me:OTHER@h/d"]
    assert without_passwords(two) == (two, None)


def test_a_hidden_password_is_taken_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDNAS_STORAGE", "postgresql://me:SECRET@h/d")
    assert place("postgresql+psycopg://me:***@h/d") == place("postgresql://me:***@h/d") == "postgresql://me:SECRET@h/d"
    assert place("postgresql://me@h/d") == "postgresql://me@h/d"
    for other in ("postgresql://me:***@h/other", "postgresql://you:***@h/d"):
        with pytest.raises(UsageError, match="hides its password"):
            place(other)
    monkeypatch.delenv("KDNAS_STORAGE")
    with pytest.raises(UsageError, match="hides its password"):
        place("postgresql+psycopg://me:***@h/d")
