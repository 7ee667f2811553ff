"""The block library of a bench: scored once for all studies, one prediction for each candidate, and no wrong one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.fidelity import kendall
from kdnas.models import block_scores
from kdnas.recipes import recipe
from kdnas.recipes.hidden_state import HiddenStateBench
from kdnas.system import disk_cache
from kdnas.system.errors import UsageError
from kdnas.teachers import hidden_state_cache
from tests.encoders import text_folder, tiny_encoder, tiny_spec

CPU = torch.device("cpu")
SPACE = {
    "choices": {
        "num_hidden_layers": [2, 3],
        "hidden_size": [16, 24, 32],
        "head_size": [8],
        "intermediate_size": [8, 24, 64],
        "hidden_act": ["gelu"],
    }
}


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("library")
    text_folder(folder / "text")
    for family in ("bert", "albert"):
        tiny_encoder(folder / family, family)
    return folder


@pytest.fixture
def make(places: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("KDNAS_CACHE", str(places / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(hidden_state_cache, "_cold_read", lambda states: 0.0)
    opened: list[HiddenStateBench] = []

    def prepare(**parts: Any) -> HiddenStateBench:
        given = {"space": SPACE, "budget": {"epochs": 0}, "strategy": {"name": "blocks"}, **parts}
        spec = tiny_spec(places / "bert", places / "text", **given)
        bench = recipe("hidden-state").prepare(spec, CPU, lambda what, share: None)
        assert isinstance(bench, HiddenStateBench)
        opened.append(bench)
        return bench

    yield prepare
    for bench in opened:
        bench.close()


def quiet(what: str, share: float | None) -> None:
    pass


def test_within_a_depth_the_predicted_order_is_about_that_of_the_fitted_scores(make: Any) -> None:
    bench = make()
    found = bench.predicted(quiet)
    candidates = list(bench.space.candidates())
    assert found.shape == (len(candidates),) and bool(((found >= 0) & (found <= 1)).all())
    real = [bench.training(bench.build(c, 0), epochs=0, seed=0).begin().score.loss for c in candidates]
    depths = [c["num_hidden_layers"] for c in candidates]
    assert kendall(list(found), real, depths) > 0.4  # teacher and text of random numbers


def test_what_is_scored_once_is_read_by_all_studies_of_these_blocks(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    first = make().predicted(quiet)
    assert any(item.kind == "teacher/blocks" for item in disk_cache.items())  # under the cache's limit
    monkeypatch.setattr(block_scores, "unexplained", lambda *args: pytest.fail("a block was scored again"))
    again = make(budget={"epochs": 2})  # another study
    assert bool((again.predicted(quiet) == first).all())


def test_blocks_are_scored_in_any_order_to_the_same_bits(
    make: Any, monkeypatch: pytest.MonkeyPatch, places: Path
) -> None:
    first = make().predicted(quiet)
    monkeypatch.setenv("KDNAS_CACHE", str(places / "other"))
    monkeypatch.setattr("os.getpid", lambda: 2)  # a process that begins at another shape
    assert bool(np.array_equal(make().predicted(quiet), first))


def test_a_teacher_of_shared_layers_is_refused_before_anything_runs(places: Path) -> None:
    spec = tiny_spec(places / "albert", places / "text", strategy={"name": "blocks"})
    with pytest.raises(UsageError, match=r"scores blocks one by one, and those of '.*albert' share their weights"):
        recipe("hidden-state").describe(spec)


def test_students_that_are_only_sliced_have_no_library(make: Any) -> None:
    bench = make(recipe={"name": "hidden-state", "init": "inherit"}, strategy={"name": "tpe"})
    with pytest.raises(UsageError, match="Nothing is predicted of this recipe's students"):
        bench.predicted(quiet)
