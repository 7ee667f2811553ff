"""From a study to a finished, scored and reported model through the command line, with real tiny models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoModel

from kdnas.cli.spec_options import base_values, spec_from
from kdnas.search.begin import begin
from kdnas.store import queries
from kdnas.store.database import open_reader
from tests.cli.conftest import Place, Quick
from tests.scores.test_finetuned_tasks import write_task


@pytest.mark.heavy
def test_a_study_becomes_a_model_with_scores_and_a_report(place: Place, quick: Quick) -> None:
    begin(spec_from(base_values(None, place.spec, None), {"budget.trials": 2}), place.store)
    assert quick("worker", "tiny").code == 0
    output = place.folder / "student"

    made = place.forked("finalize", "tiny", "--rank", "1", "--output", str(output), "--epochs", "2", "--json")
    assert made.code == 0, made.err
    assert "epoch 2 of 2" in made.err
    best = quick("show", "tiny", "--json").data["trials"][0]
    assert made.data["trial"] == best["number"] and made.data["candidate"] == best["candidate"]
    assert made.data["spec"]["full"]["epochs"] == 2
    assert made.data["metrics"]["loss"] < 1.5
    AutoModel.from_pretrained(output)

    again = quick("finalize", "tiny", "--rank", "1", "--output", str(output), "--epochs", "2")
    assert again.code == 0 and "finished already" in again.err
    other = quick("finalize", "tiny", "--rank", "2", "--output", str(output), "--epochs", "2")
    assert other.code == 2 and "already holds another model" in other.line

    write_task(place.folder / "tasks", "sst2", count=16)
    scored = quick(
        "evaluate", str(output), "--tasks", "sst2,perplexity", "--seeds", "1", "--data-dir", str(place.folder / "tasks")
    )
    assert scored.code == 0, scored.err
    assert "| sst2 | accuracy |" in scored.out and "masked-language perplexity" in scored.out
    results = json.loads((output / "results.json").read_text())
    assert results["tasks"]["sst2"]["teacher"]["score"] > 0 and results["perplexity"]["student"]["perplexity"] > 1
    assert (output / "results.md").read_text() == results["markdown"]
    assert "| sst2 | accuracy |" in (output / "README.md").read_text()

    with open_reader(str(place.store)) as store:
        study_id = queries.study_row(store, "tiny").study_id
        rows = queries.runs(store, study_id)
        assert [(run.kind, run.state, run.number) for run in rows] == [
            ("finalize", "done", best["number"]),
            ("evaluate", "done", best["number"]),
        ]
        assert rows[0].result["metrics"]["loss"] == made.data["metrics"]["loss"]
        assert [point["epoch"] for point in rows[0].result["curve"]] == [0, 1, 2]
        assert rows[1].result["tasks"]["sst2"]["kept"] == results["tasks"]["sst2"]["kept"]
        states = {(worker.task, worker.state) for worker in queries.workers(store, study_id)}
        assert {("finalize", "ended"), ("evaluate", "ended")} <= states

    check_report(place, quick)


def check_report(place: Place, quick: Quick) -> None:
    page = place.folder / "report.html"
    said = quick("report", "tiny", "--output", str(page))
    assert said.code == 0, said.err
    text = page.read_text()
    assert "<svg" in text and "tiny" in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("finalize", "nobody", "--output", "out"), "no study 'nobody'"),
        (("finalize", "tiny", "--rank", "1", "--trial", "2", "--output", "out"), "both choose the candidate"),
        (("finalize", "tiny", "--output", "nowhere/out"), "tiny"),
        (("evaluate", "nowhere"), "There is no folder nowhere"),
        (("evaluate", "."), "is not a model: it has no config.json"),
        (("distill", "--config", "nothing.json", "--output", "out"), "nothing.json cannot be read"),
        (("report", "nobody", "--output", "report.html"), "no study 'nobody'"),
    ],
)
def test_a_wrong_request_is_one_line_and_code_two(
    arguments: tuple[str, ...], said: str, place: Place, quick: Quick
) -> None:
    from kdnas.store.database import open_store

    open_store(str(place.store), create=True).close()
    done = quick(*arguments)
    assert done.code == 2, done.err
    assert said in done.line
    assert not (place.folder / "out").exists() and not (place.folder / "report.html").exists()


def test_an_unknown_task_names_the_nearest(shelf: Path, quick: Quick) -> None:
    done = quick("evaluate", str(shelf / "teacher"), "--tasks", "sst3")
    assert done.code == 2 and "Did you mean 'sst2'" in done.line
