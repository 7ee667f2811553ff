"""The published pipeline as a preset: its figures, and that it runs on whatever BERT-like teacher is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kdnas.recipes.spaces.encoder import KD_NAS
from kdnas.search.begin import begin
from kdnas.search.plan import plan
from kdnas.search.worker import run_worker
from kdnas.store import queries
from kdnas.store.database import open_store
from kdnas.study.spec import StudySpec, from_values
from kdnas.study.spec_flags import overlay
from kdnas.study.spec_strategies import LstmStrategy
from kdnas.study.spec_toml import read_values
from kdnas.system.paths import presets
from tests import fakes
from tests.encoders import text_folder, tiny_encoder


def preset(*changes: tuple[str, Any]) -> StudySpec:
    return from_values(overlay({"name": "kd-nas", **read_values(presets()["kd-nas"])}, list(changes)))


def test_the_preset_has_the_published_figures() -> None:
    spec = preset()
    assert (spec.reward.alpha, spec.reward.beta, spec.reward.loss) == (-0.06, 0.6, "raw")
    budget = spec.budget
    assert (budget.trials, budget.epochs, budget.proxy_fraction, budget.rungs) == (300, 4, 0.3, ())
    assert (spec.training.learning_rate, spec.recipe.init, spec.space.preset) == (5e-5, "random", "kd-nas")  # type: ignore[attr-defined]
    assert isinstance(spec.strategy, LstmStrategy)
    own = spec.strategy
    assert (own.controller, own.episodes, own.samples, own.pool) == ("paper", 15, 20, 200)
    with_tpe = preset(("strategy.name", "tpe"))
    assert with_tpe.strategy.name == "tpe" and with_tpe.budget.trials == 300


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A random teacher with the least sizes of the published lists, and text of its words."""
    folder = tmp_path_factory.mktemp("ground")
    sizes = {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 384}
    return tiny_encoder(folder / "model", num_hidden_layers=3, **sizes), text_folder(folder / "text", 12, 60)


def small(ground: tuple[Path, Path], *changes: tuple[str, Any]) -> StudySpec:
    model, text = ground
    fewer = [("data.length", 16), ("data.batch_size", 8), ("data.held_out", 0.1), ("latency.length", 16)]
    return preset(("teacher.model", str(model)), ("data.source", str(text)), ("device", "cpu"), *fewer, *changes)


def test_the_space_is_the_published_lists_as_far_as_the_teacher_goes(ground: tuple[Path, Path]) -> None:
    made = plan(small(ground))
    assert made.dimensions == {
        "num_hidden_layers": (3,),
        "hidden_size": (384,),
        "num_attention_heads": KD_NAS["num_attention_heads"],
        "intermediate_size": (384,),
        "hidden_act": KD_NAS["hidden_act"],
    }


@pytest.mark.parametrize("strategy", ["lstm", "tpe"])
def test_it_runs_on_another_teacher(ground: tuple[Path, Path], tmp_path: Path, strategy: str) -> None:
    controller = [("strategy.episodes", 1), ("strategy.samples", 2)] if strategy == "lstm" else []
    less = [("strategy.name", strategy), *controller, ("budget.trials", 2), ("budget.epochs", 1)]
    wanted = small(ground, *less)
    begin(wanted, tmp_path / "a.db")
    assert run_worker(str(tmp_path / "a.db"), "kd-nas", measure=fakes.measure) == 0
    with open_store(tmp_path / "a.db") as store:
        rows = queries.trial_rows(store, 1)
        provenance = queries.provenance(store, 1)
    assert [(row.state, row.epoch, row.rung) for row in rows] == [("done", 1, None)] * 2
    assert all(row.raw_loss is not None and row.reward is not None for row in rows)
    assert "short_text" not in provenance  # fresh students are trained on however little
