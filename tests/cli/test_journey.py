"""One study through the command line, with real models: begun, looked at, re-ranked, exported, continued, deleted."""

from __future__ import annotations

import csv
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import jsonschema
import pexpect
import pytest
from transformers import AutoConfig, AutoModel

from kdnas.cli.spec_options import base_values, spec_from
from kdnas.search.begin import begin
from kdnas.store import queries
from kdnas.store.database import open_reader
from kdnas.study import export
from kdnas.study.spec import StudySpec
from tests.cli.conftest import Place, Quick, spec_text
from tests.forks import Command

SAME = ("slot", "state", "candidate", "seed", "loss", "raw_loss", "parameters", "epoch")


def trials(quick: Quick, study: str, *fields: str) -> list[tuple[Any, ...]]:
    """The finished trials of a study in slot order, as the command line tells them."""
    said = quick("show", study, "--json")
    assert said.code == 0, said.err
    rows = [t for t in said.data["trials"] if t["state"] != "lost"]
    return [tuple(str(t[f]) for f in fields or SAME) for t in sorted(rows, key=lambda t: t["slot"])]


@pytest.mark.heavy
def test_a_study_from_search_to_delete(place: Place, quick: Quick) -> None:
    began = place.kdnas("search", "--spec", str(place.spec))
    assert began.code == 0, began.err
    assert "finished" in began.out and "4 of 4 trials" in began.out
    assert began.err.count(" done ") == 4
    assert "tiny: " in began.err and "%)" not in began.err  # no progress where nobody watches
    assert "all of them" not in began.err and "kdnas finalize tiny" in began.err  # four are few enough to show
    assert not [line for line in began.out.splitlines() if line.endswith(" ")]

    again = quick("search", "tiny")
    assert again.code == 0, again.err
    assert "4 of 4 trials are done" in again.err and again.out == began.out

    listed = quick("studies", "--json").data
    assert [(s["name"], s["done"], s["status"]) for s in listed] == [("tiny", 4, "finished")]
    shown = quick("show", "tiny", "--filter", "layers>=1 state:done", "--json").data
    assert [t["rank"] for t in shown["trials"]] == [1, 2, 3, 4]

    before = quick("rescore", "tiny", "--alpha", "-1.5", "--json").data
    assert (before["used"], before["to"]["alpha"]) == (False, -1.5)
    assert quick("show", "tiny", "--json").data["study"]["alpha"] == -0.06
    used = quick("rescore", "tiny", "--alpha", "-1.5", "--use", "--json").data
    assert used["trials"] == before["trials"]
    assert quick("show", "tiny", "--json").data["study"]["alpha"] == -1.5

    check_exports(place, quick)

    rechecked = quick("recheck", "tiny", "--top", "1", "--seeds", "2", "--json")
    assert rechecked.code == 0, rechecked.err
    assert rechecked.data[0]["repeats"] == 2 and rechecked.data[0]["loss_spread"] >= 0
    assert "have been evaluated" in quick("recheck", "tiny", "--top", "1", "--seeds", "2").err

    lines = quick("logs", "tiny", "--json").data
    assert any("reward" in entry["line"] for entry in lines)

    check_optunas_own_tools(place)

    refused = quick("delete", "tiny")
    assert refused.code == 2 and "--yes" in refused.line
    assert quick("delete", "tiny", "--yes").code == 0
    assert quick("studies", "--json").data == []
    gone = quick("show", "tiny")
    assert gone.code == 2 and "There is no study 'tiny'" in gone.line


def check_exports(place: Place, quick: Quick) -> None:
    said = quick("export", "tiny", "--top", "2", "--output", "best.json")
    assert said.code == 0, said.err
    body = json.loads((place.folder / "best.json").read_text())
    jsonschema.Draft202012Validator(export.schema()).validate(body)
    assert len(body["candidates"]) == 2
    assert body["reward"]["alpha"] == -1.5
    assert body["latency"]["teacher_ms"] > 0
    assert body["teacher"]["fingerprint"] and body["data"]["fingerprint"] and body["versions"]["torch"]
    for entry in body["candidates"]:
        model = AutoModel.from_config(AutoConfig.for_model(**entry["config"]))
        assert sum(p.numel() for p in model.parameters()) >= entry["parameters"]
    assert quick("export", "tiny", "--pareto", "-o", "front.csv").code == 0
    with (place.folder / "front.csv").open() as file:
        assert all(float(row["loss"]) >= 0 for row in csv.DictReader(file))
    printed = quick("export", "tiny", "--top", "1", "--format", "markdown")
    assert printed.out.startswith("# tiny") and printed.out.count("\n| 1 |") == 1
    imported = quick("import", "best.json", "--name", "second", "--trials", "2")
    assert imported.code == 0, imported.err
    assert quick("worker", "second").code == 0
    ran = quick("show", "second", "--json")
    wanted = [entry["candidate"] for entry in body["candidates"]]
    found = sorted(ran.data["trials"], key=lambda t: t["slot"])
    assert [t["candidate"] for t in found] == wanted
    assert {t["origin"] for t in found} == {"enqueued"}
    # The same candidate under the same seed is the same training.
    assert [t["loss"] for t in found] == [entry["loss"] for entry in body["candidates"]]
    assert quick("delete", "second", "--yes").code == 0


def check_optunas_own_tools(place: Place) -> None:
    tools = Path(sys.executable).parent
    url = f"sqlite:///{place.store}"
    listed = subprocess.run(
        [tools / "optuna", "trials", "--study-name", "tiny", "--storage", url, "-f", "json"],
        capture_output=True,
        text=True,
        env=place.environment,
    )
    assert listed.returncode == 0, listed.stderr
    assert [t["state"] for t in json.loads(listed.stdout)] == ["COMPLETE"] * 4
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    dashboard = subprocess.Popen(
        [tools / "optuna-dashboard", url, "--host", "127.0.0.1", "--port", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=place.environment,
    )
    try:
        answer = asked(f"http://127.0.0.1:{port}/api/studies", dashboard)
        assert [s["study_name"] for s in answer["study_summaries"]] == ["tiny"]
    finally:
        dashboard.terminate()
        dashboard.wait()


def asked(url: str, server: subprocess.Popen[str]) -> Any:
    """What a server that is still starting answers."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + 60
    while True:
        try:
            with opener.open(url, timeout=5) as response:
                return json.load(response)
        except (urllib.error.URLError, ConnectionError):
            assert server.poll() is None, server.stderr.read() if server.stderr else ""
            assert time.monotonic() < deadline, "the dashboard does not answer"
            time.sleep(0.1)


# ---------------------------------------------------------------------------- interruptions


@pytest.fixture
def longer(place: Place, shelf: Path) -> Path:
    """Its trials last long enough to be met in their midst."""
    file = place.folder / "longer.toml"
    file.write_text(spec_text(shelf / "teacher", shelf / "text.txt", trials=8, strategy="tpe", max_seconds=0.1))
    return file


def wait_for(place: Place, study: str, enough: int, process: Command | None = None) -> int:
    """Waits until so many trials are done and another one runs; the process number of its worker."""
    deadline = time.monotonic() + 120
    while not (place.store.exists() and place.store.stat().st_size):
        assert time.monotonic() < deadline, "the store is not made"
        time.sleep(0.02)
    with open_reader(place.store) as store:
        seen = -1
        while True:
            assert time.monotonic() < deadline, "the trials do not arrive"
            assert process is None or process.poll() is None, process.err.read_text() if process else ""
            if queries.changed(store) != seen:
                seen = queries.changed(store)
                row = next((r for r in queries.study_rows(store) if r.name == study), None)
                alive = [w for w in queries.workers(store, row.study_id) if w.alive] if row else []
                if row and row.done >= enough and row.running and alive:
                    return alive[0].pid
            time.sleep(0.02)


def kill_in_mid_trial(place: Place, study: str, enough: int, process: Command) -> None:
    """Stops the worker first, to see that it holds a trial whose result is not known."""
    while True:
        worker = wait_for(place, study, enough, process)
        os.kill(worker, signal.SIGSTOP)
        with open_reader(place.store) as store:
            row = queries.study_row(store, study)
            if any(t.state == "running" for t in queries.trial_rows(store, row.study_id)):
                os.kill(worker, signal.SIGKILL)
                return
        os.kill(worker, signal.SIGCONT)


@pytest.mark.heavy
def test_a_killed_study_goes_on_as_the_uninterrupted_one(place: Place, quick: Quick, longer: Path) -> None:
    begin(spec_from(base_values("whole", longer, None), {"budget.trials": 9}), place.store)
    assert quick("worker", "whole").code == 0

    broken = place.fork("search", "broken", "--spec", str(longer))
    kill_in_mid_trial(place, "broken", 2, broken)
    _, err = broken.communicate(timeout=120)
    assert broken.returncode == 1, err
    assert "killed by signal 9" in err and "kdnas search broken" in err
    kept = trials(quick, "broken", "number", "slot", "loss")
    finished = [t for t in kept if t[2] != "None"]
    assert len(finished) >= 2

    resumed = place.forked("search", "broken", "--trials", "9", "--json")  # and one more than it was begun with
    assert resumed.code == 0, resumed.err
    assert (resumed.data["study"]["done"], resumed.data["study"]["trials"]) == (9, 9)
    assert trials(quick, "broken") == trials(quick, "whole")  # one seed, one result, in whichever process
    assert [t for t in trials(quick, "broken", "number", "slot", "loss") if t in finished] == finished
    states = [t["state"] for t in quick("show", "broken", "--top", "100", "--json").data["trials"]]
    assert (states.count("done"), states.count("lost")) == (9, 1)


@pytest.mark.heavy
def test_ctrl_c_keeps_what_is_finished_and_says_how_to_go_on(place: Place, quick: Quick, longer: Path) -> None:
    process = place.fork("search", "--spec", str(longer), "--set", "budget.trials=400")
    wait_for(place, "tiny", 1, process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "Go on with: kdnas search tiny" in err and "Traceback" not in err
    row = quick("show", "tiny", "--json").data["study"]
    assert row["done"] >= 1 and row["workers"] == 0 and row["status"] == "stopped"


@pytest.mark.heavy
def test_a_detached_study_is_paused_resumed_and_stopped_from_outside(place: Place, quick: Quick, longer: Path) -> None:
    began = place.forked("search", "--spec", str(longer), "--trials", "90", "--detach", "--json")
    assert began.code == 0, began.err
    (worker,) = began.data["workers"]
    assert Path(worker["log"]).exists()
    assert wait_for(place, "tiny", 1) == worker["pid"]

    assert quick("pause", "tiny").code == 0
    until(place, "paused")
    refused = quick("delete", "tiny", "--yes")
    assert refused.code == 2 and "kdnas stop tiny" in refused.line
    done = quick("show", "tiny", "--json").data["study"]["done"]
    assert quick("resume", "tiny").code == 0
    assert wait_for(place, "tiny", done + 1) == worker["pid"]
    assert quick("stop", "tiny", "--abandon").code == 0
    until(place, "stopped")

    woken = place.forked("resume", "tiny")
    assert woken.code == 0 and "in the background" in woken.err
    wait_for(place, "tiny", done + 1)
    assert quick("stop", "tiny").code == 0
    until(place, "stopped")
    assert "trial" in quick("logs", "tiny", "-f").out  # nobody is at work: it does not wait


def until(place: Place, status: str) -> None:
    deadline = time.monotonic() + 120
    with open_reader(place.store) as store:
        while str(queries.study_row(store, "tiny").status) != status:
            assert time.monotonic() < deadline, queries.study_row(store, "tiny").status
            time.sleep(0.05)


@pytest.mark.heavy
def test_a_dropped_terminal_does_not_end_the_search(place: Place, longer: Path) -> None:
    """`kdnas search` in a real terminal that goes away: the workers finish the study."""
    terminal = pexpect.spawn(
        sys.executable,
        ["-m", "kdnas", "search", "--spec", str(longer), "--trials", "8"],
        cwd=str(place.folder),
        env={**place.environment, "TERM": "xterm-256color"},
        dimensions=(24, 120),
        timeout=120,
        encoding="utf-8",
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # whatever nohup says of these tests
    )
    terminal.expect("[1-6]/8")  # the live line counts
    terminal.kill(signal.SIGHUP)
    terminal.expect(pexpect.EOF)
    assert "\x1b[?25h" in terminal.before, "the cursor stays hidden"
    assert "tiny goes on without this command." in terminal.before and "kdnas stop tiny" in terminal.before
    terminal.wait()  # `close` would go on to other signals where a busy machine is slow to die of this one
    assert terminal.signalstatus == signal.SIGHUP
    terminal.close()
    until(place, "finished")
    with open_reader(place.store) as store:
        row = queries.study_row(store, "tiny")
        assert (row.done, row.failed) == (8, 0)
        assert "lost" not in {t.state for t in queries.trial_rows(store, row.study_id)}


def test_a_search_without_a_single_result_ends_with_nought(place: Place, quick: Quick) -> None:
    """So that `kdnas search … && kdnas finalize …` stops there; and says so again when it is asked again."""
    from kdnas.recipes.contract import Workbench
    from kdnas.search.begin import begin
    from kdnas.search.worker import run_worker
    from kdnas.system.errors import KdnasError
    from tests import fakes

    def broken(_: object) -> None:
        raise RuntimeError("no kernel")

    def prepare(spec: StudySpec, *_: object) -> Workbench:
        return fakes.FakeBench(spec, broken)

    begin(fakes.spec("barren", budget={"trials": 2}), place.store)
    with pytest.raises(KdnasError, match="All 2 trials failed"):
        run_worker(str(place.store), "barren", prepare=prepare, measure=fakes.measure)
    said = quick("search", "barren")
    assert (said.code, said.out) == (1, "")
    assert "All 2 trials of barren failed, the last one so: RuntimeError: no kernel" in said.line
    said = quick("search", "barren", "--json")
    assert said.code == 1 and [trial["state"] for trial in said.data["trials"]] == ["failed", "failed"]
