"""Optuna's NSGA-II on loss and latency. The generation stands with each trial, so a new process goes on in it.

Only complete trials form a population: failed ones are not seen, and a search for the front never prunes.
"""

from __future__ import annotations

from optuna.samplers import NSGAIISampler

from kdnas.strategies.asked import Asked
from kdnas.strategies.without_replacement import Unseen
from kdnas.study.spec_strategies import Nsga2Strategy


def sampler(asked: Asked[Nsga2Strategy]) -> Unseen:
    inner = NSGAIISampler(population_size=asked.options.population, seed=asked.seed)
    return Unseen(inner, asked.space, asked.taken, asked.rng)
