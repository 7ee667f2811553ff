"""Students judged by their embeddings: whether the loss is of these, what is solved, trained, kept and refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from kdnas.models import sentence_layout
from kdnas.models.sentence_encoder import open_encoder
from kdnas.recipes import recipe
from kdnas.recipes.sentence_embedding import SentenceEmbeddingBench
from kdnas.recipes.sentence_embedding_training import into
from kdnas.recipes.teacher_space import of_tokens, shares, texts_of
from kdnas.search.begin import begin
from kdnas.search.worker import run_worker
from kdnas.store import queries
from kdnas.store.database import open_store
from kdnas.students import model_folder
from kdnas.students.distil import Job, Telling, distil, weights_digest
from kdnas.students.finalize import finalize
from kdnas.students.from_config import given
from kdnas.study.ground import ground_of, require_same_ground
from kdnas.study.space import Candidate
from kdnas.study.spec import StudySpec, from_values
from kdnas.system.errors import BadOptionError, UsageError
from kdnas.teachers import embeddings_cache, encoder
from kdnas.training.contract import Epoch, Student, Training
from tests.encoders import WORDS, text_folder, texts, tiny_encoder, tiny_spec
from tests.recipes.taken_up import assert_same_within_an_epoch
from tests.sentence_folders import laid_out, module

CPU = torch.device("cpu")


def quiet(words: str, share: float | None) -> None:
    return None


QUIET = Telling(lambda words, share: None)
SMALL: Candidate = {
    "num_hidden_layers": 2,
    "hidden_size": 16,
    "head_size": 8,
    "intermediate_size": 24,
    "hidden_act": "gelu",
}
WHOLE: Candidate = {**SMALL, "num_hidden_layers": 4, "hidden_size": 32, "intermediate_size": 64}


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Sentence encoders that pool by mean (normalised, with prompts) and by first token (as it comes), one without a
    layout, and text."""
    place = tmp_path_factory.mktemp("sentence-embedding")
    mean = laid_out(tiny_encoder(place / "mean"), {"pooling_mode_mean_tokens": True})
    module(mean, "2_Normalize", "Normalize")
    prompts = {"query": f"{WORDS[1]} ", "passage": f"{WORDS[2]} "}
    (mean / sentence_layout.SETTINGS).write_text(json.dumps({"prompts": prompts}))
    laid_out(tiny_encoder(place / "cls"), {"pooling_mode_cls_token": True})
    tiny_encoder(place / "plain")
    text_folder(place / "text", documents=16)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDNAS_CACHE", str(place / "cache"))
        patch.setenv("KDNAS_STATE", str(place / "state"))
        yield place


def spec_of(shelf: Path, teacher: str = "mean", **parts: Any) -> StudySpec:
    own = {"name": "sentence-embedding", **parts.pop("recipe", {})}
    return tiny_spec(shelf / teacher, shelf / "text", recipe=own, **parts)


@pytest.fixture(scope="module")
def make(shelf: Path) -> Iterator[Any]:
    """A bench; of equal specs one."""
    made: dict[str, SentenceEmbeddingBench] = {}

    def prepare(teacher: str = "mean", **parts: Any) -> SentenceEmbeddingBench:
        spec = spec_of(shelf, teacher, **parts)
        key = spec.model_dump_json()
        if key not in made:
            bench = recipe("sentence-embedding").prepare(spec, CPU, lambda words, share: None)
            assert isinstance(bench, SentenceEmbeddingBench)
            made[key] = bench
        return made[key]

    yield prepare
    for bench in made.values():
        bench.close()


def as_built(bench: SentenceEmbeddingBench, candidate: Candidate) -> tuple[Student, Epoch]:
    student = bench.build(candidate, 0)
    return student, bench.training(student, epochs=1, seed=0).begin()


def job_of(shelf: Path, **parts: Any) -> Job:
    sizes = {"num_hidden_layers": 2, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
    return given(spec_of(shelf, **parts), {**sizes, "hidden_act": "gelu"})


# ------------------------------------------------------------------------------------------------- the loss


@pytest.mark.parametrize(("teacher", "place", "normalised"), [("mean", slice(None), True), ("cls", slice(1), False)])
def test_the_loss_is_of_embeddings_of_held_out_texts_by_the_layouts_own_arithmetic(
    make: Any, teacher: str, place: slice, normalised: bool
) -> None:
    bench = make(teacher, budget={"epochs": 0})
    student, epoch = as_built(bench, SMALL)
    layer = into(student)

    def embeddings(body: Any, finish: Any, ids: torch.Tensor) -> np.ndarray:
        rows = []
        with torch.no_grad():
            for part, _ in texts_of(ids, 3):
                for row in part:
                    vector = finish(body(input_ids=row[None]).last_hidden_state[0][place].mean(0))
                    rows.append((vector / vector.norm() if normalised else vector).numpy())
        return np.stack(rows).astype(np.float64)

    own = embeddings(student.body, lambda v: layer.into_weight @ v + layer.into_bias, bench._held_ids)
    theirs = embeddings(bench.teacher.body, lambda v: v, bench._held_ids)
    mean = embeddings(bench.teacher.body, lambda v: v, bench._proxy_ids).mean(0)
    constant = mean / np.linalg.norm(mean) if normalised else mean
    wanted = ((own - theirs) ** 2).sum() / ((theirs - constant) ** 2).sum()
    # What is kept of the teacher's states has eight bits, in which random encoders' texts hardly differ.
    assert epoch.score.loss == pytest.approx(wanted, rel=0.02)
    assert 0 < epoch.score.loss < 1
    cosines = (own * theirs).sum(1) / np.linalg.norm(own, axis=1) / np.linalg.norm(theirs, axis=1)
    assert epoch.score.raw_loss == pytest.approx(1 - cosines.mean(), rel=0.02)
    assert epoch.score.extra["cosine"] == 1 - epoch.score.raw_loss and -1 < epoch.score.extra["spearman"] <= 1


def test_a_student_that_is_the_whole_teacher_loses_nothing_and_a_constant_one_everything(make: Any) -> None:
    bench = make(budget={"epochs": 0})
    student, epoch = as_built(bench, WHOLE)
    assert epoch.epoch == 0 and epoch.score.loss < 0.05
    with torch.no_grad():
        into(student).into_weight.zero_()
        into(student).into_bias.copy_(bench.constant)
    assert bench.score(student).loss == pytest.approx(1, rel=1e-5)


def test_the_teachers_embeddings_are_asked_for_once_and_belong_to_its_dense_layers(
    shelf: Path,
) -> None:
    layout, ids = sentence_layout.Layout(), torch.arange(5, 37).view(2, 16)
    teacher = encoder.load(spec_of(shelf).teacher, CPU)
    made: list[float] = []

    def asked(layer: sentence_layout.Dense | None, what: str = "whole") -> float:
        own = layout if layer is None else replace(layout, steps=(layer,))
        number = float(len(made))

        def make() -> list[torch.Tensor]:
            made.append(number)
            return [torch.full((2, 3), number)]

        return float(embeddings_cache.embeddings_of(teacher, own, ids, what, make)[0][0, 0])

    one, other = (sentence_layout.Dense(torch.full((3, 32), value), None) for value in (1.0, 2.0))
    assert [asked(None), asked(one), asked(other), asked(one, "parted")] == [0, 1, 2, 3]
    assert [asked(None), asked(one), asked(other), asked(one, "parted")] == [0, 1, 2, 3] and len(made) == 4
    first, second = (recipe("sentence-embedding").prepare(spec_of(shelf), CPU, quiet) for _ in range(2))
    for ours, theirs in zip(first.lessons_of(first.proxy), second.lessons_of(second.proxy), strict=True):
        assert torch.equal(ours.wanted, theirs.wanted) and torch.equal(ours.texts.ids, theirs.texts.ids)
    first.close()
    second.close()


def test_beginnings_of_documents_are_learned_from_with_their_own_embeddings_and_none_is_held_out(
    make: Any, shelf: Path
) -> None:
    bench = make(budget={"epochs": 0})
    teacher = open_encoder(shelf / "mean", "teacher", CPU)
    for lesson in bench.lessons_of(bench.proxy):
        rows = [row for ids in lesson.texts.begun for row in ids.tolist()]
        assert rows
        wanted = torch.stack([teacher.of_ids([row])[0] for row in rows])
        assert torch.allclose(lesson.wanted[-len(rows) :], wanted, atol=1e-5)
        held = {tuple(row[1:7]) for row in bench._held_ids.tolist()}
        assert not held & {tuple(row[1:7]) for row in rows}
    documents = {tuple(bench.teacher.tokenizer(text)["input_ids"][:8]) for text in texts(16)}
    assert {tuple(row[:8]) for row in rows if len(row) > 8} <= documents


# ------------------------------------------------------------------------------------------------- learning


def test_a_study_that_learned_from_chunks_alone_goes_on_with_other_losses(make: Any) -> None:
    bench = make()
    before = {**bench.provenance(), "data_fingerprint": bench.chunks.fingerprint}
    with pytest.raises(UsageError, match="data are not those that the study was begun with"):
        require_same_ground(ground_of(before), ground_of(bench.provenance()), "the study was begun with", "")


def test_trials_that_learned_from_hidden_states_of_all_layers_stand_on_another_ground_and_scored_ones_do_not(
    make: Any,
) -> None:
    scored, learned = make(budget={"epochs": 0}).provenance(), make().provenance()
    assert scored["data_fingerprint"] != learned["data_fingerprint"]


@pytest.mark.parametrize("normalised", [True, False])
def test_what_the_tokens_add_is_the_embedding_where_their_mean_is_pooled_and_nothing_else_follows(
    normalised: bool,
) -> None:
    last = (sentence_layout.Normalise(),) if normalised else ()
    layout = sentence_layout.Layout(steps=last)
    states = torch.randn(3, 7, 5, generator=torch.Generator().manual_seed(0))
    assert of_tokens(layout)
    assert torch.allclose(shares(states, layout).mean(1), layout.finished(states.mean(1)), atol=1e-6)
    dense = sentence_layout.Dense(torch.eye(5), None, "Tanh")
    assert not of_tokens(replace(layout, pooling=("cls",))) and not of_tokens(replace(layout, pooling=("mean", "cls")))
    assert not of_tokens(replace(layout, steps=(dense, *last)))


def test_the_weight_of_tokens_is_that_of_their_error_and_counts_nothing_where_a_first_token_is_pooled(
    make: Any,
) -> None:
    rows, step = torch.arange(6), 0

    def first_loss(teacher: str, hidden: float) -> float:
        bench = make(teacher, recipe={"hidden": hidden})
        training = bench.training(bench.build(SMALL, 0), epochs=1, seed=0)
        training.solve_as_built()
        return float(training.step_loss(training._ready(rows, slice(None)), step).detach())

    none, one, two = (first_loss("mean", weight) for weight in (0, 1, 2))
    assert one > none and two - one == pytest.approx(one - none, rel=1e-4)
    assert first_loss("cls", 0) == first_loss("cls", 1)


@pytest.mark.parametrize("weights", [{}, {"hidden": 0, "pairwise": 0}])
def test_steps_learn_and_a_training_is_taken_up_to_the_same_bits(
    make: Any, tmp_path: Path, weights: dict[str, float]
) -> None:
    bench = make(recipe=weights, training={"learning_rate": 3e-4})

    def starting() -> tuple[Student, Training]:
        student = bench.build(SMALL, 0)
        return student, bench.training(student, epochs=2, seed=0)

    assert_same_within_an_epoch(starting, tmp_path / "kept")
    student = bench.build(SMALL, 0)
    training = bench.training(student, epochs=6, seed=0)
    first = training.begin()
    epochs = [training.run_epoch() for _ in range(6)]
    assert epochs[5].train_loss < epochs[0].train_loss and epochs[5].score != first.score


def test_a_finished_student_is_the_one_as_built_where_no_epoch_is_better(shelf: Path) -> None:
    told: list[Epoch] = []
    job = job_of(shelf, training={"learning_rate": 0.5}, full={"epochs": 2, "patience": 5})
    facts = distil(job, shelf / "harmed", Telling(QUIET.on_progress, told.append), device="cpu")
    assert [epoch.epoch for epoch in told] == [0, 1, 2] and told[0].score.loss < told[2].score.loss
    metrics = facts["metrics"]
    assert metrics["best_epoch"] == 0 and metrics["epochs"] == 2 and metrics["loss"] == told[0].score.loss
    bare = distil(job_of(shelf, full={"epochs": 0}), shelf / "bare", QUIET, device="cpu")
    ours, theirs = (load_file(shelf / name / "model.safetensors") for name in ("bare", "harmed"))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours if not name.startswith("pooler."))
    assert bare["metrics"]["epochs"] == 0 and not bare["metrics"]["stopped_early"]
    card, other = ((shelf / name / model_folder.CARD).read_text() for name in ("bare", "harmed"))
    assert "\n- As it was built from its teacher, without a step; seed " in card and "AdamW" not in card
    assert "kept as built, since no epoch of 2 made it less" in other and "\n- AdamW" in other


def test_a_distillation_that_was_left_after_its_first_score_goes_on_to_the_same_folder(shelf: Path) -> None:
    job = job_of(shelf, full={"epochs": 2})

    class Left(Exception):  # noqa: N818 - it is no error
        pass

    def leave(epoch: Epoch) -> None:
        if epoch.epoch == 0:
            raise Left

    with pytest.raises(Left):
        distil(job, shelf / "left", Telling(QUIET.on_progress, leave), device="cpu")
    told: list[Epoch] = []
    again = distil(job, shelf / "left", Telling(QUIET.on_progress, told.append), device="cpu")
    straight = distil(job, shelf / "straight", QUIET, device="cpu")
    assert [epoch.epoch for epoch in told] == [0, 1, 2]
    assert weights_digest(shelf / "left") == weights_digest(shelf / "straight")
    assert [p["loss"] for p in again["metrics"]["history"]] == [p["loss"] for p in straight["metrics"]["history"]]
    # The folder's own vectors are those that were scored.
    student, teacher = (open_encoder(at, "m", CPU) for at in (shelf / "straight", shelf / "mean"))
    assert student.layout.prompts == teacher.layout.prompts and student.layout.normalised
    assert straight["embedding"]["cosine"] == pytest.approx(straight["metrics"]["extra"]["cosine"])


# ------------------------------------------------------------------------------------------------- a study


def test_a_study_ranks_by_the_embedding_and_its_best_becomes_a_sentence_encoder(shelf: Path, tmp_path: Path) -> None:
    spec = spec_of(shelf, budget={"epochs": 0, "trials": 3}, full={"epochs": 0})
    path = tmp_path / "kdnas.db"
    begin(spec, path)
    assert run_worker(str(path), spec.name) == 0
    with open_store(path) as store:
        rows = queries.trial_rows(store, 1)
    assert len(rows) == 3 and all(row.epoch == 0 and row.extra["cosine"] == 1 - row.raw_loss for row in rows)
    facts = finalize(str(path), spec.name, tmp_path / "student", QUIET, device="cpu")
    row = next(row for row in rows if row.number == facts["trial"])
    assert facts["metrics"]["loss"] < 1 and facts["embedding"]["width"] == 32
    assert row.candidate == facts["candidate"]
    assert facts["metrics"]["loss"] < row.loss  # it is solved on the whole text
    assert facts["metrics"]["fitted_tokens"] == facts["provenance"]["training_tokens"]
    vectors = open_encoder(tmp_path / "student", "m", CPU).encode([" ".join(WORDS[:6]), ""])
    assert vectors.shape == (2, 32) and torch.allclose(vectors.norm(dim=1), torch.ones(2), atol=1e-5)


# ------------------------------------------------------------------------------------------------- what cannot be


def test_a_teacher_without_a_layout_is_refused_before_anything_is_read(shelf: Path) -> None:
    spec = spec_of(shelf, "plain")
    for ask in (recipe("sentence-embedding").describe, lambda s: recipe("sentence-embedding").prepare(s, CPU, print)):
        with pytest.raises(UsageError, match=r"no sentence encoder: it has no modules.json.*recipe hidden-state"):
            ask(spec)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"recipe": {"name": "sentence-embedding", "cosine": 0, "pairwise": 0}}, "cosine and pairwise are both 0"),
        ({"recipe": {"name": "sentence-embedding", "init": "random"}}, "budget.epochs is 0"),
        ({"recipe": {"name": "sentence-embedding"}, "strategy": {"name": "blocks"}}, "blocks predicts students of"),
    ],
)
def test_what_does_not_go_together_is_said(values: dict[str, Any], said: str) -> None:
    with pytest.raises(BadOptionError, match=said):
        from_values(values)


def test_its_students_are_scored_as_built_unless_epochs_are_asked_for() -> None:
    spec = from_values({"recipe": {"name": "sentence-embedding"}})
    assert spec.budget.epochs == 0 and spec.data.source == "bbc-news"
    assert from_values({"recipe": {"name": "sentence-embedding"}, "budget": {"epochs": 2}}).budget.epochs == 2
