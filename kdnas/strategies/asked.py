"""What a strategy's file is given for one slot, by `kdnas.strategies.sampler`. Proposes nothing."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np

from kdnas.study.forecast import Forecast
from kdnas.study.loan import Loan
from kdnas.study.space import SearchSpace
from kdnas.study.spec_strategies import StrategyOptions

O = TypeVar("O", bound=StrategyOptions, covariant=True)  # noqa: E741 - the options


@dataclass(frozen=True)
class Asked(Generic[O]):
    """One slot of one study: its options, its space, and where its random numbers come from."""

    options: O
    space: SearchSpace
    slot: int
    taken: Collection[str]  # keys (SearchSpace.key) of the candidates that other slots have: none is proposed
    rng: np.random.Generator  # of this slot
    seed: int  # of this slot, below 2³²: for samplers that seed themselves
    forecast: Forecast | None = None  # of every candidate, for a strategy whose options say that it `predicts`
    loan: Loan | None = None  # what other studies lend, for a strategy whose options say that it `borrows`
    # What samplers of earlier slots knew of finished trials, by number; nothing that could not be computed anew.
    kept: dict[int, Any] = field(default_factory=dict)
