"""Recipes by name; a recipe's module, and torch with it, is imported only when the recipe is asked for.

The recipe `rnn-hybrid` is the class `RnnHybrid` of the file `rnn_hybrid.py`, and so on.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from kdnas.study.spec_recipes import recipe_names
from kdnas.system.errors import UsageError, nearest

if TYPE_CHECKING:
    from kdnas.recipes.contract import Recipe
    from kdnas.study.spec import StudySpec


def recipe(name: str) -> Recipe:
    """The recipe of that name. Raises UsageError for one that is not there."""
    if name not in recipe_names():
        raise UsageError(f"There is no recipe {name!r}.", nearest(name, recipe_names()))
    module = importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
    made: Recipe = getattr(module, "".join(word.capitalize() for word in name.split("-")))()
    return made


def recipe_of(spec: StudySpec) -> Recipe:
    """What makes the students of a study: its recipe, or the variants that it compares."""
    if not spec.space.variants:
        return recipe(spec.recipe.name)
    from kdnas.recipes.variants import Variants

    return Variants()
