"""Recipes by name; a recipe's module, and torch with it, is imported only when the recipe is asked for."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from kdnas.system.errors import UsageError, nearest

if TYPE_CHECKING:
    from kdnas.recipes.contract import Recipe
    from kdnas.study.spec import StudySpec

_WHERE = {
    "hidden-state": "kdnas.recipes.hidden_state:HiddenState",
    "causal-divergence": "kdnas.recipes.causal_divergence:CausalDivergence",
    "causal-policy-gradient": "kdnas.recipes.causal_policy_gradient:CausalPolicyGradient",
    "rnn-hybrid": "kdnas.recipes.rnn_hybrid:RnnHybrid",
    "lora": "kdnas.recipes.lora:Lora",
}


def names() -> list[str]:
    """The recipes that can be run."""
    return list(_WHERE)


def recipe(name: str) -> Recipe:
    """The recipe of that name. Raises UsageError for one that is not there."""
    if name not in _WHERE:
        raise UsageError(f"There is no recipe {name!r}.", nearest(name, _WHERE))
    module, _, cls = _WHERE[name].partition(":")
    made: Recipe = getattr(importlib.import_module(module), cls)()
    return made


def recipe_of(spec: StudySpec) -> Recipe:
    """What makes the students of a study: its recipe, or the variants that it compares."""
    if not spec.space.variants:
        return recipe(spec.recipe.name)
    from kdnas.recipes.variants import Variants

    return Variants()
