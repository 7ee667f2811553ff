"""A whole study of students whose layers differ: it is searched, taken up, shown, and one becomes a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from kdnas.cli import COMMANDS
from kdnas.cli.frame import Lazy, run
from kdnas.cli.studies import show
from kdnas.models.encoder_sizes import Sizes
from kdnas.recipes.contract import Workbench
from kdnas.recipes.spaces.encoder import sizes_of
from kdnas.search.begin import begin
from kdnas.search.plan import plan
from kdnas.search.worker import run_worker
from kdnas.store import queries
from kdnas.store.database import open_store
from kdnas.students import predict
from kdnas.students.distil import Telling
from kdnas.students.finalize import finalize
from kdnas.students.from_config import given, read_config
from kdnas.study.export import candidate as exported
from kdnas.study.ranked_rows import rank
from kdnas.study.rows import TrialRow
from kdnas.study.space import Candidate
from kdnas.study.spec import StudySpec
from kdnas.study.spec_flags import command
from kdnas.study.trial_columns import Board
from kdnas.training.contract import Student
from kdnas_tui.screens.compare import compared
from kdnas_tui.screens.finalize import in_words
from kdnas_tui.widgets.trial_cells import columns_of
from tests import fakes
from tests.encoders import text_folder, tiny_spec
from tests.tiny import tiny_folder

CHOICES = {"num_hidden_layers": [1, 2], "intermediate_size": [8, 32], "num_attention_heads": [1, 2]}


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Any:
    place = tmp_path_factory.mktemp("per-layer")
    tiny_folder(place / "teacher", labels=2)
    text_folder(place / "text")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDNAS_CACHE", str(place / "cache"))
        patch.setenv("KDNAS_STATE", str(place / "state"))
        yield place


def spec_of(shelf: Path, trials: int = 4, **parts: Any) -> StudySpec:
    space = {"per_layer": True, "choices": {**CHOICES, "hidden_act": ["gelu"], "hidden_size": [16], "head_size": [8]}}
    budget = {"trials": trials, "epochs": 0}
    return tiny_spec(shelf / "teacher", shelf / "text", space=space, budget=budget, full={"epochs": 1}, **parts)


def ms(sizes: Sizes) -> float:
    """A made-up pass whose layers add up."""
    layers = [sizes.layer(i) for i in range(sizes.layers)]
    return 0.5 + sum(0.1 + 0.05 * layer.heads + 0.01 * layer.inner for layer in layers)


def timed(bench: Workbench, student: Student, chosen: Candidate) -> fakes.FakeTimed:
    time = ms(sizes_of(chosen))
    return fakes.FakeTimed(time, time, time, time)


def searched(shelf: Path, path: Path, *budgets: int, **parts: Any) -> list[TrialRow]:
    for trials in budgets:
        spec = spec_of(shelf, trials, **parts)
        begin(spec, path)
        assert run_worker(str(path), spec.name, measure=timed) == 0
    with open_store(path) as store:
        return sorted(queries.trial_rows(store, 1), key=lambda row: row.number)


@pytest.fixture(scope="module")
def done(shelf: Path) -> tuple[Path, list[TrialRow]]:
    return shelf / "kdnas.db", searched(shelf, shelf / "kdnas.db", 4)


def test_a_study_taken_up_goes_on_as_one_that_never_ended(shelf: Path, done: Any, tmp_path: Path) -> None:
    again = searched(shelf, tmp_path / "kdnas.db", 2, 4)
    assert [(row.candidate, row.loss, row.parameters) for row in again] == [
        (row.candidate, row.loss, row.parameters) for row in done[1]
    ]
    assert {row.state for row in again} == {"done"} and len({str(row.candidate) for row in again}) == 4


def test_the_plan_counts_it_and_the_command_begins_it(shelf: Path) -> None:
    spec = spec_of(shelf)
    assert plan(spec).space_size == 4 + 4 * 4
    assert "--set space.per_layer=true" in command(spec)
    limited = spec_of(shelf, constraints={"max_parameters": 3000})
    assert any("of 20 candidates keep to" in note for note in plan(limited).notes)


def test_latencies_by_blocks_are_sums_over_the_layers_own_blocks(shelf: Path, tmp_path: Path) -> None:
    rows = searched(shelf, tmp_path / "kdnas.db", 4, latency={"by": "blocks"})
    assert len({str(row.candidate) for row in rows}) == 4
    for row in rows:
        assert row.latency_predicted and row.latency_ms == pytest.approx(ms(sizes_of(row.candidate)))


def test_tables_and_screens_write_a_layers_sizes_in_one_place(done: Any) -> None:
    path, rows = done
    shown = CliRunner().invoke(show, ["study", "--storage", str(path)])
    assert shown.exit_code == 0 and "intermediate_size_1" not in shown.output
    deep = next(row for row in rows if row.candidate["num_hidden_layers"] == 2)
    sizes = [str(deep.candidate[f"intermediate_size_{i}"]) for i in (1, 2)]
    assert " ".join(sizes) in shown.output
    scored = rank(rows, -0.06, 0.6)
    board = Board(-0.06, 0.6)
    board.update(rows)
    columns = {column.key: column for column in columns_of(board)}
    one = next(s for s in scored if s.row.number == deep.number)
    assert columns["ffn"].text(one) == " ".join(sizes) and columns["ffn"].width == 9
    assert "intermediate_size_1" not in columns
    assert f"intermediate size {' '.join(sizes)}" in in_words(one)
    assert any(fact.name == "intermediate_size" for section in compared(scored) for fact in section.facts)
    assert exported(one)["candidate"] == deep.candidate


def test_a_finished_student_classifies_and_its_configuration_makes_it_again(
    shelf: Path, done: Any, tmp_path: Path
) -> None:
    path, rows = done
    differs = next(row for row in rows if "layer_heads" in row.config)
    facts = finalize(
        str(path), "study", tmp_path / "out", Telling(lambda words, share: None), trial=differs.number, device="cpu"
    )
    assert facts["parameters"] == differs.parameters
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["architectures"] == ["PerLayerBertForSequenceClassification"]
    assert (tmp_path / "out" / "modeling_per_layer.py").is_file()
    assert "trust_remote_code=True" in (tmp_path / "out" / "README.md").read_text()
    model, tokenizer = predict.open_model(tmp_path / "out", torch.device("cpu"))
    found = predict.predict(model, tokenizer, ["the good film", "a dull plot"], lambda words, share: None)
    assert [one.label in ("LABEL_0", "LABEL_1") for one in found] == [True, True]
    learnt = tmp_path / "data.jsonl"
    labelled = [{"text": f"w{'abcdefgh'[i % 8]}b film {i}", "label": f"LABEL_{i % 2}"} for i in range(40)]
    learnt.write_text("\n".join(map(json.dumps, labelled)))
    ask = ["finetune", str(tmp_path / "out"), "--task", "classification", "--data", str(learnt), "--length", "8"]
    ask += ["--text-column", "text", "--label-column", "label", "--epochs", "1", "--output", str(tmp_path / "more")]
    assert run(Lazy("kdnas", COMMANDS), [*ask, "--device", "cpu"]) == 0
    assert (tmp_path / "more" / "modeling_per_layer.py").is_file()
    predict.open_model(tmp_path / "more", torch.device("cpu"))
    plain = spec_of(shelf).model_copy(update={"space": tiny_spec(shelf / "teacher", shelf / "text").space})
    for config_of in (tmp_path / "out" / "config.json", tmp_path / "candidate.json"):
        (tmp_path / "candidate.json").write_text(json.dumps(differs.candidate))
        job = given(plain, read_config(config_of))
        depth = int(differs.candidate["num_hidden_layers"])
        ours = {k: v for k, v in differs.candidate.items() if k[-1] not in "12" or int(k[-1]) <= depth}
        assert job.candidate == ours and job.spec.space.per_layer
    uniform = {"num_hidden_layers": 1, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 8}
    assert not given(spec_of(shelf), {**uniform, "hidden_act": "gelu"}).spec.space.per_layer
