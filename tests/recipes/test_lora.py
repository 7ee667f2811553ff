"""LoRA pairs: a limit that nobody exceeds, what learns and is written down, a study from spec to PEFT model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from kdnas.models import lora_adapters
from kdnas.models.encoders import Sizes
from kdnas.recipes import recipe, recipe_of
from kdnas.recipes.lora import LoraBench, layers_of, require_within, space_of
from kdnas.scores.score_folder import Wanted, score
from kdnas.search.worker import run_worker
from kdnas.store import queries
from kdnas.store.database import open_reader, open_store
from kdnas.store.studies import create_study, require_ground
from kdnas.students import model_folder as folders
from kdnas.students.distil import Telling
from kdnas.students.extras import Extras
from kdnas.students.finalize import finalize
from kdnas.study.spec import SpaceSpec, StudySpec, from_values
from kdnas.study.spec_recipes import LoraRecipe
from kdnas.system.errors import BadOptionError, UsageError
from kdnas.training.contract import Student, Training
from tests.encoders import WORDS, tiny_encoder
from tests.recipes.taken_up import assert_same_within_an_epoch

ROBERTA = Sizes(12, 768, 12, 3072, "gelu")
HEAD = 593_668  # of RoBERTa's own head for four classes


def labelled_file(path: Path, rows: int = 120) -> Path:
    """Three classes, each with words of its own among others."""
    rng = np.random.default_rng(0)
    lines = ["text,label"]
    for i in range(rows):
        own = [WORDS[8 * (i % 3) + int(rng.integers(8))] for _ in range(5)]
        lines.append(" ".join([*own, *rng.choice(WORDS, 3)]) + "," + "abc"[i % 3])
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def spec_of(place: Path, recipe: dict[str, Any], **parts: Any) -> StudySpec:
    if not (place / "base").is_dir():
        tiny_encoder(place / "base")
        labelled_file(place / "rows.csv")
    values: dict[str, Any] = {
        "name": "pairs",
        "device": "cpu",
        "teacher": {"model": str(place / "base")},
        "data": {
            "source": str(place / "rows.csv"),
            "label_column": "label",
            "length": 16,
            "batch_size": 8,
            "held_out": 0.3,
            "max_held_out": 18,
        },
        "recipe": {"name": "lora", "teacher_epochs": 4, "teacher_rate": 5e-3, "teacher_head_rate": 5e-3, **recipe},
        "budget": {"trials": 2, "epochs": 1},
        "training": {"learning_rate": 5e-3},
        "latency": {"length": 16, "precision": 0.5, "max_seconds": 0.02},
        "full": {"epochs": 2},
    }
    return from_values({**values, **parts})


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lora")


@pytest.fixture(autouse=True)
def _shared_cache(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDNAS_CACHE", str(place / "cache"))


def bench_of(spec: StudySpec) -> LoraBench:
    made = recipe("lora").prepare(spec, torch.device("cpu"), lambda words, share: None)
    assert isinstance(made, LoraBench)
    return made


# ---------------------------------------------------------------------------- the limit and the space


def test_one_parameter_more_than_the_limit_is_refused_with_the_count(place: Path) -> None:
    require_within(1_000_000, 1_000_000, HEAD)
    with pytest.raises(BadOptionError, match=r"has 1,000,001 trainable parameters .* the limit is 1,000,000"):
        require_within(1_000_001, 1_000_000, HEAD)
    bench = bench_of(spec_of(place, {}))
    dear = {**recipe("lora").one(bench.spec), "r": 32, "adapted_layers": 4, "target_modules": "all"}
    count = lora_adapters.trainable(bench.build(dear, seed=0).body)
    assert count == bench.base.head_size + 32 * 4 * lora_adapters.cost(bench.base.sizes, "all")
    bench.part = bench.part.model_copy(update={"max_parameters": count})
    bench.build(dear, seed=0)
    bench.part = bench.part.model_copy(update={"max_parameters": count - 1})
    with pytest.raises(BadOptionError, match=f"has {count:,} trainable parameters"):
        bench.build(dear, seed=0)


def test_no_candidate_exceeds_the_limit_and_the_dearest_that_fits_is_there() -> None:
    space = space_of(SpaceSpec(), LoraRecipe(), ROBERTA, HEAD)  # type: ignore[call-arg]
    counts = [
        HEAD + int(c["r"]) * int(c["adapted_layers"]) * lora_adapters.cost(ROBERTA, str(c["target_modules"]))
        for c in space.candidates()
    ]
    assert max(counts) <= 1_000_000 and space.size == len(counts) == 714
    # r 8, 6 layers, query and value: 741,124, the student of the original pairs
    usual = {"r": 8, "lora_alpha": 16.0, "adapted_layers": 6, "placement": "first"}
    assert space.canonical({**usual, "target_modules": "query-value", "lora_dropout": 0.1})["r"] == 8
    assert HEAD + 8 * 6 * lora_adapters.cost(ROBERTA, "query-value") == 741_124
    assert space.canonical({**usual, "r": 32, "target_modules": "all", "lora_dropout": 0.1})["r"] == 4
    with pytest.raises(BadOptionError, match=r"has 3,247,876 trainable parameters \(593,668 of them in its head\)"):
        given = SpaceSpec(choices={"r": (16,), "adapted_layers": (12,), "target_modules": ("all",)})  # type: ignore[call-arg]
        space_of(given, LoraRecipe(), ROBERTA, HEAD)  # type: ignore[call-arg]
    with pytest.raises(BadOptionError, match="head alone has 593,668"):
        space_of(SpaceSpec(), LoraRecipe(max_parameters=500_000), ROBERTA, HEAD)  # type: ignore[call-arg]


def test_placements_are_where_they_say() -> None:
    assert layers_of(3, "first", 6) == (0, 1, 2) and layers_of(3, "last", 6) == (3, 4, 5)
    assert layers_of(3, "spread", 6) == (1, 3, 5) and layers_of(4, "spread", 12) == (2, 5, 8, 11)
    for count in range(1, 13):
        spread = layers_of(count, "spread", 12)
        assert len(set(spread)) == count and spread[-1] == 11
    cut = space_of(SpaceSpec(), LoraRecipe(truncate=True), ROBERTA, HEAD)  # type: ignore[call-arg]
    assert next(d.choices for d in cut.dimensions if d.name == "placement") == ("first",)


def test_wrong_choices_are_one_line_with_the_hint(place: Path) -> None:
    for choices, words in (
        ({"r": (0,)}, "r = 0 is out of range"),
        ({"adapted_layers": (5,)}, "adapted_layers = 5 is out of range"),
        ({"target_modules": ("querry-value",)}, "Did you mean 'query-value'"),
        ({"rank": (4,)}, "no dimension 'rank'"),
    ):
        with pytest.raises(UsageError, match=words):
            recipe("lora").describe(spec_of(place, {}, space={"choices": choices}))
    with pytest.raises(BadOptionError, match=r"recipe\.layers = 9 is more than the base's 4 layers"):
        recipe("lora").one(spec_of(place, {"layers": 9}))


# ---------------------------------------------------------------------------- learning


def test_only_adapters_and_head_learn_and_are_written_down_and_a_resumed_training_is_the_same(place: Path) -> None:
    bench = bench_of(spec_of(place, {"truncate": True}))
    point = recipe("lora").one(bench.spec)
    whole, part = bench.build(point, seed=1), bench.build(point, seed=1)
    assert whole.depth == 2 and whole.size < sum(p.numel() for p in bench.base.model.parameters())
    count = lora_adapters.trainable(whole.body)
    assert sum(p.numel() for p in whole.modules().parameters()) == count
    straight = bench.training(whole, epochs=3, seed=5)
    scores = [straight.run_epoch().score for _ in range(3)]
    assert scores[-1].loss < scores[0].loss and scores[-1].extra["trainable_parameters"] == count
    broken = bench.training(part, epochs=3, seed=5)
    broken.run_epoch()
    tensors, facts = broken.state()
    assert sum(t.numel() for n, t in tensors.items() if n.startswith("body.")) == count
    fresh = bench.build(point, seed=1)
    resumed = bench.training(fresh, epochs=3, seed=5)
    resumed.restore(tensors, json.loads(json.dumps(facts)))
    assert [resumed.run_epoch().score for _ in range(2)] == scores[1:]
    for one, other in zip(whole.modules().parameters(), fresh.modules().parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_training_left_within_an_epoch_is_the_uninterrupted_one(place: Path, tmp_path: Path) -> None:
    bench = bench_of(spec_of(place, {"dropout": 0.2}))
    point = recipe("lora").one(bench.spec)

    def begin() -> tuple[Student, Training]:
        student = bench.build(point, seed=1)
        return student, bench.training(student, epochs=2, seed=5)

    assert_same_within_an_epoch(begin, tmp_path / "kept")


def test_a_student_on_another_base_learns_from_the_same_teacher(place: Path) -> None:
    tiny_encoder(place / "narrow", "distilbert", dim=16, n_heads=2, hidden_dim=32)
    bench = bench_of(spec_of(place, {"student": str(place / "narrow"), "layers": 2}))
    student = bench.build(recipe("lora").one(bench.spec), seed=0)
    epoch = bench.training(student, epochs=1, seed=0).run_epoch()
    assert 0 <= epoch.score.extra["accuracy"] <= 1
    assert bench.config(recipe("lora").one(bench.spec))["model_type"] == "distilbert"
    bench.timed(student)()


# ---------------------------------------------------------------------------- a whole study


def studied(spec: StudySpec, database: Path) -> list[queries.TrialRow]:
    with open_store(database, create=True) as store:
        create_study(store, spec)
    assert run_worker(str(database), "pairs") == 0
    with open_reader(database) as store:
        return queries.trial_rows(store, queries.study_row(store, "pairs").study_id)


def test_search_finalize_and_open_as_any_model_and_with_peft(place: Path, tmp_path: Path) -> None:
    choices = {"r": [2, 4], "lora_alpha": [8], "adapted_layers": [2], "target_modules": ["attention"]}
    spec = spec_of(place, {"truncate": True}, space={"choices": {**choices, "lora_dropout": [0.1]}})
    database = tmp_path / "kdnas.db"
    trials = studied(spec, database)
    assert [trial.state for trial in trials] == ["done", "done"]
    assert {trial.candidate["r"] for trial in trials} == {2, 4}
    output = tmp_path / "out"
    facts = finalize(str(database), "pairs", output, Telling(lambda words, share: None))
    assert facts["opens_with"] == "AutoModelForSequenceClassification" and folders.finished(output)
    assert facts["adapter"] == "adapter"
    found = facts["classification"]
    assert found["size"]["student"]["trainable"] < found["size"]["student"]["parameters"] == facts["parameters"]
    assert found["size"]["student"]["mib"] < found["size"]["teacher"]["mib"]
    for side in ("student", "teacher"):
        table = np.array(found["test"][side]["confusion"])
        assert table.sum() == found["test"]["examples"] == 18
        assert np.trace(table) / table.sum() == pytest.approx(found["test"][side]["accuracy"])
    check_opens(output)
    assert found["size"]["student"]["mib"] * 2**20 == (output / "model.safetensors").stat().st_size
    asked = Wanted(tasks=("labels",), device="cpu")
    result = score(output, asked, lambda words, share: None)
    for side in ("student", "teacher"):
        assert result["labels"][side]["confusion"] == found["test"][side]["confusion"]
    assert "| accuracy |" in (output / "results.md").read_text(encoding="utf-8")
    other = replace(asked, text=str(place / "rows.csv"), teacher="")
    assert score(output, other, lambda words, share: None)["labels"]["examples"] == 36  # of 120: it learned from 84
    (tmp_path / "odd.csv").write_text("text,label\nw aa,z\n", encoding="utf-8")
    with pytest.raises(UsageError, match=r"the label 'z' in row 1, which .* It knows 'a', 'b', 'c'"):
        score(output, replace(other, text=str(tmp_path / "odd.csv")), lambda words, share: None)
    card = (output / folders.CARD).read_text(encoding="utf-8")
    assert "AutoModelForSequenceClassification.from_pretrained(folder" in card and "`adapter`" in card
    assert "| accuracy, 18 test examples |" in card and str(place) not in card
    with pytest.raises(UsageError, match=r"is finished already, merged\. Name another --output"):
        alone = Extras(merge=False)
        finalize(str(database), "pairs", output, Telling(lambda words, share: None), extras=alone)


def check_opens(output: Path) -> None:
    """A merged folder opens as every classifier does; the adapter beside it gives the same over its own base."""
    plain, loading = AutoModelForSequenceClassification.from_pretrained(output, output_loading_info=True)
    assert not any(loading.values()) and plain.config.num_hidden_layers == 2
    words = AutoTokenizer.from_pretrained(output)
    (told,) = pipeline("text-classification", model=str(output), top_k=None)([" ".join(WORDS[8:13])])
    assert {one["label"] for one in told} == {"a", "b", "c"}
    base: Any = AutoModelForSequenceClassification.from_pretrained(output / "adapter" / "base", dtype=torch.float32)
    model = PeftModel.from_pretrained(base, str(output / "adapter")).eval()
    batch = words([" ".join(WORDS[8:13]), WORDS[9]], padding=True, return_tensors="pt")
    with torch.inference_mode():
        torch.testing.assert_close(plain.eval()(**batch).logits, model(**batch).logits, atol=1e-5, rtol=1e-4)
    assert lora_adapters.base_of(output / "adapter") == output / "adapter" / "base"


def test_variants_of_a_spec_run_as_a_grid_and_each_can_be_finalized(place: Path, tmp_path: Path) -> None:
    tiny_encoder(place / "narrow", "distilbert", dim=16, n_heads=2, hidden_dim=32)
    variants = {
        "base": {},
        "soft": {"recipe": {"weight": 0.7}},
        "teacher-rank": {"recipe": {"teacher_rank": 32}},
        "other-base": {"recipe": {"student": str(place / "narrow")}},
    }
    grid = {"strategy": {"name": "grid"}, "budget": {"trials": 9, "epochs": 1}}
    spec = spec_of(place, {}, space={"variants": variants}, **grid)
    assert recipe_of(spec).describe(spec).space.size == 4
    database = tmp_path / "kdnas.db"
    trials = studied(spec, database)
    assert [(trial.candidate["variant"], trial.state) for trial in trials] == [(name, "done") for name in variants]
    assert trials[0].extra["teacher_accuracy"] == trials[1].extra["teacher_accuracy"]
    facts = finalize(str(database), "pairs", tmp_path / "out", Telling(lambda words, share: None), trial=1)
    assert facts["spec"]["recipe"]["weight"] == 0.7 and facts["candidate"]["r"] == 8
    with open_store(str(database)) as store:
        study_id = queries.study_row(store, "pairs").study_id
        bench = recipe_of(spec).prepare(spec, torch.device("cpu"), lambda words, share: None)
        require_ground(store, study_id, bench.provenance())
        bench.close()
        tiny_encoder(place / "narrow", "distilbert", seed=5, dim=16, n_heads=2, hidden_dim=32)
        bench = recipe_of(spec).prepare(spec, torch.device("cpu"), lambda words, share: None)
        with pytest.raises(UsageError, match="The student of variant other-base is not the one that the study"):
            require_ground(store, study_id, bench.provenance())
        bench.close()
    with pytest.raises(UsageError, match=r"recipe\.layers = 9 is more than"):
        bad = spec_of(place, {}, space={"variants": {"deep": {"recipe": {"layers": 9}}}})
        recipe_of(bad).describe(bad)
