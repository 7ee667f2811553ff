"""A text that is too short to learn from: fitted students are scored only, and the study says so."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from kdnas.search.begin import begin
from kdnas.search.plan import plan
from kdnas.search.worker import run_worker
from kdnas.store import queries
from kdnas.store.database import open_store
from kdnas.study import short_text
from kdnas.study.rows import TrialRow
from kdnas.study.short_text import LEARNABLE_TOKENS, allowed, too_short
from kdnas.study.spec import StudySpec, from_store, from_values
from kdnas.study.spec_flags import command
from tests import fakes
from tests.encoders import text_folder, tiny_encoder, tiny_spec

FITTED = {"recipe": {"name": "hidden-state", "init": "fitted"}}
SMALL = {"space": {"choices": {"num_hidden_layers": [1, 2], "intermediate_size": [16], "hidden_act": ["gelu"]}}}


def spec(**parts: Any) -> StudySpec:
    return from_values({"budget": {"epochs": 3}, **FITTED, **parts})


def test_tokens_times_epochs_decide() -> None:
    enough = -(-LEARNABLE_TOKENS // 3)
    assert too_short(spec(), enough - 1) and not too_short(spec(), enough)
    assert too_short(spec(budget={"epochs": 1}), enough)
    short = allowed(spec(budget={"epochs": 3, "rungs": [0.5, 0.5]}), 1000)
    assert (short.epochs, short.rungs, short.trials) == (0, (), 100)
    assert allowed(spec(budget={"epochs": 3, "pruner": "asha"}), 1000).pruner == "none"


@pytest.mark.parametrize(
    "parts",
    [
        {"budget": {"epochs": 3, "short_text": "train"}},
        {"recipe": {"name": "hidden-state", "init": "inherit"}},
        {"recipe": {"name": "hidden-state", "init": "random"}},
        {"recipe": {"name": "causal-divergence"}},
        {"space": {"variants": {"a": {}, "b": {"training": {"learning_rate": 1e-3}}}}},
    ],
    ids=["asked for", "sliced", "fresh", "causal", "runs to compare"],
)
def test_what_trains_however_short_the_text(parts: dict[str, Any]) -> None:
    assert not too_short(spec(**parts), 10) and allowed(spec(**parts), 10) == spec(**parts).budget


def test_only_whoever_asks_has_the_setting_in_the_command() -> None:
    assert "--set budget.short_text=train" in command(spec(budget={"epochs": 3, "short_text": "train"}))
    assert "short_text" not in command(spec())


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("ground")
    return tiny_encoder(folder / "model"), text_folder(folder / "text")


def searched(ground: tuple[Path, Path], path: Path, **budget: Any) -> tuple[list[TrialRow], dict[str, Any], list[str]]:
    wanted = tiny_spec(*ground, **FITTED, **SMALL, budget={"trials": 2, "epochs": 1, "short_text": "score", **budget})
    begin(wanted, path)
    assert run_worker(str(path), wanted.name, measure=fakes.measure) == 0
    with open_store(path) as store:
        lines = [row.line for row in queries.logs(store, 1)]
        return queries.trial_rows(store, 1), queries.provenance(store, 1), lines


def test_a_search_scores_as_built_and_says_why(ground: tuple[Path, Path], tmp_path: Path) -> None:
    rows, provenance, lines = searched(ground, tmp_path / "a.db")
    assert [(row.state, row.epoch, row.epochs) for row in rows] == [("done", 0, 0)] * 2
    told = provenance["short_text"]
    assert told == {"proxy_tokens": provenance["proxy_tokens"], "epochs": 1, "needed": LEARNABLE_TOKENS}
    (words,) = short_text.told(provenance)
    assert words in lines and f"{told['proxy_tokens']:,} tokens, where 60,000" in words
    explicit, plain, quiet = searched(ground, tmp_path / "b.db", short_text="train")
    assert [(row.state, row.epoch, row.epochs) for row in explicit] == [("done", 1, 1)] * 2
    assert "short_text" not in plain and not any("too short" in line for line in quiet)
    asked, _, _ = searched(ground, tmp_path / "c.db", epochs=0)
    assert [row.loss for row in asked] == [row.loss for row in rows] != [row.loss for row in explicit]


def test_a_plan_tells_it_beforehand_and_counts_no_training(ground: tuple[Path, Path]) -> None:
    wanted = tiny_spec(*ground, **FITTED, **SMALL, budget={"short_text": "score"})
    made = plan(wanted)
    assert any("too short to learn from" in note and "budget.short_text=train" in note for note in made.notes)
    trained = plan(tiny_spec(*ground, **FITTED, **SMALL, budget={"short_text": "train"}))
    assert not any("too short" in note for note in trained.notes)


def test_a_study_of_an_earlier_version_goes_on_as_it_began(ground: tuple[Path, Path], tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    wanted = tiny_spec(*ground, **FITTED, **SMALL, budget={"trials": 1, "epochs": 1, "short_text": "score"})
    begin(wanted, path)
    with sqlite3.connect(path) as store:
        (text,) = store.execute("SELECT spec FROM kdnas_study").fetchone()
        whole = json.loads(text)
        assert whole["budget"].pop("short_text") == "score"
        store.execute("UPDATE kdnas_study SET spec = ?", (json.dumps(whole),))
    assert from_store(whole).budget.short_text == "train"
    assert run_worker(str(path), wanted.name, measure=fakes.measure) == 0
    with open_store(path) as store:
        assert [(row.epoch, row.epochs) for row in queries.trial_rows(store, 1)] == [(1, 1)]
