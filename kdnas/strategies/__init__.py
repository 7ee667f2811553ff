"""Who proposes the next candidate: one file a strategy, all of them Optuna samplers, chosen by the spec.

The file has the strategy's name and a function `sampler`, which is given what was `Asked`. A strategy that writes
something to the trials that it proposes has a function `note`, too, for those whose candidate is given.

A sampler lives for one slot. What it proposes follows from the finished trials, the candidates that are taken
and the study's seed with the slot's number, so a study taken up again goes on as if it had never stopped.
"""

from __future__ import annotations

import importlib
from collections.abc import Collection
from typing import Any, Literal

from optuna.samplers import BaseSampler

from kdnas.strategies.asked import Asked
from kdnas.strategies.optuna_space import candidate, distributions, from_parameters, parameters
from kdnas.strategies.refused import Refused
from kdnas.strategies.without_replacement import LookedAt, Planned, SpaceExhausted, WholeSampler, check_room
from kdnas.study.forecast import Forecast
from kdnas.study.loan import Loan
from kdnas.study.space import Candidate, SearchSpace
from kdnas.study.spec import StudySpec
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
    forecast: Forecast | None = None,
    loan: Loan | None = None,
    kept: dict[int, Any] | None = None,
) -> BaseSampler:
    """The sampler for one slot of a study.

    `taken` holds the keys of all candidates that other slots have (finished, running, planned, enqueued); none of
    them is proposed. A `Refused` holds those, too, that constraints refuse. `planned` is the candidate that this slot
    already holds, if any: the LSTM controller writes its episodes to the slots (kdnas.search.episodes), and each of
    them must be planned before it is asked for. `forecast` is what is predicted of all candidates now, for a strategy
    that proposes by it; `loan` is what other studies lend, weighed as this one's trials are now. `kept` is one mapping
    for all slots of a study, in which samplers note what they need not compute again.

    Raises SpaceExhausted when nothing is left to propose.
    """
    seed, rng = number(spec.seed, Purpose.PROPOSAL, slot), generator(spec.seed, Purpose.PROPOSAL, slot)
    asked = Asked(spec.strategy, space, slot, taken, rng, seed, forecast, loan or None, {} if kept is None else kept)
    # Each strategy's module is loaded when it is asked for: none pays for another's libraries.
    module = importlib.import_module(f"{__name__}.{spec.strategy.name.replace('-', '_')}")
    if planned is not None:
        return Planned(space, planned, module.note(asked) if hasattr(module, "note") else None)
    check_room(space, taken)
    made: WholeSampler = module.sampler(asked)
    if asked.loan is not None:
        from kdnas.strategies import warm  # loads what a cold start does without

        made = warm.sampler(asked, made)
    late = isinstance(taken, Refused) and taken.refusal.late is not None
    return LookedAt(made, space, taken, rng) if late else made  # type: ignore[arg-type]
