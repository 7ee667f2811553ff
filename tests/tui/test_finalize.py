"""The Finalize screen: what its form refuses, what it starts, and what it shows of jobs as they go and end."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from textual.pilot import Pilot
from textual.widgets import Input, Static

from kdnas.store import jobs, queries
from kdnas.store import tables as t
from kdnas.store.changes import bump
from kdnas.store.database import Store, open_store
from kdnas.students import unfinished
from kdnas.study import export
from kdnas.study.constraints import Limits
from kdnas.study.full_time import UNKNOWN
from kdnas.study.trial_columns import Board
from kdnas.system.folders import partial_of
from kdnas_tui import workers
from kdnas_tui.screens.finalize import FinalizeScreen, in_words
from kdnas_tui.screens.study import StudyScreen
from kdnas_tui.widgets.tick import Tick
from tests.rows import made_row
from tests.tui.driving import SIZES, app_on, driven, opened, screen, settled, shows, text_of, until
from tests.tui.filled import NOW


@pytest.fixture
def store(three_studies: Path, tmp_path: Path) -> Iterator[Store]:
    shutil.copy(three_studies, tmp_path / "kdnas.db")
    with open_store(tmp_path / "kdnas.db") as store:
        yield store


@pytest.fixture
async def pilot(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Pilot[str]]:
    monkeypatch.chdir(tmp_path)
    async with driven(app_on(store.url)) as pilot:
        await opened(pilot, "minilm")
        yield pilot


async def finalize(pilot: Pilot[str]) -> FinalizeScreen:
    await pilot.press("f")
    await until(pilot, lambda: isinstance(pilot.app.screen, FinalizeScreen), "Finalize is shown")
    await settled(pilot)
    found: FinalizeScreen = screen(pilot.app, FinalizeScreen)
    return found


async def fill(pilot: Pilot[str], field: str, text: str) -> None:
    pilot.app.screen.query_one(f"#{field}", Input).value = text
    await settled(pilot)


async def test_it_takes_the_candidate_under_the_cursor(pilot: Pilot[str]) -> None:
    await pilot.press("down")
    await settled(pilot)
    study: StudyScreen = screen(pilot.app, StudyScreen)
    number = study.watched.cursor
    await finalize(pilot)
    assert pilot.app.screen.query_one("#trial", Input).value == str(number)
    assert pilot.app.screen.query_one("#folder", Input).value == f"minilm-{number}"
    await fill(pilot, "trial", "3")
    assert pilot.app.screen.query_one("#folder", Input).value == "minilm-3"
    assert "No candidate of this study has become a model yet." in text_of(pilot.app)
    await fill(pilot, "epochs", "0")
    await until(pilot, shows(pilot.app, "It is written as it was built, without a step."), "no epoch, no time")


async def test_a_wrong_form_says_the_hint_and_starts_nothing(
    pilot: Pilot[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "launch", lambda *given: pytest.fail("started"))
    await finalize(pilot)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    for field, text, said in (
        ("trial", "999", "There is no trial 999."),
        ("epochs", "none", "'none' is no number of epochs. Give 0 to 10000."),
        ("folder", "", "has no name"),
        ("folder", "nowhere/model", "does not exist"),
        ("folder", "full", "is not empty"),
    ):
        usual = pilot.app.screen.query_one(f"#{field}", Input).value
        await fill(pilot, field, text)
        await until(pilot, lambda said=said: said in " ".join(text_of(pilot.app).split()), said)  # on one line or two
        await pilot.press("ctrl+s")
        await fill(pilot, field, usual)


async def test_it_starts_the_command_that_a_person_would(
    pilot: Pilot[str], store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = tmp_path / "heard.json"
    program = f"import json, sys; open({str(heard)!r}, 'w').write(json.dumps(sys.argv[1:]))"
    monkeypatch.setattr(workers, "KDNAS", (sys.executable, "-c", program))
    await finalize(pilot)
    await fill(pilot, "trial", "3")
    await fill(pilot, "epochs", "7")
    await pilot.press("ctrl+s")
    await until(pilot, lambda: heard.exists() and heard.read_text(), "the command ran")
    asked = json.loads(heard.read_text())
    assert asked == [
        "finalize", "minilm", "--trial", "3", "--output", str(tmp_path / "minilm-3"), "--epochs", "7",
        "--storage", store.url,
    ]  # fmt: skip


async def test_gguf_is_offered_for_causal_students_and_no_others(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for recipe, offered in (("hidden-state", 0), ("causal-divergence", 1)):
        row = queries.study_row(store, "minilm")
        spec = {**row.spec, "recipe": {"name": recipe, "init": "fitted"}}
        with store.begin() as connection:
            of_study = t.study.update().where(t.study.c.study_id == row.study_id)
            connection.execute(of_study.values(spec=json.dumps(spec)))
        async with driven(app_on(store.url), SIZES["80x24"]) as pilot:
            await opened(pilot, "minilm")
            await finalize(pilot)
            assert "Distil" in text_of(pilot.app)
            ticks = pilot.app.screen.query("#gguf")
            assert len(ticks) == offered, recipe
            for tick in ticks.results(Tick):
                tick.value = True
                await settled(pilot)
                assert "--gguf" in " ".join(text_of(pilot.app).split())


async def test_what_the_command_complains_of_is_shown(pilot: Pilot[str], monkeypatch: pytest.MonkeyPatch) -> None:
    program = "import sys; print('kdnas: The teacher is gone. Bring it back.', file=sys.stderr); sys.exit(2)"
    monkeypatch.setattr(workers, "KDNAS", (sys.executable, "-c", program))
    await finalize(pilot)
    await pilot.press("ctrl+s")
    await until(pilot, shows(pilot.app, "The teacher is gone."), "the complaint is shown")


async def test_jobs_are_shown_as_they_go_and_as_they_ended(pilot: Pilot[str], store: Store, tmp_path: Path) -> None:
    study_id = queries.study_row(store, "minilm").study_id
    found = await finalize(pilot)
    run_id = jobs.begin(store, study_id, "finalize", str(tmp_path / "minilm-3"), number=3)
    jobs.progress(store, run_id, 0.5, "epoch 2 of 4", {"curve": [{"epoch": 1, "loss": 0.25}]})
    await until(pilot, shows(pilot.app, "its process is gone"), "a dead job is told from a running one")
    with store.begin() as connection:
        connection.execute(
            t.worker.insert().values(
                study_id=study_id, host="elsewhere", pid=1, lock=None, device="cpu", state="running", task="finalize",
                started=NOW, heartbeat=NOW,
            )
        )  # fmt: skip
    jobs.progress(store, run_id, 0.75, "epoch 3 of 4")
    await until(pilot, shows(pilot.app, "75%  epoch 3 of 4"), "the progress is shown")
    await pilot.press("ctrl+k")
    await until(pilot, shows(pilot.app, "They run on elsewhere."), "another machine's job cannot be stopped here")
    metrics = {"loss": 0.123, "best_epoch": 3, "epochs": 4}
    jobs.end(store, run_id, {"metrics": metrics, "latency": {"student_ms": 4.2, "speedup": 3.51}, "curve": []})
    await until(pilot, shows(pilot.app, "loss 0.1230 after epoch 3 of 4, 4.20 ms, 3.51 × the teacher"), "the result")
    other = jobs.begin(store, study_id, "evaluate", str(tmp_path / "minilm-3"), number=3)
    jobs.end(store, other, {"tasks": {"sst2": {"student": {"score": 0.8}, "teacher": {"score": 0.9}, "kept": 88.9}}})
    await until(pilot, shows(pilot.app, "sst2 80.0, teacher 90.0, 88.9 % kept"), "the scores")
    failed = jobs.begin(store, study_id, "finalize", str(tmp_path / "other"), number=4)
    jobs.fail(store, failed, "The loss is nan after epoch 2.")
    await until(pilot, shows(pilot.app, "The loss is nan after epoch 2."), "the failure")
    assert found is pilot.app.screen
    await pilot.press("escape")
    await until(pilot, lambda: isinstance(pilot.app.screen, StudyScreen), "back at the study")


async def test_what_was_left_keeps_its_epochs_and_looks_like_no_error(pilot: Pilot[str], tmp_path: Path) -> None:
    partial = partial_of(tmp_path / "minilm-3")
    partial.mkdir()
    unfinished.write(partial, study="minilm", trial=3, epochs=7, patience=9)
    for state in ("state-00001", "state-00002-00000012"):
        (partial / f"{state}.safetensors").touch()
    await finalize(pilot)
    epochs = pilot.app.screen.query_one("#epochs", Input)
    usual = epochs.value
    await fill(pilot, "trial", "3")
    assert epochs.value == "7" != usual  # the study's own would not go on with them
    said = " ".join(text_of(pilot.app).split())
    assert "done already 2 of 7 epochs and 12 steps of the next, from where it goes on" in said
    assert "--epochs 7 --patience 9" in said
    assert str(pilot.app.screen.query_one("#hint", Static).render()) == ""
    await fill(pilot, "trial", "4")
    await until(pilot, shows(pilot.app, "minilm-4"), "the folder follows the trial")
    assert epochs.value == usual
    await fill(pilot, "folder", "minilm-3")
    assert "minilm-3 holds what is done of trial 3." in " ".join(text_of(pilot.app).split())


async def test_the_expected_time_is_told_by_the_search_where_it_is_known(pilot: Pilot[str], store: Store) -> None:
    study_id = queries.study_row(store, "minilm").study_id
    found = await finalize(pilot)
    with store.begin() as connection:
        own = t.curve.c.study_id == study_id
        number = connection.execute(sa.select(t.curve.c.number).where(own).order_by(t.curve.c.epoch.desc())).scalar()
        c = t.curve.c
        connection.execute(t.curve.update().where(own).values(seconds=60.0 * c.epoch, tokens=1000 * c.epoch))
        facts = {"training_tokens": 10_000, "held_out_tokens": 0, "device": "cpu: tiny"}
        of_study = t.study.update().where(t.study.c.study_id == study_id)
        connection.execute(of_study.values(provenance=json.dumps(facts)))
        bump(connection, study_id)
    await fill(pilot, "trial", str(number))
    await fill(pilot, "epochs", "6")
    await until(pilot, lambda: "6 epochs in 1h00" in " ".join(text_of(pilot.app).split()), "the time is told")
    said = " ".join(text_of(pilot.app).split())
    assert "at its speed in the search, on cpu: tiny; fewer where the loss no longer falls" in said
    assert found is pilot.app.screen


async def test_scores_need_a_model(pilot: Pilot[str]) -> None:
    await finalize(pilot)
    await pilot.press("ctrl+e")
    await until(pilot, shows(pilot.app, "No model has been made yet."), "the fault is shown")


@pytest.mark.parametrize("size", ["48x40", "80x24", "120x36"])
async def test_it_fits_every_size(size: str, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    async with driven(app_on(store.url), SIZES[size]) as pilot:
        study = await opened(pilot, "minilm")
        await pilot.app.push_screen(FinalizeScreen(study.watched, study.desk, 3))
        await settled(pilot)
        shown = text_of(pilot.app)
        for words in ("finalize", "trial", "folder", "epochs", "Distil", "^s"):
            assert words in shown, shown


async def test_a_candidate_that_the_search_did_not_train_has_a_time_once_it_is_measured(
    pilot: Pilot[str], store: Store
) -> None:
    study_id = queries.study_row(store, "minilm").study_id
    with store.begin() as connection:
        connection.execute(t.curve.delete().where(t.curve.c.study_id == study_id))
        bump(connection, study_id)
    await finalize(pilot)
    await fill(pilot, "trial", "5")
    assert UNKNOWN in " ".join(text_of(pilot.app).split())


def test_the_candidate_in_words_has_the_milliseconds_that_exports_have() -> None:
    board = Board(-0.06, 0.6, limits=Limits((), 16.0))
    board.update([made_row(1, latency_ms=4.0, teacher_latency_ms=32.0)])  # beside a teacher that was disturbed
    scored = board.scored(1)
    assert scored is not None
    said = in_words(scored)
    assert "2.00 ms, 8.0 × the teacher" in said
    names, cells = (next(csv.reader([line])) for line in export.csv_lines([export.candidate(scored)], 16.0))
    assert float(cells[names.index("latency_p50_ms")]) == 2.0
