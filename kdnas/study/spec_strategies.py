"""The strategies and their options as parts of a spec. How they propose stands in `kdnas.strategies`, a file for each.

A strategy is a line in `STRATEGIES`, at the end, and the file of its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union

from pydantic import Field, model_validator

from kdnas.study.spec_part import FLOOR, Choice, by_name


class StrategyOptions(Choice):
    """What every strategy is asked."""

    def for_the_front(self) -> bool:
        """Whether it minimises loss and latency, rather than maximising the reward."""
        return False

    def predicts(self) -> bool:
        """Whether it proposes by a forecast of all candidates, which a search then makes first."""
        return False

    def borrows(self) -> bool:
        """Whether it learns from trials that another study lends (a warm start)."""
        return False


class TpeStrategy(StrategyOptions):
    """Optuna's multivariate TPE: any space, any budget, several workers."""

    name: Literal["tpe"] = "tpe"
    startup: int = Field(10, ge=1, description="random candidates first")
    pool: int = Field(24, ge=1, description="candidates drawn per proposal")
    two_objectives: bool = Field(False, description="search the Pareto front of loss and latency")

    def for_the_front(self) -> bool:
        return self.two_objectives

    def borrows(self) -> bool:
        return True


GP_TRIALS = 200  # above, one proposal of `gp` takes seconds


class GpStrategy(StrategyOptions):
    """Optuna's Gaussian process: few, costly evaluations; slow past 200 trials."""

    name: Literal["gp"] = "gp"
    startup: int = Field(10, ge=1, description="random candidates first")
    two_objectives: bool = Field(False, description="search the Pareto front of loss and latency")

    def for_the_front(self) -> bool:
        return self.two_objectives

    def borrows(self) -> bool:
        return True


class EvolutionStrategy(StrategyOptions):
    """Regularised evolution: the oldest of a small population dies."""

    name: Literal["evolution"] = "evolution"
    population: int = Field(16, ge=2, description="candidates alive")
    tournament: int = Field(4, ge=1, description="candidates drawn for each choice of a parent")

    @model_validator(mode="after")
    def _tournament_fits(self) -> EvolutionStrategy:
        if self.tournament > self.population:
            raise ValueError(f"tournament {self.tournament} is larger than the population {self.population}; lower it")
        return self


class Nsga2Strategy(StrategyOptions):
    """Optuna's NSGA-II on loss and latency: the Pareto front rather than one best."""

    name: Literal["nsga2"] = "nsga2"
    population: int = Field(20, ge=2, description="candidates in one generation")

    def for_the_front(self) -> bool:
        return True


PAPER = {  # KD-NAS's settings of its controller
    "episodes": 15,
    "samples": 20,
    "pool": 200,
    "epsilon": 1.0,
    "epsilon_step": 0.05,
    "epsilon_floor": 0.05,
    "learning_rate": 1e-4,
}


class LstmStrategy(StrategyOptions):
    """The LSTM controller after KD-NAS: learns to predict rewards from the history."""

    name: Literal["lstm"] = "lstm"
    controller: Literal["ours", "paper"] = Field(
        "ours", description="our controller, or KD-NAS's to the letter with its own defaults"
    )
    episodes: int | None = Field(
        None, ge=1, description="rounds; times samples it is the number of trials where none is given (paper: 15)"
    )
    samples: int = Field(5, ge=1, description="candidates in one episode (paper: 20)")
    pool: int = Field(1500, ge=1, description="candidates ranked by predicted reward in one episode (paper: 200)")
    epsilon: float = Field(1.0, ge=0, le=1, description="share of random candidates in the first episode")
    epsilon_step: float = Field(0.5, ge=0, le=1, description="how much ε falls per episode (paper: 0.05)")
    epsilon_floor: float = Field(0.05, ge=0, le=1, description="least ε")
    embedding: int = Field(32, ge=1, description="width of one dimension's embedding")
    hidden: int = Field(32, ge=1, description="width of the LSTM")
    learning_rate: float = Field(5e-3, ge=FLOOR, description="step size of RMSprop (paper: 1e-4)")

    @model_validator(mode="before")
    @classmethod
    def _paper_defaults(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and values.get("controller") == "paper":
            return {**PAPER, **values}
        return values

    def borrows(self) -> bool:
        return self.controller == "ours"


class BlocksStrategy(StrategyOptions):
    """A library of fitted blocks predicts every candidate: the best first."""

    name: Literal["blocks"] = "blocks"
    two_objectives: bool = Field(False, description="propose along the front of loss and latency")

    def for_the_front(self) -> bool:
        return self.two_objectives

    def predicts(self) -> bool:
        return True


class SurrogateStrategy(StrategyOptions):
    """A model of effects of single sizes: few evaluations, spaces of sizes; slow past 300 trials."""

    name: Literal["surrogate"] = "surrogate"
    startup: int = Field(4, ge=1, description="candidates far from each other first")
    two_objectives: bool = Field(False, description="search the Pareto front of loss and latency")

    def for_the_front(self) -> bool:
        return self.two_objectives

    def borrows(self) -> bool:
        return True


class AutoStrategy(StrategyOptions):
    """What the space and the budget ask for: it says which strategy it takes, and why."""

    name: Literal["auto"] = "auto"
    two_objectives: bool = Field(False, description="search the Pareto front of loss and latency")

    def for_the_front(self) -> bool:
        return self.two_objectives

    def borrows(self) -> bool:
        return True


STRATEGIES: tuple[type[StrategyOptions], ...] = (
    AutoStrategy,
    TpeStrategy,
    LstmStrategy,
    EvolutionStrategy,
    GpStrategy,
    BlocksStrategy,
    StrategyOptions.of("random", "Every candidate equally likely, none twice."),
    StrategyOptions.of("grid", "Every candidate in the order of the space."),
    Nsga2Strategy,
    SurrogateStrategy,
)

if TYPE_CHECKING:
    StrategySpec = StrategyOptions
else:
    StrategySpec = Annotated[Union[STRATEGIES], Field(discriminator="name")]  # noqa: UP007 - of a tuple


def strategy_parts() -> dict[str, type[StrategyOptions]]:
    """Strategy name → the model of its options; the docstring's first line says what it is."""
    return by_name(STRATEGIES)


def strategy_names() -> list[str]:
    return list(strategy_parts())
