"""Optuna's NSGA-II on loss and latency. The generation stands with each trial, so a new process goes on in it.

Only complete trials form a population: failed ones are not seen, and a search for the front never prunes.
"""

from __future__ import annotations

from optuna.samplers import BaseSampler, NSGAIISampler

from kdnas.study.spec_strategies import Nsga2Strategy


def sampler(options: Nsga2Strategy, seed: int) -> BaseSampler:
    """`seed` below 2³²; a sampler for one slot."""
    return NSGAIISampler(population_size=options.population, seed=seed)
