"""A static student as a point of a search: one point, the same folder as `kdnas static` writes, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from kdnas.models.static_encoder import is_static, opened
from kdnas.recipes import recipe
from kdnas.recipes.spaces import encoder_students
from kdnas.scores.score_folder import Wanted, score
from kdnas.search.begin import begin
from kdnas.search.worker import run_worker
from kdnas.store import queries
from kdnas.store.database import open_store
from kdnas.students import best_epoch, model_folder
from kdnas.students.distil import Telling, distil
from kdnas.students.extras import Extras
from kdnas.students.finalize import finalize
from kdnas.students.from_config import given
from kdnas.students.static import make
from kdnas.study import layer_words
from kdnas.study.ranked_rows import rank
from kdnas.study.spec import StudySpec, from_values
from kdnas.study.spec_toml import read_toml
from kdnas.system.errors import BadOptionError, UsageError
from kdnas_tui.widgets.trial_cells import _setting
from tests.data.test_retrieval_folder import written
from tests.encoders import WORDS, text_folder, tiny_encoder, tiny_spec
from tests.rows import made_row
from tests.sentence_folders import laid_out, module

QUIET = Telling(lambda words, share: None)
ONE: dict[str, Any] = {
    "num_hidden_layers": [2],
    "hidden_size": [16],
    "head_size": [8],
    "intermediate_size": [24],
    "hidden_act": ["gelu"],
}


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    place = tmp_path_factory.mktemp("static-point")
    teacher = laid_out(tiny_encoder(place / "teacher"), {"pooling_mode_mean_tokens": True})
    module(teacher, "2_Normalize", "Normalize")
    text_folder(place / "text", documents=16)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDNAS_CACHE", str(place / "cache"))
        patch.setenv("KDNAS_STATE", str(place / "state"))
        yield place


def spec_of(shelf: Path, kinds: tuple[str, ...] = ("encoder", "static"), **parts: Any) -> StudySpec:
    own = {"name": "sentence-embedding", **parts.pop("recipe", {})}
    choices = {**ONE, **({"kind": list(kinds)} if kinds else {}), **parts.pop("choices", {})}
    budget = {"epochs": 0, "trials": 2}
    return tiny_spec(
        shelf / "teacher", shelf / "text", recipe=own, space={"choices": choices}, budget=budget,
        **{"full": {"epochs": 0}, **parts},
    )  # fmt: skip


def test_a_static_student_is_one_point_whatever_the_sizes_are(shelf: Path) -> None:
    described = recipe("sentence-embedding").describe(
        spec_of(shelf, choices={"num_hidden_layers": [1, 2], "hidden_act": ["gelu", "relu"]})
    )
    space = described.space
    kinds = [candidate["kind"] for candidate in space.candidates()]
    assert space.size == len(kinds) == 5 and kinds.count("static") == 1
    one = next(c for c in space.candidates() if c["kind"] == "static")
    other = {**one, "num_hidden_layers": 2, "hidden_act": "relu"}
    assert space.key(one) == space.key(other) and space.canonical(other) == one
    assert type(space).from_json(space.to_json()) == space
    assert layer_words.shown(one) == {"kind": "static"} and len(layer_words.shown({**one, "kind": "encoder"})) == 6
    assert described.parameters is not None and described.flops_per_token is not None
    encoder = next(space.candidates())
    assert described.parameters(one) == 69 * 32 and described.flops_per_token(one) < described.flops_per_token(encoder)
    without = recipe("sentence-embedding").describe(spec_of(shelf, ())).space
    assert "kind" not in {dimension.name for dimension in without.dimensions}


def test_both_ends_of_the_front_are_of_one_study_and_the_static_one_is_what_the_command_writes(
    shelf: Path, tmp_path: Path
) -> None:
    spec = spec_of(shelf)
    path = tmp_path / "kdnas.db"
    begin(spec, path)
    assert run_worker(str(path), spec.name) == 0
    with open_store(path) as store:
        rows = {row.candidate["kind"]: row for row in queries.trial_rows(store, 1)}
    assert set(rows) == {"encoder", "static"} and all(0 < row.loss < 1 for row in rows.values())
    static = rows["static"]
    assert static.parameters == 69 * 32 and static.latency_ms < rows["encoder"].latency_ms * 10
    facts = finalize(str(path), spec.name, tmp_path / "student", QUIET, trial=static.number, device="cpu")
    assert is_static(tmp_path / "student") and facts["kind"] == "static" and facts["embedding"]["width"] == 32
    card = (tmp_path / "student" / model_folder.CARD).read_text()
    assert "has no network" in card and "SentenceTransformer(folder)" in card and "AutoModel" not in card
    make(spec, tmp_path / "command", lambda words, share: None)
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("student", "command"))
    assert set(ours) == set(theirs) and all(torch.equal(ours[name], theirs[name]) for name in ours)
    vectors = opened(tmp_path / "student", "m").encode([" ".join(WORDS[:5]), ""])
    assert vectors[0].norm() == pytest.approx(1, abs=1e-5) and not vectors[1].any()
    corpus = [{"_id": str(place), "text": " ".join(WORDS[place : place + 6])} for place in range(0, 40, 5)]
    files = written(tmp_path / "files", corpus, [{"_id": "q", "text": WORDS[11]}], [("q", "10", "1")])
    asked = Wanted(tasks=("embeddings",), data=files, device="cpu")
    entry = score(tmp_path / "student", asked, lambda words, share: None)["embeddings"]
    assert (
        entry["documents"] == 8
        and set(entry["student"]) == set(entry["teacher"])
        and "aligned_ndcg@10" in entry["kept"]
    )


def test_a_static_student_is_given_to_distill_by_its_kind_alone(shelf: Path, tmp_path: Path) -> None:
    job = given(spec_of(shelf, (), full={"epochs": 2}), {"kind": "static"})
    told: list[int] = []
    facts = distil(
        job, tmp_path / "student", Telling(QUIET.on_progress, lambda epoch: told.append(epoch.epoch)), device="cpu"
    )
    assert facts["kind"] == "static" and told == [0] and facts["metrics"]["best_epoch"] == 0
    tokens = facts["metrics"]["fitted_tokens"]
    assert tokens == facts["metrics"]["tokens"] == facts["provenance"]["training_tokens"]
    assert best_epoch.words(facts["metrics"]) == f"as built on {tokens:,} tokens, without a step"
    card = (tmp_path / "student" / model_folder.CARD).read_text()
    assert "\n- As it was built from its teacher, without a step; seed " in card and "AdamW" not in card
    for extras in (Extras(onnx=True), Extras(library="transformers")):
        with pytest.raises(UsageError, match=r"static student is a table of vectors"):
            distil(job, tmp_path / "other", QUIET, device="cpu", extras=extras)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"kinds": ("encoder", "statik")}, r"kind = 'statik' is not known. Did you mean 'static'"),
        ({"recipe": {"name": "hidden-state"}}, "Only students of the recipe sentence-embedding are of kinds"),
        ({"latency": {"by": "blocks"}}, "does not go with latency.by = blocks"),
    ],
)
def test_kinds_that_cannot_be_are_refused(shelf: Path, parts: dict[str, Any], said: str) -> None:
    spec = spec_of(shelf, **({"full": {"epochs": 1}} | parts))
    with pytest.raises(BadOptionError, match=said):
        recipe(spec.recipe.name).describe(spec)


def test_layers_that_differ_have_no_static_student(shelf: Path) -> None:
    values = spec_of(shelf).model_dump(mode="json")
    values["space"] = {"per_layer": True, "choices": {"kind": ["encoder", "static"]}}
    with pytest.raises(BadOptionError, match=r"space.per_layer = true: a static student has no layers"):
        recipe("sentence-embedding").describe(from_values(values))


def test_no_screen_shows_sizes_that_a_static_student_lacks() -> None:
    kinds = [{**{name: values[0] for name, values in ONE.items()}, "kind": kind} for kind in ("encoder", "static")]
    rows = [made_row(number, candidate=one, config={"hidden_size": 32}) for number, one in enumerate(kinds)]
    scored = rank(rows, -0.06, 0.5)
    cells = {s.row.candidate["kind"]: [_setting(key)(s) for key in ("layers", "width", "kind")] for s in scored}
    assert cells == {"encoder": ["2", "16", "encoder"], "static": ["–", "32", "static"]}


def test_the_preset_tries_all_of_its_candidates_and_the_static_one_first() -> None:
    spec = read_toml(Path(__file__).parents[2] / "studies" / "embeddings.toml")
    kinds = encoder_students._kinds(spec)
    sizes = [len(values) for name, values in spec.space.choices.items() if name != "kind"]
    assert spec.strategy.name == "grid" and kinds[0] == "static" and spec.budget.trials == 1 + prod(sizes)
