"""Causal students scored as they were fitted: states computed once, no wrong score, and every way to write them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from kdnas.models import least_squares_init
from kdnas.recipes import fitted_decoder_students, recipe
from kdnas.recipes.causal import CausalBench
from kdnas.study.spec import StudySpec, from_store, from_values
from kdnas.system.errors import BadOptionError, UsageError
from kdnas.teachers import cache_folder, decoder_states
from kdnas.teachers.causal import cross_entropy
from tests.recipes import tiny_causal

FAMILIES = ("llama", "gpt2")
SMALL = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "hidden_act": "silu"}
HEAD = {"llama": 8, "gpt2": 16}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("fitted-decoders")
    for family in FAMILIES:
        tiny_causal.folder(place / family, family)
    tiny_causal.text_file(place / "text.txt", 12)
    return place


@pytest.fixture
def make(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("KDNAS_CACHE", str(place / "cache"))
    opened: list[CausalBench] = []

    def prepare(family: str | Path = "llama", **parts: Any) -> CausalBench:
        chosen = spec(place / family, place / "text.txt", **parts)
        bench = recipe(chosen.recipe.name).prepare(chosen, torch.device("cpu"), lambda what, share: None)
        assert isinstance(bench, CausalBench)
        opened.append(bench)
        return bench

    yield prepare
    for bench in opened:
        bench.close()


def spec(model: Path, text: Path, **parts: Any) -> StudySpec:
    values: dict[str, Any] = {
        "teacher": {"model": str(model)},
        "data": {"source": str(text), "length": 16, "batch_size": 8, "held_out": 0.1},
        "latency": {"length": 16},
        "recipe": {"name": "causal-divergence", "init": "fitted", "top_k": 6},
        "budget": {"proxy_fraction": 1.0, "epochs": 0},
    }
    return from_values({**values, **parts})


def small(family: str) -> dict[str, Any]:
    return {**SMALL, "head_size": HEAD[family]}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_fitted_student_beats_word_counts_before_any_step(make: Any, family: str, tmp_path: Path) -> None:
    bench = make(family)
    student = bench.build(small(family), seed=0)
    epoch = bench.training(student, epochs=0, seed=0).begin()
    assert not [entry for entry in cache_folder.entries() if "k" in entry.facts]  # no logits, which nobody learns from
    assert epoch.epoch == 0 and epoch.score.loss < 1
    assert epoch.score.raw_loss == pytest.approx(cross_entropy(student.body, bench.held_ids))
    bench.save(student, tmp_path / "out")
    from transformers import AutoModelForCausalLM

    opened = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    assert cross_entropy(opened, bench.held_ids) == pytest.approx(epoch.score.raw_loss, abs=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_student_of_the_teachers_sizes_is_the_teacher(make: Any, family: str) -> None:
    from kdnas.models import decoders

    bench = make(family)
    whole = bench.build(decoders.candidate_of(bench.teacher.config), seed=0)
    with torch.no_grad():
        own, theirs = (m(input_ids=bench.held_ids).logits for m in (whole.body, bench.teacher.model))
    assert float((own - theirs).abs().max()) < 1e-4
    assert bench.score(whole).loss == pytest.approx(0, abs=1e-6)


def test_the_teachers_states_are_computed_once_for_all_candidates_and_benches(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = make("llama").build(small("llama"), seed=0).body.state_dict()

    def refused(*_: Any) -> Any:
        raise AssertionError("the teacher's states are computed again")

    monkeypatch.setattr(decoder_states, "_passes", refused)
    again = make("llama").build(small("llama"), seed=0).body.state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_without_a_cache_the_states_stay_in_memory_and_the_student_is_the_same(
    make: Any, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = make("llama").build(small("llama"), seed=0).body.state_dict()
    monkeypatch.setenv("KDNAS_CACHE", str(place / "none"))
    monkeypatch.setenv("KDNAS_CACHE_GIB", "0")
    bench = make("llama", recipe={"name": "causal-divergence", "init": "fitted", "weight": 0.0})
    found = bench.build(small("llama"), seed=0).body.state_dict()
    assert not cache_folder.entries()
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name], atol=1e-4, rtol=1e-4)


def test_too_few_tokens_are_refused(make: Any, place: Path) -> None:
    tiny_causal.text_file(place / "short.txt", 2)
    data = {"source": str(place / "short.txt"), "length": 16, "held_out": 0.3}
    with pytest.raises(UsageError, match=r"tokens in chunks of 16, too few to fit students of .* has 64 inputs"):
        make("llama", data=data, budget={"proxy_fraction": 0.1, "epochs": 0})


def test_a_teacher_that_overflows_is_refused(make: Any, place: Path) -> None:
    shutil.copytree(place / "llama", place / "odd", dirs_exist_ok=True)
    weights = load_file(place / "odd" / "model.safetensors")
    weights["model.layers.1.mlp.down_proj.weight"][0, 0] = float("nan")
    save_file(weights, place / "odd" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UsageError, match="not finite numbers"):
        make("odd")


def test_only_fitted_students_are_scored_before_they_learn(make: Any, place: Path) -> None:
    with pytest.raises(BadOptionError, match=r"budget.epochs is 0, .*causal one with init fitted"):
        spec(place / "llama", place / "text.txt", recipe={"name": "causal-divergence", "init": "inherit"})
    rungs = spec(place / "llama", place / "text.txt", budget={"epochs": 2, "rungs": [0.5]})
    assert rungs.budget.rungs == (0.5,)
    bench = make("llama", recipe={"name": "causal-divergence", "init": "inherit"}, budget={"epochs": 1})
    with pytest.raises(UsageError, match="cannot be scored before they learn"):
        bench.training(bench.build(small("llama"), seed=0), epochs=1, seed=0).begin()


def test_students_are_fitted_unless_a_study_says_or_said_otherwise(place: Path) -> None:
    def init(recipe: dict[str, Any]) -> str:
        return from_values({"recipe": recipe}).recipe.init  # type: ignore[attr-defined, no-any-return]

    plain = {"name": "causal-divergence"}
    assert init(plain) == "fitted" and init({**plain, "init": "inherit"}) == "inherit"
    assert init({**plain, "student": "gpt2"}) == "inherit"  # cut from another model than the teacher
    assert init({**plain, "student": "gpt2", "init": "fitted"}) == "fitted"
    old = from_values({"recipe": {**plain, "init": "inherit"}}).model_dump(mode="json")
    assert from_store(old).recipe == from_values({"recipe": {**plain, "init": "inherit"}}).recipe
    del old["recipe"]["init"]  # a store that never said
    assert from_store(old).recipe.init == "inherit"  # type: ignore[attr-defined]


def test_a_fitted_student_learns_on_from_there(make: Any) -> None:
    bench = make("llama", budget={"proxy_fraction": 1.0, "epochs": 1}, training={"learning_rate": 0.002})
    student = bench.build(small("llama"), seed=0)
    training = bench.training(student, epochs=1, seed=0)
    begun = training.begin().score.loss
    assert training.run_epoch().score.loss < begun


# ---------------------------------------------------------------- in full


@pytest.mark.parametrize("family", FAMILIES)
def test_a_student_in_full_is_solved_on_more_and_has_the_shape_of_the_searchs(
    make: Any, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(least_squares_init, "TOKENS", 256)
    bench = make(family)
    assert bench.fitted_tokens == 256
    config, kept = bench.config(small(family)), bench.fitted.sources(2)
    searched = bench.score(bench.build(small(family), 0))
    full = bench.build_in_full(small(family), 0)
    assert bench.fitted_tokens == min(1024, bench.chunks.train.size)
    assert bench.config(small(family)) == config and bench.fitted.sources(2) == kept
    assert bench.score(full).loss < searched.loss
    again = make(family).build_in_full(small(family), 0)
    for name, tensor in full.body.state_dict().items():
        assert torch.equal(tensor, again.body.state_dict()[name]), name


def test_a_text_that_a_search_reads_whole_is_read_no_second_time_in_full(make: Any) -> None:
    bench = make("llama")
    fitted, built = bench.fitted, bench.build(small("llama"), 0)
    full = bench.build_in_full(small("llama"), 0)
    assert bench.fitted is fitted and bench.fitted_tokens == bench.chunks.train.size
    for name, tensor in built.body.state_dict().items():
        assert torch.equal(tensor, full.body.state_dict()[name]), name


def test_a_student_in_full_keeps_the_blocks_that_the_search_timed(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(least_squares_init, "TOKENS", 256)
    bench = make("llama")
    kept = bench.fitted.sources(2)
    monkeypatch.setattr(fitted_decoder_students, "kept_blocks", lambda costs, layers: pytest.fail("chosen anew"))
    bench.build_in_full(small("llama"), 0)
    assert bench.fitted.sources(2) == kept


def test_causal_students_that_are_not_fitted_are_said_to_be(make: Any) -> None:
    bench = make("llama", recipe={"name": "causal-divergence", "init": "inherit", "top_k": 6}, budget={"epochs": 1})
    assert bench.build_in_full(small("llama"), 0).size == bench.build(small("llama"), 0).size
    assert bench.fitted_tokens is None
