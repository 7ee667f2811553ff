"""Workers on Ray: asked for what Ray has not, reached from elsewhere, or left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from kdnas.cli.spec_options import base_values, spec_from
from kdnas.search import ray_engine
from kdnas.search.begin import begin
from kdnas.search.placing import Count
from kdnas.search.ray_engine import Actor, Share, share_of
from kdnas.store import changes, queries, studies
from kdnas.store.database import open_reader, open_store
from kdnas.study.rows import Status, StudyRow, WorkerRow
from kdnas.system.errors import UsageError
from tests import fakes
from tests.cli.conftest import Place, Quick

ROOT = Path(__file__).parents[2]


def row(tmp_path: Path, **parts: Any) -> StudyRow:
    path = tmp_path / "kdnas.db"
    begin(fakes.spec(**parts), path)
    with open_reader(path) as store:
        return queries.study_row(store, "fake")


@pytest.mark.parametrize(
    ("device", "workers", "per_gpu", "has", "asked"),
    [
        ("cpu", 2, 1, (8, 0), Share(2, 4, 0.0, None)),
        ("auto", 3, 1, (8, 0), Share(3, 2, 0.0, None)),
        ("auto", 4, 1, (8, 4), Share(4, 2, 1.0, None)),
        ("cuda", "gpus", 2, (16, 4), Share(8, 2, 0.5, None)),
        ("auto", "gpus", 1, (64, 8), Share(8, 8, 1.0, None)),
        ("cpu", 8, 1, (8, 4), Share(8, 1, 0.0, None)),
    ],
)
def test_actors_ask_for_other_than_their_share(
    device: str, workers: Count, per_gpu: int, has: tuple[int, int], asked: Share, tmp_path: Path
) -> None:
    study = row(tmp_path, device=device)
    assert share_of(study, workers, per_gpu, None, cpus=has[0], gpus=has[1], own=True) == asked


@pytest.mark.parametrize(
    ("device", "workers", "has", "said"),
    [
        ("cuda:1", 1, (8, 2), "Ray chooses the GPU of each worker, and cuda:1"),
        ("cuda", 3, (8, 2), r"Ray has 2 GPU\(s\) for 3 workers"),
        ("auto", "gpus", (8, 0), "no GPU to place workers on"),
        ("cpu", "gpus", (8, 2), "the device cpu, were both asked for"),
        ("cpu", 9, (8, 0), "Ray has 8 cores for 9 workers of 1"),
    ],
)
def test_actors_wait_for_what_ray_has_not(
    device: str, workers: Count, has: tuple[int, int], said: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=said):
        share_of(row(tmp_path), workers, 1, device, cpus=has[0], gpus=has[1], own=True)


def test_on_a_ray_of_others_a_worker_takes_all_cores(tmp_path: Path) -> None:
    study = row(tmp_path, latency={"threads": 4})
    assert share_of(study, 2, 1, None, cpus=64, gpus=0, own=False) == Share(2, 4, 0.0, None)


def test_a_ray_elsewhere_gets_a_file_or_a_password(place: Place, quick: Quick) -> None:
    begin(fakes.spec("other"), place.store)
    asked = ("search", "other", "--engine", "ray")
    assert "is a file, which other machines cannot share" in quick(*asked, "--address", "127.0.0.1:1").line
    assert "--detach would end" in quick(*asked, "--detach").line
    assert "Give --engine ray, too" in quick("search", "other", "--address", "127.0.0.1:1").line
    assert "goes with --workers gpus" in quick(*asked, "--workers-per-gpu", "2").line
    with (
        open_reader(place.store) as store,
        pytest.raises(UsageError, match="has a password, which would go through Ray") as caught,
        ray_engine.placed("postgresql://me:SECRET@h/d", queries.study_row(store, "other"), 1, 1, None, "h:1"),
    ):
        pass
    assert "SECRET" not in str(caught.value)


class Stand:
    """As much of Ray as an actor's handle asks: a run that ends at the second look, or that Ray loses."""

    class exceptions:  # noqa: N801 - Ray's own name
        class RayError(Exception):
            pass

    def __init__(self, result: object) -> None:
        self.result, self.looks = result, 0

    def wait(self, references: list[object], timeout: float | None = None) -> tuple[list[object], list[object]]:
        self.looks += 1
        return (references, []) if self.looks > 1 else ([], references)

    def get(self, reference: object) -> object:
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


def test_what_a_worker_said_on_its_node_is_not_heard(tmp_path: Path) -> None:
    log = tmp_path / "log"
    actor = Actor(Stand((2, "kdnas: The data are not those.")), None, object(), log)
    with pytest.raises(subprocess.TimeoutExpired):
        actor.wait(0.1)
    assert actor.returncode is None and actor.poll() == 2 == actor.returncode
    assert log.read_text() == "kdnas: The data are not those.\n"
    lost = Actor(Stand(Stand.exceptions.RayError("the node is gone")), None, object(), log)
    assert (lost.poll(), lost.poll()) == (None, 1)
    assert log.read_text() == "kdnas: Ray has lost a worker: the node is gone.\n"


def test_a_tied_worker_outlives_who_started_it() -> None:
    worker = "import signal, sys, time; from kdnas.search import tied_worker; tied_worker.LOOK_S = 0.02;"
    worker += "signal.signal(signal.SIGTERM, lambda *_: (print('ended', flush=True), sys.exit()));"
    worker += "tied_worker.tie(); print('tied', flush=True); time.sleep(60)"
    starter = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {worker!r}]).wait()"
    process = subprocess.Popen([sys.executable, "-S", "-c", starter], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None and process.stdout.readline() == "tied\n"
    process.kill()
    process.wait()
    assert process.stdout.read() == "ended\n"


@pytest.mark.long
def test_a_local_ray_runs_a_study_with_one_worker_killed_and_leaves_nothing(place: Place) -> None:
    before = set(Path(tempfile.gettempdir()).glob("kdnas-ray-*"))
    begin(spec_from(base_values("tiny", place.spec, None), {"budget.trials": 4}), place.store)
    with open_store(place.store) as store:
        changes.set_wanted(store, 1, "pause")  # they wait, so that one can be met
        # The command itself would let a paused study go on: so it is paused again at once.
        command = place.start(
            "search", "tiny", "--engine", "ray", "--workers", "2", PYTHONPATH=os.pathsep.join(sys.path)
        )

        def until(workers: int) -> list[WorkerRow]:
            """Until so many have begun, and the last two wait."""
            end = time.monotonic() + 300
            while True:
                rows = queries.workers(store, 1)
                if len(rows) == workers and all(row.state == "paused" for row in rows[-2:]):
                    return rows
                assert time.monotonic() < end and command.poll() is None, command.communicate()
                if studies.wanted(store, 1) != "pause":
                    changes.set_wanted(store, 1, "pause")
                time.sleep(0.1)

        found = until(2)
        family = psutil.Process(command.pid).children(recursive=True)
        heard = [
            one.laddr.ip
            for process in [psutil.Process(command.pid), *family]
            for one in process.net_connections("inet")
            if one.status == psutil.CONN_LISTEN
        ]
        assert heard and set(heard) <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}, heard
        os.kill(found[0].pid, signal.SIGKILL)
        until(3)
        family += psutil.Process(command.pid).children(recursive=True)
        changes.set_wanted(store, 1, "run")
        out, err = command.communicate(timeout=300)
        assert command.returncode == 0, err
        assert "4 of 4 trials" in out
        last = queries.study_row(store, "tiny")
        assert (last.status, last.done, last.failed) == (Status.FINISHED, 4, 0)
    _, left = psutil.wait_procs(family, timeout=30)
    assert not left, left
    assert set(Path(tempfile.gettempdir()).glob("kdnas-ray-*")) <= before


def test_what_ray_says_of_each_attempt_is_seen_or_lost(capfd: pytest.CaptureFixture[str]) -> None:
    lines: list[str] = []
    with pytest.raises(ConnectionError), ray_engine._heard(lines):
        os.write(2, b"attempt 1 failed\nattempt 2 fai\xffled\n")
        raise ConnectionError
    assert lines == ["attempt 1 failed", "attempt 2 fai\ufffdled"] and capfd.readouterr().err == ""
    os.write(2, b"seen\n")
    assert capfd.readouterr().err == "seen\n"


HEAD = """
import sys, ray
options = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 80 * 2**20, "_temp_dir": sys.argv[1]}
print(ray.init(address="local", log_to_driver=False, **options).address_info["gcs_address"], flush=True)
sys.stdin.read()
"""
JOIN = """
import sys
from kdnas.search import ray_engine
from kdnas.system.errors import KdnasError
try:
    with ray_engine._ray("", sys.argv[1], 1, lambda _: None) as ray:
        print(f"{ray.cluster_resources()['CPU']:g} core")
except KdnasError as error:
    print(error)
"""


@pytest.mark.long
def test_a_wrong_token_fills_the_terminal_before_it_is_named(place: Place) -> None:
    # Beyond loopback Ray would look for this machine's address.
    environment = {**place.environment, "RAY_AUTH_MODE": "token", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}

    def python(code: str, argument: str, token: str) -> subprocess.Popen[str]:
        words = [sys.executable, "-c", code, argument]
        env = {**environment, "RAY_AUTH_TOKEN": token * 64, "PYTHONPATH": os.pathsep.join(sys.path)}
        pipe = subprocess.PIPE
        return subprocess.Popen(words, cwd=ROOT, env=env, text=True, stdin=pipe, stdout=pipe, stderr=pipe)

    with tempfile.TemporaryDirectory(prefix="ray-") as folder:  # of a short name: sockets lie in it
        head = python(HEAD, folder, "a")
        try:
            assert head.stdout is not None
            address = head.stdout.readline().strip()
            wrong, right = (python(JOIN, address, token).communicate(timeout=300) for token in "ba")
        finally:
            head.communicate(timeout=60)
    assert wrong == (f"Ray at {address} does not take this token. Give its own in RAY_AUTH_TOKEN.\n", "")
    assert right == ("1 core\n", "")
