"""The block library of a bench: scored once for all studies, one prediction for each candidate, and no wrong one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.kendall import kendall
from kdnas.models import block_scores, decoder_block_scores, decoders
from kdnas.models.encoders import FAMILIES
from kdnas.recipes import recipe
from kdnas.recipes.contract import Workbench
from kdnas.study.spec import StudySpec
from kdnas.system import disk_cache
from kdnas.system.errors import UsageError
from kdnas.teachers import hidden_state_cache
from tests.encoders import text_folder, tiny_encoder, tiny_spec
from tests.recipes import tiny_causal
from tests.recipes.test_fitted_decoder_students import spec as causal_spec

CPU = torch.device("cpu")
COUNTS = [8, 24, 64]
CHOICES: dict[str, dict[str, Any]] = {
    "bert": {"hidden_size": [16, 24, 32], "head_size": [8], "hidden_act": ["gelu"]},
    "llama": {"num_attention_heads": [2, 4], "head_size": [4, 8], "hidden_act": ["silu"]},  # two share a key-value head
    "gpt2": {"num_attention_heads": [1, 2], "head_size": [8, 16], "hidden_act": ["gelu_new"]},
}
KINDS = tuple(CHOICES)
SCORES = {"bert": block_scores, "llama": decoder_block_scores, "gpt2": decoder_block_scores}


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("library")
    text_folder(folder / "text")
    tiny_causal.text_file(folder / "words.txt")
    for family in ("bert", "albert"):
        tiny_encoder(folder / family, family)
    for family in ("llama", "gpt2"):
        tiny_causal.folder(folder / family, family)
    return folder


def spec_of(places: Path, kind: str, **parts: Any) -> StudySpec:
    """A study of the kind's space, to be scored as fitted; causal ones as their own tests have them."""
    space = {"choices": {"num_hidden_layers": [2, 3], "intermediate_size": COUNTS, **CHOICES[kind]}}
    given = {"space": space, "budget": {"epochs": 0, "proxy_fraction": 1.0}, "strategy": {"name": "blocks"}, **parts}
    if kind in FAMILIES:
        return tiny_spec(places / kind, places / "text", **given)
    return causal_spec(places / kind, places / "words.txt", **given)


@pytest.fixture
def make(places: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("KDNAS_CACHE", str(places / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(hidden_state_cache, "_cold_read", lambda states: 0.0)
    opened: list[Workbench] = []

    def prepare(kind: str, **parts: Any) -> Workbench:
        spec = spec_of(places, kind, **parts)
        opened.append(recipe(spec.recipe.name).prepare(spec, CPU, lambda what, share: None))
        return opened[-1]

    yield prepare
    for bench in opened:
        bench.close()


def quiet(what: str, share: float | None) -> None:
    pass


@pytest.mark.parametrize("kind", KINDS)
def test_within_a_depth_the_predicted_order_is_about_that_of_the_fitted_scores(make: Any, kind: str) -> None:
    bench = make(kind)
    found = bench.predicted(quiet)
    candidates = list(bench.space.candidates())
    assert found.shape == (len(candidates),) and bool(((found >= 0) & (found <= 1)).all())
    real = [bench.training(bench.build(c, 0), epochs=0, seed=0).begin().score.loss for c in candidates]
    depths = [c["num_hidden_layers"] for c in candidates]
    assert [bench.group(c) for c in candidates] == [f"{depth} layers" for depth in depths]
    assert kendall(list(found), real, depths) > 0.4  # teacher and text of random numbers, or taught for seconds


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_scored_once_is_read_by_all_studies_of_these_blocks(
    make: Any, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    first = make(kind).predicted(quiet)
    assert any(item.kind == "teacher/blocks" for item in disk_cache.items())  # under the cache's limit
    monkeypatch.setattr(SCORES[kind], "unexplained", lambda *args: pytest.fail("a block was scored again"))
    again = make(kind, budget={"epochs": 2, "proxy_fraction": 1.0})  # another study
    assert bool((again.predicted(quiet) == first).all())


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_are_scored_in_any_order_to_the_same_bits(
    make: Any, monkeypatch: pytest.MonkeyPatch, places: Path, kind: str
) -> None:
    first = make(kind).predicted(quiet)
    monkeypatch.setenv("KDNAS_CACHE", str(places / "other"))
    monkeypatch.setattr("os.getpid", lambda: 2)  # a process that begins at another shape
    assert bool(np.array_equal(make(kind).predicted(quiet), first))


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_student_of_which_nothing_is_cut_is_predicted_to_lose_nothing(make: Any, kind: str) -> None:
    candidate = decoders.candidate_of(make(kind).teacher.config)
    bench = make(kind, space={"choices": {name: [value] for name, value in candidate.items()}})
    assert float(bench.predicted(quiet)[0]) < 0.1  # what rounding the states to bf16 leaves, to the power of 0.3


def test_a_teacher_of_shared_layers_is_refused_before_anything_runs(places: Path) -> None:
    spec = tiny_spec(places / "albert", places / "text", strategy={"name": "blocks"})
    with pytest.raises(UsageError, match=r"scores blocks one by one, and those of '.*albert' share their weights"):
        recipe("hidden-state").describe(spec)


@pytest.mark.parametrize("parts", [{"strategy": {"name": "blocks"}}, {"latency": {"length": 16, "by": "blocks"}}])
def test_layers_that_attend_in_different_ways_are_refused_before_anything_runs(
    places: Path, tmp_path: Path, parts: dict[str, Any]
) -> None:
    kinds = ["full_attention", "sliding_attention", "full_attention"]
    tiny_causal.folder(
        tmp_path / "qwen2", "qwen2", steps=1, layer_types=kinds, use_sliding_window=True, sliding_window=8
    )
    spec = causal_spec(tmp_path / "qwen2", places / "words.txt", **parts)
    with pytest.raises(UsageError, match=r"Layers of '.*qwen2' attend in 2 ways \(full_attention, sliding_attention\)"):
        recipe(spec.recipe.name).describe(spec)
    plain = causal_spec(tmp_path / "qwen2", places / "words.txt")
    assert recipe(plain.recipe.name).describe(plain).space.size > 1


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_students_that_are_only_sliced_have_no_library(make: Any, kind: str) -> None:
    named = {"bert": "hidden-state", "llama": "causal-divergence"}[kind]
    budget = {"epochs": 1, "proxy_fraction": 1.0}
    bench = make(kind, recipe={"name": named, "init": "inherit"}, strategy={"name": "tpe"}, budget=budget)
    with pytest.raises(UsageError, match="Nothing is predicted of this recipe's students"):
        bench.predicted(quiet)
