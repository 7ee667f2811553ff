"""Optuna's own tools open a kdnas store as it is."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import optuna
import pytest

from kdnas.search.begin import begin
from kdnas.search.worker import run_worker
from tests import fakes
from tests.postgres import BOTH, Server


@pytest.fixture(scope="module", params=BOTH)
def finished(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of a store with a study by the LSTM controller, lost and reused trials or none."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDNAS_STATE", str(tmp_path_factory.mktemp("state")))
        place = f"sqlite:///{tmp_path_factory.mktemp('store') / 'kdnas.db'}"
        if request.param == "postgres":
            server: Server = request.getfixturevalue("whole_server")
            server.sql("CREATE DATABASE tools")
            place = server.url("tools").replace("postgresql:", "postgresql+psycopg:")  # what Optuna's tools want
        strategy = {"name": "lstm", "episodes": 2, "samples": 3, "pool": 20}
        begin(fakes.spec(strategy=strategy, budget={"trials": 6, "epochs": 3, "pruner": "asha"}), place)
        run_worker(place, "fake", prepare=fakes.prepare, measure=fakes.measure)
    return place


def test_its_command_line_lists_studies_and_trials(finished: str) -> None:
    command = shutil.which("optuna", path=str(Path(sys.executable).parent))
    assert command is not None

    def ask(*words: str) -> Any:
        said = subprocess.run([command, *words, "--storage", finished, "-f", "json"], capture_output=True, text=True)
        assert said.returncode == 0, said.stderr
        assert "Traceback" not in said.stderr
        return json.loads(said.stdout)

    assert [study["name"] for study in ask("studies")] == ["fake"]
    assert len(ask("trials", "--study-name", "fake")) == 6


def test_its_dashboard_serves_the_study(finished: str) -> None:
    dashboard = pytest.importorskip("optuna_dashboard")
    application = dashboard.wsgi(optuna.storages.RDBStorage(finished))

    def get(path: str) -> Any:
        status: list[str] = []

        def start(line: str, headers: Iterable[tuple[str, str]], *_: Any) -> None:
            status.append(line)

        environment = {"REQUEST_METHOD": "GET", "PATH_INFO": path, "QUERY_STRING": "", "SERVER_NAME": "x"}
        environment |= {"SERVER_PORT": "1", "wsgi.url_scheme": "http"}  # type: ignore[dict-item]
        body = b"".join(application(environment, start))
        assert status[0].startswith("200"), (status, body)
        return json.loads(body)

    [summary] = get("/api/studies")["study_summaries"]
    assert summary["study_name"] == "fake"
    detail = get(f"/api/studies/{summary['study_id']}")
    assert len(detail["trials"]) == 6
    assert {trial["state"] for trial in detail["trials"]} <= {"Complete", "Pruned"}
    shown = {one["key"]: one["value"] for one in detail["user_attrs"]}
    assert shown["teacher"] and shown["data"] and (shown["alpha"], shown["beta"]) == ("-0.06", "0.6")
    assert {"speedup", "latency_flag"} <= {one["key"] for one in detail["trials"][0]["user_attrs"]}


def test_objectives_and_studies_have_names_and_attributes(finished: str, tmp_path: Path) -> None:
    study = optuna.load_study(study_name="fake", storage=finished)
    spec = fakes.spec()
    assert study.metric_names == ["reward"]
    known = {"teacher": spec.teacher.model, "data": spec.data.source, "recipe": spec.recipe.name, "strategy": "lstm"}
    assert study.user_attrs == {**known, "alpha": spec.reward.alpha, "beta": spec.reward.beta}
    done = next(trial for trial in study.trials if trial.state.name == "COMPLETE")
    assert done.user_attrs["speedup"] == done.user_attrs["teacher_latency_ms"] / done.user_attrs["latency_ms"]
    assert done.user_attrs["latency_flag"] is None and done.user_attrs["alpha"] == spec.reward.alpha
    path = tmp_path / "kdnas.db"
    begin(fakes.spec(strategy={"name": "nsga2"}, budget={"trials": 2, "epochs": 1}), path)
    run_worker(str(path), "fake", prepare=fakes.prepare, measure=fakes.measure)
    both = optuna.load_study(study_name="fake", storage=f"sqlite:///{path}")
    assert both.metric_names == ["loss", "latency_ms"]
