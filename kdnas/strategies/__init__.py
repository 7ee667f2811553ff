"""Who proposes the next candidate: one file a strategy, all of them Optuna samplers, chosen by the spec.

A sampler lives for one slot. What it proposes follows from the finished trials, the candidates that are taken
and the study's seed with the slot's number, so a study taken up again goes on as if it had never stopped.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Collection
from typing import Literal

from optuna.samplers import BaseSampler

from kdnas.strategies.optuna_space import candidate, distributions, from_parameters, parameters
from kdnas.strategies.without_replacement import Planned, SpaceExhausted, Unseen, check_room
from kdnas.study.space import Candidate, SearchSpace
from kdnas.study.spec import StudySpec
from kdnas.study.spec_strategies import (
    EvolutionStrategy,
    GpStrategy,
    GridStrategy,
    LstmStrategy,
    Nsga2Strategy,
    RandomStrategy,
    TpeStrategy,
)
from kdnas.system.errors import UsageError
from kdnas.system.seeds import Purpose, generator, number

__all__ = [
    "SpaceExhausted",
    "candidate",
    "check_room",
    "directions",
    "distributions",
    "from_parameters",
    "parameters",
    "sampler",
]


def directions(spec: StudySpec) -> list[Literal["minimize", "maximize"]]:
    """What Optuna's study optimises: the reward upwards, or loss and latency (ms) downwards, in this order."""
    return ["minimize", "minimize"] if spec.two_objectives else ["maximize"]


def sampler(
    spec: StudySpec,
    space: SearchSpace,
    slot: int,
    taken: Collection[str],
    planned: Candidate | None = None,
) -> BaseSampler:
    """The sampler for one slot of a study.

    `taken` holds the keys of all candidates that other slots have (finished, running, planned, enqueued); none of
    them is proposed. `planned` is the candidate that this slot already holds, if any: the LSTM controller writes
    its episodes to the slots (kdnas.search.episodes), and each of them must be planned before it is asked for.
    Raises SpaceExhausted when nothing is left to propose.
    """
    options = spec.strategy
    seed = number(spec.seed, Purpose.PROPOSAL, slot)
    if planned is not None:
        if not isinstance(options, Nsga2Strategy):
            return Planned(space, planned)
        from kdnas.strategies import nsga2

        return Planned(space, planned, nsga2.sampler(options, seed).get_trial_generation)
    check_room(space, taken)
    rng = generator(spec.seed, Purpose.PROPOSAL, slot)
    # Each strategy's module is loaded when it is asked for: none pays for another's libraries.
    match options:
        case TpeStrategy():
            from kdnas.strategies import tpe

            return Unseen(tpe.sampler(options, seed), space, taken, rng)
        case Nsga2Strategy():
            from kdnas.strategies import nsga2

            return Unseen(nsga2.sampler(options, seed), space, taken, rng)
        case GpStrategy():
            if importlib.util.find_spec("scipy") is None:
                raise UsageError("The strategy gp needs scipy.", "Install it (pip install scipy), or take tpe or lstm.")
            from kdnas.strategies import gp

            return Unseen(gp.FiniteGPSampler(options, space, taken, rng, seed), space, taken, rng)
        case RandomStrategy():
            from kdnas.strategies import random

            return random.RandomSampler(space, taken, rng)
        case GridStrategy():
            from kdnas.strategies import grid

            return grid.GridSampler(space, taken)
        case EvolutionStrategy():
            from kdnas.strategies import evolution

            return evolution.EvolutionSampler(options, space, taken, rng)
        case LstmStrategy():
            raise ValueError(f"slot {slot} of an LSTM study was asked for before its episode was planned")
