"""Optuna's NSGA-II on loss and latency. The generation stands with each trial, so a new process goes on in it.

Only complete trials form a population: failed ones are not seen, and a search for the front never prunes.
"""

from __future__ import annotations

from collections.abc import Callable

from optuna import Study
from optuna.samplers import NSGAIISampler
from optuna.trial import FrozenTrial

from kdnas.strategies.asked import Asked
from kdnas.strategies.without_replacement import Unseen
from kdnas.study.spec_strategies import Nsga2Strategy


class Resumable(NSGAIISampler):
    """Optuna's, whose parents stand in the order of their numbers whether they were just selected or read back: a
    search that died in between draws the same child."""

    def select_parent(self, study: Study, generation: int) -> list[FrozenTrial]:
        return sorted(super().select_parent(study, generation), key=lambda parent: parent.number)

    # Optuna names these after the class; studies begun with its own are to be read on.

    @classmethod
    def _get_generation_key(cls) -> str:
        return NSGAIISampler._GENERATION_KEY

    @classmethod
    def _get_parent_cache_key_prefix(cls) -> str:
        return NSGAIISampler._PARENT_CACHE_KEY_PREFIX


def sampler(asked: Asked[Nsga2Strategy]) -> Unseen:
    return Unseen(_inner(asked), asked.space, asked.taken, asked.rng)


def note(asked: Asked[Nsga2Strategy]) -> Callable[[Study, FrozenTrial], object]:
    """Writes to a trial whose candidate is given the generation that it belongs to."""
    return _inner(asked).get_trial_generation


def _inner(asked: Asked[Nsga2Strategy]) -> Resumable:
    return Resumable(population_size=asked.options.population, seed=asked.seed)
