"""Optuna's NSGA-II on loss and latency. The generation stands with each trial, so a new process goes on in it.

Only complete trials form a population: failed ones are not seen, and a search for the front never prunes.
"""

from __future__ import annotations

from optuna import Study
from optuna.samplers import NSGAIISampler
from optuna.trial import FrozenTrial

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


def sampler(options: Nsga2Strategy, seed: int) -> Resumable:
    """`seed` below 2³²; a sampler for one slot."""
    return Resumable(population_size=options.population, seed=seed)
