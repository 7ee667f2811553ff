"""Workers forked from one parent: one that takes others with it, imports again, or shares what must be its own."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kdnas.search import launch
from kdnas.search.begin import begin
from kdnas.search.launch import Started, start_workers
from kdnas.search.placing import Seat
from kdnas.store import queries
from kdnas.store.database import open_reader
from kdnas.study.rows import Status
from tests import fakes
from tests.forks import Processes

pytestmark = pytest.mark.skipif(not launch._forks(), reason="workers are not forked on this system")

# Says that it was imported, then who it is; waits until it is let go.
MODULE = """
import os, sys, time
from pathlib import Path
here = Path(__file__).parent
with (here / "imported").open("a") as file:
    file.write("once\\n")
{more}
def main(words):
    print(os.getpid() == os.getsid(0), os.environ["KDNAS_CORES"], os.environ["OMP_NUM_THREADS"], *words, flush=True)
    while not (here / "let go").exists():
        time.sleep(0.01)
    return len(words)
if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
"""
SEATS = [Seat("cpu", 1, (0,)), Seat(None, 1, (100_000,)), Seat("cpu", 1, (0,))]


class Together:
    """Workers of a small module, begun together."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.started: list[Started] = []

    def start(self, more: str = "") -> list[Started]:
        (self.folder / "small.py").write_text(MODULE.format(more=more))
        self.started = start_workers(self.folder / "none.db", "fake", seats=SEATS)
        return self.started

    def let_go(self) -> None:
        (self.folder / "let go").touch()

    def imported(self) -> int:
        return len((self.folder / "imported").read_text().splitlines())

    def all_at_work(self) -> None:
        until(lambda: all(one.log.read_text().strip() for one in self.started))

    def parent(self) -> int:
        return launch._children[-1].pid


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end, "it never came to it"
        time.sleep(0.02)


@pytest.fixture
def together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Together]:
    monkeypatch.setattr(launch, "WORKER", "small")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2])]))
    made = Together(tmp_path)
    yield made
    made.let_go()
    for one in made.started:
        one.process.kill()
        one.process.wait()


def test_workers_begun_together_import_apart_or_share_a_session_a_log_or_cores(together: Together) -> None:
    started = together.start()
    together.all_at_work()
    assert together.imported() == 1
    said = [one.log.read_text().strip() for one in started]
    assert said == ["True 0 1 fake --device cpu", "True 100000 1 fake", "True 0 1 fake --device cpu"]
    assert len({one.pid for one in started}) == 3
    assert [one.process.poll() for one in started] == [None] * 3
    with pytest.raises(subprocess.TimeoutExpired):
        started[0].process.wait(timeout=0.01)
    together.let_go()
    assert [one.process.wait() for one in started] == [3, 1, 3]


def test_one_that_is_killed_takes_others_with_it_or_its_parent_does(together: Together) -> None:
    started = together.start()
    together.all_at_work()
    started[0].process.kill()
    assert started[0].process.wait() == -signal.SIGKILL
    os.kill(together.parent(), signal.SIGKILL)
    assert launch._children[-1].wait() == -signal.SIGKILL
    assert [one.process.poll() for one in started[1:]] == [None, None]
    os.kill(started[1].pid, signal.SIGKILL)  # nobody is left to tell of it
    assert started[1].process.wait() == -signal.SIGKILL
    together.let_go()
    assert started[2].process.wait() == 3


def test_a_worker_lacks_the_threads_that_its_parent_had(together: Together) -> None:
    started = together.start("import threading; threading.Thread(target=time.sleep, args=(600,), daemon=True).start()")
    together.all_at_work()
    assert together.imported() == 1 + len(started)  # each is the worker anew
    together.let_go()
    assert [one.process.wait() for one in started] == [3, 1, 3]


def test_workers_whose_libraries_cannot_be_imported_are_waited_for(together: Together) -> None:
    started = together.start("import a_module_that_is_not_there")
    assert [one.process.wait() for one in started] == [1, 1, 1]
    assert "a_module_that_is_not_there" in started[0].log.read_text()
    assert started[1].pid == together.parent()


def test_workers_that_are_ended_while_their_parent_imports_begin_all_the_same(together: Together) -> None:
    started = together.start("time.sleep(600)")
    until((together.folder / "imported").exists)
    for one in started:
        one.process.terminate()
    assert [one.process.wait() for one in started] == [-signal.SIGKILL] * 3
    assert [one.log.read_text() for one in started] == [""] * 3


def test_a_search_of_workers_begun_together_loses_or_doubles_a_trial(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = tmp_path / "fake"
    fake.mkdir()
    monkeypatch.setenv("KDNAS_FAKE", str(fake))
    monkeypatch.setattr(launch, "WORKER", "tests.fakes")
    monkeypatch.setattr(launch, "subprocess", Processes)
    begin(fakes.spec(budget={"trials": 12}, strategy={"name": "tpe", "startup": 4}), address)
    (fake / "hold").touch()
    started = start_workers(address, "fake", 3, device="cpu")
    with open_reader(address) as store:
        until(lambda: sum(row.state == "running" for row in queries.trial_rows(store, 1)) == 3)
        started[0].process.kill()
        assert started[0].process.wait() == -signal.SIGKILL
        launch._children[-1].kill()
        launch._children[-1].wait()
        (fake / "hold").unlink()
        assert [one.process.wait() for one in started[1:]] == [0, 0]
        row, rows = queries.study_row(store, "fake"), queries.trial_rows(store, 1)
    assert (row.status, row.done, row.failed) == (Status.FINISHED, 12, 0)
    done = [row.slot for row in rows if row.state == "done"]
    assert sorted(done) == list(range(12)) and sum(row.state == "lost" for row in rows) == 1
