"""A search space as Optuna sees it: one distribution per dimension, and the way there and back.

Ordered dimensions are integers, so that Optuna's models know which sizes are near each other: the values
themselves where they are evenly spaced, else their places in the list, under a name that says so. All others
are categorical.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution

from kdnas.study.space import Candidate, Dimension, SearchSpace


def distributions(space: SearchSpace) -> dict[str, BaseDistribution]:
    """Optuna's name → distribution, in the order of the space's dimensions."""
    return dict(_of(d) for d in space.dimensions)


def parameters(space: SearchSpace, candidate: Mapping[str, Any]) -> dict[str, Any]:
    """Optuna's name → value for one candidate, canonical."""
    canonical = space.canonical(candidate)
    values: dict[str, Any] = {}
    for d in space.dimensions:
        name, distribution = _of(d)
        values[name] = d.choices.index(canonical[d.name]) if name != d.name else canonical[d.name]
        if isinstance(distribution, IntDistribution):
            values[name] = int(values[name])
    return values


def from_parameters(space: SearchSpace, values: Mapping[str, Any]) -> Candidate:
    """The canonical candidate that Optuna's values name."""
    chosen: Candidate = {}
    for d in space.dimensions:
        name, _ = _of(d)
        chosen[d.name] = d.choices[values[name]] if name != d.name else d.choices[d.choices.index(values[name])]
    return space.canonical(chosen)


def candidate(trial: optuna.Trial, space: SearchSpace) -> Candidate:
    """What the trial's sampler proposes: asks every dimension, so that all of them stand in Optuna's tables."""
    values: dict[str, Any] = {}
    for name, distribution in distributions(space).items():
        if isinstance(distribution, CategoricalDistribution):
            values[name] = trial.suggest_categorical(name, distribution.choices)
        elif isinstance(distribution, IntDistribution):
            values[name] = trial.suggest_int(name, distribution.low, distribution.high, step=distribution.step)
    return from_parameters(space, values)


def _of(dimension: Dimension) -> tuple[str, BaseDistribution]:
    choices = dimension.choices
    if not dimension.ordered or len(choices) < 2:
        return dimension.name, CategoricalDistribution(choices)
    steps = {b - a for a, b in pairwise(choices)} if all(type(c) is int for c in choices) else set()  # type: ignore[operator]
    if len(steps) == 1 and min(steps) > 0:
        return dimension.name, IntDistribution(int(choices[0]), int(choices[-1]), step=int(steps.pop()))
    return f"{dimension.name} (place)", IntDistribution(0, len(choices) - 1)
