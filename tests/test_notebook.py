"""kdnas from Python: the example of docs/python.md run as it stands, and what it says where something is wrong."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from kdnas import notebook
from kdnas.store.database import open_store
from kdnas.study.rows import Status
from kdnas.system.errors import UsageError
from tests import fakes
from tests.cli.conftest import spec_text
from tests.encoders import texts, tiny_encoder, tiny_spec
from tests.forks import Processes
from tests.tiny import tiny_folder

PAGE = Path(__file__).parents[1] / "docs" / "python.md"


@pytest.fixture
def names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_cache: None) -> dict[str, Any]:
    """What the page's example has at hand where it stands in a clone: here a tiny teacher and a little text."""
    tiny_folder(tmp_path / "teacher")
    (tmp_path / "text.txt").write_text("\n\n".join(texts(200, 24)))
    (tmp_path / "quickstart.toml").write_text(
        spec_text(tmp_path / "teacher", tmp_path / "text.txt", trials=2).replace('"tiny"', '"quickstart"')
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KDNAS_STORAGE", str(tmp_path / "studies.db"))
    monkeypatch.setattr("kdnas.search.launch.subprocess", Processes)
    monkeypatch.setattr("kdnas.system.paths.presets", lambda: {"quickstart": tmp_path / "quickstart.toml"})
    return {}


@pytest.mark.heavy
def test_the_example_of_the_page_runs_as_it_stands(names: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) >= 3
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    study = names["study"]
    assert study.row().status == Status.FINISHED
    assert len(study.table()) == study.row().trials
    assert names["model"].config.num_hidden_layers >= 1 and not names["model"].training
    assert capsys.readouterr().out


def test_a_table_says_what_the_command_line_says(tmp_path: Path) -> None:
    from kdnas.search.begin import begin
    from kdnas.search.worker import run_worker

    storage = str(tmp_path / "k.db")
    begin(fakes.spec(budget={"trials": 6}), storage)
    run_worker(storage, "fake", prepare=fakes.prepare, measure=fakes.measure)
    study = notebook.open_study("fake", storage)
    rows, table = study.trials(), study.table()
    assert [row["rank"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert table.index.tolist() == [row["trial"] for row in rows]
    assert table["reward"].is_monotonic_decreasing
    half = study.trials(f"loss<{rows[2]['loss']}")
    assert half and all(row["loss"] < rows[2]["loss"] for row in half)
    fast = study.table(alpha=-2.0)["speedup"]
    assert fast.iloc[0] == max(fast)
    assert study.table("is:flagged layers>99")[["rank", "loss"]].empty
    assert study.run().done == 6  # finished: nothing is started


def test_no_dimension_of_a_space_has_the_name_of_a_measurement(tmp_path: Path) -> None:
    from kdnas.recipes import recipe

    fixed = {*notebook.STANDING, *notebook.MEASURED, "speedup", "parameters", "error"}
    spec = tiny_spec(tiny_encoder(tmp_path / "teacher"), tmp_path)
    dimensions = {one.name for one in recipe("hidden-state").describe(spec).space.dimensions}
    assert dimensions and not fixed & dimensions


def test_what_is_wrong_is_said_before_anything_runs(tmp_path: Path) -> None:
    storage = tmp_path / "k.db"
    with pytest.raises(UsageError, match=r"no preset 'quikstart'.*quickstart"):
        notebook.begin_study("quikstart", storage)
    with pytest.raises(UsageError, match="trials"):
        notebook.begin_study("quickstart", storage, budget__trials=0)
    assert not storage.exists()
    with open_store(storage, create=True), pytest.raises(UsageError, match="no study 'mine'"):
        notebook.open_study("mine", storage)
    with pytest.raises(UsageError, match="There is no folder"):
        notebook.load_student(tmp_path / "student")


def test_an_encoder_opens_as_its_body_and_a_causal_model_as_one(tmp_path: Path) -> None:
    from tests.recipes.tiny_causal import folder

    body, tokenizer = notebook.load_student(tiny_encoder(tmp_path / "encoder"), "cpu")
    assert body.dtype == torch.float32 and not body.training
    assert body(**tokenizer("people", return_tensors="pt")).last_hidden_state.shape[-1] == body.config.hidden_size
    causal, _ = notebook.load_student(folder(tmp_path / "causal", steps=0), "cpu")
    assert hasattr(causal, "lm_head")


def test_opening_a_study_loads_no_torch() -> None:
    code = "import sys, kdnas.notebook; print([m for m in ('torch', 'transformers', 'optuna') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
