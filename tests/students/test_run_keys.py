"""A folder that is finished, or half finished, goes on under a later version: new settings have no say by default."""

from __future__ import annotations

from typing import Any

import pytest

from kdnas.students.distil import LATER, LATER_OF_RECIPES, Job
from kdnas.study.spec import StudySpec, from_values
from kdnas.study.spec_recipes import recipe_parts

BEFORE = {  # keys that kdnas gave before there was anything in LATER but the choice for GPUs
    "hidden-state": "20e3ace6065b23797e9423a890cdabf0",
    "causal-divergence": "cb5ca6a2dd46b9b8c454ce5fe27c41b1",
    "causal-policy-gradient": "6be4907e641d7b352c35787d6acadd7c",
    "rnn-hybrid": "452a0e29f4d305f9baf39da113da18ea",
    "lora": "fb46ea4868c07ced32479f84b9195789",
}


def key(**values: Any) -> str:
    """Of a run whose students begin as they did by default then."""
    recipe = values["recipe"]
    if recipe["name"].startswith("causal"):
        values["recipe"] = {"init": "inherit", **recipe}
    return Job(from_values(values), {"a": 1}).key()


@pytest.mark.parametrize("name", BEFORE)
def test_a_run_that_an_earlier_version_began_is_the_same_run(name: str) -> None:
    assert key(recipe={"name": name}) == BEFORE[name]


def test_a_training_of_sentence_embeddings_that_an_earlier_version_began_is_another_run_and_a_solved_one_is_not() -> (
    None
):
    given = {"recipe": {"name": "sentence-embedding"}, "training": {"learning_rate": 5e-4}}
    assert key(**given, full={"epochs": 3}) != "062a7462283c18421622a7080e2003f8"
    assert key(**given, full={"epochs": 0}) == "1c4b5fd5564d21e4ae07f8f06f06d492"


NEW: list[dict[str, Any]] = [
    {"recipe": {"name": "causal-divergence", "skew_alpha": 0.2}},
    {"recipe": {"name": "causal-divergence", "on_policy": 0.5}},
    {"recipe": {"name": "causal-divergence", "text": "teacher"}},
    {"recipe": {"name": "causal-policy-gradient", "reuse": 2}},
    {"latency": {"what": "token"}},
    {"latency": {"dtype": "bfloat16"}},
    {"training": {"accumulate": 2}},
    {"training": {"checkpointing": True}},
]


@pytest.mark.parametrize("changed", NEW, ids=str)
def test_a_run_that_differs_in_what_is_new_is_another_one(changed: dict[str, Any]) -> None:
    name = changed.get("recipe", {}).get("name", "causal-divergence")
    assert key(**{"recipe": {"name": name}, **changed}) != BEFORE[name]


def test_what_is_left_out_of_the_key_is_the_default() -> None:
    parts = [(StudySpec.model_fields[part].annotation, fields) for part, fields in LATER.items()]
    parts += [(recipe_parts()[name], fields) for name, fields in LATER_OF_RECIPES.items()]
    for model, fields in parts:
        for field, usual in fields.items():
            assert model.model_fields[field].default == usual, field  # type: ignore[union-attr]
