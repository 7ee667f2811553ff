"""kdnas-tui in a real pseudo-terminal, on real searches of tiny models: from the form to the exported file."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil
import pytest

from kdnas.store import changes, queries
from kdnas.store.database import open_reader, open_store
from kdnas.study.rows import StudyRow, WorkerRow
from kdnas_tui import custom
from kdnas_tui.main import run
from tests.tiny import WORDS, tiny_folder
from tests.tui.terminal import PATIENCE_S, Terminal

MORE = (
    "data.length=16 data.batch_size=8 latency.length=16 latency.max_seconds=0.3 "
    "space.choices.hidden_act=['gelu', 'relu', 'silu']"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_folder(tmp_path / "teacher", layers=4, width=48)
    rng = random.Random(0)
    lines = (" ".join(rng.choice(WORDS) for _ in range(12)) for _ in range(400))
    (tmp_path / "text.txt").write_text("\n".join(lines) + "\n")
    return tmp_path


@pytest.fixture
def start(folder: Path) -> Iterator[Callable[..., Terminal]]:
    begun: list[Terminal] = []
    environment = {
        "KDNAS_STORAGE": f"sqlite:///{folder / 'k.db'}",
        "KDNAS_CACHE": str(folder / "cache"),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }

    def begin(*arguments: str, size: tuple[int, int] = (120, 36), through: Sequence[str] = ()) -> Terminal:
        terminal = Terminal(list(arguments), folder, environment, size, through)
        begun.append(terminal)
        return terminal

    yield begin
    for terminal in begun:
        terminal.kill()
    if (folder / "k.db").exists():
        for worker in workers(folder):
            if worker.alive and psutil.pid_exists(worker.pid):
                os.kill(worker.pid, signal.SIGKILL)


def study(folder: Path) -> StudyRow:
    with open_reader(folder / "k.db") as store:
        return queries.study_row(store, "tiny")


def workers(folder: Path) -> list[WorkerRow]:
    with open_reader(folder / "k.db") as store:
        return [w for row in queries.study_rows(store) for w in queries.workers(store, row.study_id)]


def wait(condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, f"waited in vain until {what}"
        time.sleep(0.05)  # between looks at a condition


def over(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


@pytest.mark.heavy
def test_a_study_from_the_form_to_the_file_over_a_dropped_connection(
    folder: Path, start: Callable[..., Terminal]
) -> None:
    first = start()
    first.until("No study yet. Press n to begin one.")
    first.press("n")
    first.until("new study")
    first.press("tiny", "tab", "teacher", "tab", "no-such-file.txt")
    first.until("There is no no-such-file.txt.")
    first.press(*["\x7f"] * len("no-such-file.txt"), "text.txt")
    first.press(*["tab"] * 9, "400", "tab", "tab", "2", *["tab"] * 5, MORE)
    first.press("^s")
    first.until("RUNNING")
    first.until(lambda: study(folder).done >= 2, "two trials are done")
    first.until("best ")

    process = psutil.Process(first.pid)
    first.hang_up()
    wait(lambda: over(process), "the screens end")
    done = study(folder).done
    assert [w.alive for w in workers(folder)] == [True]
    wait(lambda: study(folder).done > done, "the search goes on")

    again = start("tiny")
    again.until("RUNNING")
    again.press("p")
    again.until("PAUSED")
    again.press("p")
    again.until("RUNNING")
    again.press("a")
    again.until("ranked again")
    again.press(*["left"] * 10, "^s")
    wait(lambda: study(folder).alpha == -0.16, "the other α is used")
    again.until("From now on")
    again.press("x")
    again.until("the Pareto front")
    again.press("^s")
    again.until(lambda: (folder / "tiny.json").exists(), "the file is written")
    body = json.loads((folder / "tiny.json").read_text())
    assert body["reward"]["alpha"] == -0.16
    assert body["candidates"][0]["config"]["model_type"] == "bert"
    again.until("written to")
    again.press("s")
    again.until("Stop tiny?")
    again.press("enter")
    again.until("STOPPED")
    again.press("r")
    again.until("RUNNING")
    again.press("q")
    assert again.ended() == 0
    assert b"The search goes on: tiny." in again.bytes
    assert any(w.alive for w in workers(folder))
    with open_store(folder / "k.db") as store:
        changes.set_wanted(store, study(folder).study_id, "abandon")
    wait(lambda: not any(w.alive for w in workers(folder)), "the worker stops")


def test_sigterm_restores_the_terminal(start: Callable[..., Terminal]) -> None:
    terminal = start()
    terminal.until("No study yet")
    os.kill(terminal.pid, signal.SIGTERM)
    assert terminal.ended() == 128 + signal.SIGTERM
    assert b"\x1b[?1049l" in terminal.bytes  # back from the alternate screen
    assert b"\x1b[?25h" in terminal.bytes  # the cursor is shown again


def test_a_closed_terminal_ends_the_screens_though_who_started_them_keeps_it_to_itself(
    start: Callable[..., Terminal],
) -> None:
    as_make = "import signal, subprocess, sys; signal.signal(1, lambda *_: None); subprocess.call(sys.argv[1:])"
    terminal = start(through=[sys.executable, "-c", as_make])
    terminal.until("No study yet")
    both = [psutil.Process(terminal.pid), *psutil.Process(terminal.pid).children()]
    assert len(both) == 2
    terminal.hang_up()
    wait(lambda: all(over(one) for one in both), "both end")


@pytest.mark.parametrize("size", [(80, 24), (50, 16), (20, 5)])
def test_ascii_sends_nothing_else(start: Callable[..., Terminal], size: tuple[int, int]) -> None:
    terminal = start("--ascii", size=size)
    terminal.until("studies")
    terminal.press("n")
    terminal.until("new study")
    terminal.press("escape")
    terminal.until("studies")
    assert terminal.bytes.isascii()


@pytest.mark.parametrize("language", ["C", "en_US.ISO-8859-1"])
def test_a_terminal_without_the_signs_is_sent_ascii(start: Callable[..., Terminal], language: str) -> None:
    poor = ["env", f"LC_ALL={language}", f"LANG={language}", "PYTHONCOERCECLOCALE=0", "PYTHONUTF8=0"]
    if language != "C":
        poor += ["PYTHONIOENCODING=latin-1"]  # the language itself may not be installed
    terminal = start(through=poor)
    terminal.until("No study yet")
    terminal.press("n")
    terminal.until("new study")
    assert terminal.bytes.isascii()
    assert b"\\u" not in terminal.bytes


def test_without_a_terminal_one_line_names_the_command(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "kdnas_tui"], stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "kdnas search" in done.stderr


def test_a_dumb_terminal_is_told_so(start: Callable[..., Terminal], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    done = subprocess.run([sys.executable, "-m", "kdnas_tui"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "TERM is dumb" in done.stderr


def test_a_setting_or_an_argument_reaches_the_terminal_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    settings = custom.path()
    settings.parent.mkdir(exist_ok=True)
    settings.write_text('[themes."x\\u001b]0;t\\u0007\\nkdnas-tui: forged"]\nnothing = 1\n')
    assert run([]) == 2
    settings.unlink()
    assert run(["--locate", "--storage", "\x1b]0;t\x07.db"]) == 0
    said = capsys.readouterr()
    assert "forged has no 'nothing'" in said.err and said.err.count("\n") == 1
    assert all(line.isprintable() for line in (said.out + said.err).split("\n"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nothing", "--storage", "missing.db"], "missing.db"),
        (["--preset", "quickstrat"], "no preset"),
        (["--serve", "--port", "0"], "port 0"),
    ],
)
def test_what_cannot_be_shown_is_said_in_one_line(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    assert run(arguments) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1


def test_locate_prints_every_place(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--locate", "--storage", "postgresql://me:secret@host/db"]) == 0
    said = capsys.readouterr().out
    assert "secret" not in said
    assert [line.split()[0] for line in said.splitlines()] == ["storage", "settings", "custom", "state", "cache"]
