"""Students scored as they were fitted: one pass through a student, none through the teacher, and no wrong score."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel

from kdnas.models import least_squares_init
from kdnas.recipes import recipe
from kdnas.recipes.hidden_state import HiddenStateBench
from kdnas.study.space import Candidate
from kdnas.system.errors import BadOptionError, UsageError
from kdnas.teachers import cache_folder, hidden_state_cache
from tests.encoders import FAMILIES, text_folder, tiny_encoder, tiny_spec

CPU = torch.device("cpu")
THIN: Candidate = {
    "num_hidden_layers": 3,
    "hidden_size": 24,
    "head_size": 8,
    "intermediate_size": 24,
    "hidden_act": "gelu",
}
WHOLE: Candidate = {**THIN, "num_hidden_layers": 4, "hidden_size": 32, "intermediate_size": 64}
FITTED = {"recipe": {"name": "hidden-state", "init": "fitted"}}
UNTRAINED = {**FITTED, "budget": {"epochs": 0}}


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fitted")
    text_folder(folder / "text")
    for family in FAMILIES:
        tiny_encoder(folder / family, family)
    return folder


@pytest.fixture
def make(places: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("KDNAS_CACHE", str(places / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(hidden_state_cache, "_cold_read", lambda states: 0.0)
    opened: list[HiddenStateBench] = []

    def prepare(family: str | Path = "bert", **parts: Any) -> HiddenStateBench:
        spec = tiny_spec(places / family, places / "text", **parts)
        bench = recipe("hidden-state").prepare(spec, CPU, lambda what, share: None)
        assert isinstance(bench, HiddenStateBench)
        opened.append(bench)
        return bench

    yield prepare
    for bench in opened:
        bench.close()


def scored(bench: HiddenStateBench, candidate: Candidate, epochs: int = 0) -> Any:
    student = bench.build({**candidate, "hidden_act": bench.own.act}, 0)
    return bench.training(student, epochs=epochs, seed=0).begin()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_student_scored_on_the_way_of_its_fit_has_the_loss_of_one_that_is_passed_through_anew(
    make: Any, family: str
) -> None:
    found = scored(make(family, **UNTRAINED), THIN)
    again = scored(make(family, **FITTED), THIN, epochs=2)  # its projections are solved for the score alone
    assert (found.epoch, found.epochs, found.tokens, again.epoch) == (0, 0, 0, 0)
    assert found.score.loss == pytest.approx(again.score.loss, rel=1e-4)
    assert found.score.raw_loss == pytest.approx(again.score.raw_loss, rel=1e-4)
    assert found.score.extra["mapped_loss"] == pytest.approx(again.score.extra["mapped_loss"], rel=1e-4)
    assert 0 < found.score.loss < 1


@pytest.mark.parametrize("family", FAMILIES)
def test_a_student_as_large_as_the_teacher_loses_only_what_its_projections_are_held_to(make: Any, family: str) -> None:
    """Its states are the teacher's (test_hidden_state.py); so few tokens leave the ridge of the projections some."""
    loss = scored(make(family, **UNTRAINED), WHOLE).score.loss
    cut = scored(
        make(family, recipe={"name": "hidden-state", "init": "inherit"}, budget={"epochs": 0}), WHOLE
    ).score.loss
    assert loss == pytest.approx(cut, rel=1e-4) and loss < 0.1


def test_a_score_before_any_step_leaves_the_training_as_it_was(make: Any) -> None:
    bench = make(**FITTED)
    straight = bench.training(bench.build(THIN, 0), epochs=2, seed=0)
    asked = bench.training(bench.build(THIN, 0), epochs=2, seed=0)
    assert asked.begin().score.loss > 0
    assert [asked.run_epoch().score for _ in range(2)] == [straight.run_epoch().score for _ in range(2)]


def test_the_teacher_does_not_run_for_a_candidate(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = make(**UNTRAINED)
    monkeypatch.setattr(bench.teacher.body, "forward", lambda *args, **named: pytest.fail("the teacher ran"))
    assert scored(bench, THIN).score.loss > 0


def test_what_enters_the_norms_is_cached_once_for_all_studies(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    make(**UNTRAINED)
    before = {entry.key for entry in cache_folder.entries()}
    monkeypatch.setattr(hidden_state_cache, "entering", lambda *args: pytest.fail("the teacher ran again"))
    bench = make(recipe=FITTED["recipe"], budget={"epochs": 1}, space={"choices": {"hidden_size": [16, 24]}})
    bench.build(THIN, 0)
    assert {entry.key for entry in cache_folder.entries()} == before


def test_without_room_in_the_cache_the_fit_is_the_same(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = make(**UNTRAINED)
    loss = scored(kept, THIN).score.loss
    monkeypatch.setenv("KDNAS_CACHE_GIB", "0")
    monkeypatch.setenv("KDNAS_CACHE", str(Path(str(kept.teacher.folder)).parent / "none"))
    bench = make(**UNTRAINED)
    assert bench.fitted is not None and bench.fitted._entering is not None
    assert bench.fitted._entering.decision.place == "recompute"
    assert scored(bench, THIN).score.loss == pytest.approx(loss, rel=1e-5)


def test_candidates_before_it_change_no_bit_of_a_fitted_student(make: Any) -> None:
    alone = make(**UNTRAINED).build(THIN, 0)
    bench = make(**UNTRAINED)
    for other in ({**THIN, "num_hidden_layers": 2}, {**THIN, "intermediate_size": 48}, THIN):
        bench.build(other, 0)
    after = bench.build(THIN, 0)
    for name, tensor in after.modules().state_dict().items():
        assert torch.equal(tensor, alone.modules().state_dict()[name]), name


def test_sliced_students_are_scored_before_they_learn_too(make: Any) -> None:
    bench = make(recipe={"name": "hidden-state", "init": "inherit"}, budget={"epochs": 0})
    assert scored(bench, WHOLE).score.loss < scored(bench, THIN).score.loss < 1


# ---------------------------------------------------------------- bad input


def test_fresh_students_and_other_recipes_are_not_scored_before_they_learn(places: Path) -> None:
    sliced = {"name": "causal-divergence", "init": "inherit"}
    for given in ({"name": "hidden-state", "init": "random"}, sliced, {"name": "lora"}):
        with pytest.raises(BadOptionError, match=r"budget\.epochs is 0, which scores students before they learn"):
            tiny_spec(places / "bert", places / "text", recipe=given, budget={"epochs": 0})


def test_too_few_tokens_to_fit_on_are_refused_with_their_number(make: Any, places: Path) -> None:
    with pytest.raises(
        UsageError, match=r"has 16 tokens, too few to fit students .* a layer of it has 64 inputs"
    ) as it:
        make(
            **FITTED,
            data={"length": 16, "batch_size": 8, "held_out": 0.1, "limit": 20},
            budget={"proxy_fraction": 0.01},
        )
    assert "budget.proxy_fraction" in str(it.value) and f"The proxy set of {places / 'text'} has" in str(it.value)


@pytest.mark.parametrize("init", ["fitted", "inherit"])
def test_a_teacher_that_gives_no_number_on_one_chunk_is_refused(
    make: Any, places: Path, tmp_path: Path, init: str
) -> None:
    bench = make()
    word = int(bench._proxy_ids[-1, 3])
    late = [int(w) for w in bench._proxy_ids[8:].unique() if w not in bench._proxy_ids[:8]]
    folder = tiny_encoder(tmp_path / "odd")
    model = AutoModel.from_pretrained(folder)
    with torch.no_grad():  # a word that the first chunks, which are looked at before all else, do not have
        model.embeddings.word_embeddings.weight[late[0] if late else word] = float("nan")
    model.save_pretrained(folder)
    with pytest.raises(UsageError, match="values that are not finite numbers"):
        make(folder, recipe={"name": "hidden-state", "init": init}, budget={"epochs": 0})


def test_a_dead_neuron_and_a_constant_dimension_of_the_teacher_are_no_trouble(make: Any, tmp_path: Path) -> None:
    folder = tiny_encoder(tmp_path / "dull")
    model = AutoModel.from_pretrained(folder)
    with torch.no_grad():
        for layer in model.encoder.layer:
            layer.intermediate.dense.weight[:8] = 0.0
            layer.intermediate.dense.bias[:8] = -50.0  # dead
            layer.intermediate.dense.weight[8:16] = 0.0  # constant
            layer.output.LayerNorm.weight[3] = 0.0  # a dimension that is its norm's bias
            layer.attention.output.LayerNorm.weight[5] = 0.0
    model.save_pretrained(folder)
    losses = [scored(make(folder, **UNTRAINED), {**THIN, "intermediate_size": inner}).score.loss for inner in (24, 64)]
    assert 0 < losses[1] <= losses[0] * 1.05 < 1


# ---------------------------------------------------------------- in full


@pytest.mark.parametrize("family", FAMILIES)
def test_a_student_in_full_is_solved_on_no_more_than_a_search_reads(
    make: Any, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(least_squares_init, "TOKENS", 256)
    bench = make(family, **UNTRAINED)
    candidate = {**THIN, "hidden_act": bench.own.act}
    assert bench.fitted_tokens == 256
    searched = bench.training(bench.build(candidate, 0), epochs=0, seed=0).begin()
    student = bench.build_in_full(candidate, 0)
    assert bench.fitted_tokens == 1024
    monkeypatch.setattr(bench.teacher.body, "forward", lambda *args, **named: pytest.fail("the teacher ran again"))
    full = bench.training(student, epochs=0, seed=0, full=True).begin()
    assert full.score.loss < 0.98 * searched.score.loss
    again = make(family, **UNTRAINED).build_in_full(candidate, 0)
    for name, tensor in student.modules().state_dict().items():
        assert torch.equal(tensor, again.modules().state_dict()[name]), name


def test_a_text_that_a_search_reads_whole_is_read_again_in_full(make: Any) -> None:
    bench = make(**FITTED, budget={"epochs": 0, "proxy_fraction": 1.0})
    fitted = bench.fitted
    student = bench.build_in_full(THIN, 0)
    assert bench.fitted is fitted and bench.fitted_tokens == bench.chunks.train.size
    for name, tensor in bench.build(THIN, 0).modules().state_dict().items():
        assert torch.equal(tensor, student.modules().state_dict()[name]), name


def test_students_that_are_not_fitted_are_said_to_be(make: Any) -> None:
    bench = make(recipe={"name": "hidden-state", "init": "inherit"}, budget={"epochs": 0})
    assert bench.build_in_full(THIN, 0).size == bench.build(THIN, 0).size and bench.fitted_tokens is None
