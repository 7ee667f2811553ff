"""Which strategy `auto` is for a study, and why: from the size of the space, the objectives and a slot's number.

The numbers come from replays of recorded tables (`python -m benchmarks.search`, docs/strategies.md). A slot's strategy
follows from what never changes in a study, so that a larger budget changes no earlier slot and a study taken up again
goes on as it would have. Neither the number of workers nor the cost of an evaluation has a part: replays with four
trials in flight, and the time of proposals beside that of trials, gave no reason for one. Proposes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from kdnas.study.space import SearchSpace
from kdnas.study.spec_strategies import AutoStrategy, StrategyOptions, SurrogateStrategy, TpeStrategy, strategy_parts

SURROGATE_TRIALS = 300  # past them a proposal of `surrogate` may take as long as a trial, and the best is long found


@dataclass(frozen=True)
class Stage:
    """From slot `first` on, `options` propose; `why` is a sentence's second half."""

    first: int
    options: StrategyOptions
    why: str


def stages(asked: AutoStrategy, space: SearchSpace) -> tuple[Stage, ...]:
    """The strategies of a study in the order of its slots; one where a strategy is good for every budget."""
    two = asked.two_objectives
    if not two and _of_one_choice(space):
        return (
            Stage(
                0, strategy_parts()["grid"](name="grid"), "its candidates have nothing in common from which to learn"
            ),
        )
    figures = "loss and latency are" if two else "the reward is"
    why = f"{figures} nearly a sum of effects of single sizes, and it learns these from the fewest trials"
    first = Stage(0, SurrogateStrategy(two_objectives=two), why)  # type: ignore[call-arg]
    if space.size <= SURROGATE_TRIALS:
        return (first,)
    then = TpeStrategy(two_objectives=two)  # type: ignore[call-arg]
    return (first, Stage(SURROGATE_TRIALS, then, "its proposals stay quick however many trials there are"))


def stage(asked: AutoStrategy, space: SearchSpace, slot: int) -> Stage:
    """The one of a slot."""
    return [one for one in stages(asked, space) if one.first <= slot][-1]


def words(asked: AutoStrategy, space: SearchSpace, trials: int) -> str:
    """What `auto` is for a study of so many trials, in a sentence or two."""
    first, *others = stages(asked, space)
    told = f"Strategy auto takes {first.options.name}: {first.why}."
    for other in others:
        if other.first < trials:
            told += f" From trial {other.first:,} on it takes {other.options.name}: {other.why}."
    return told


def _of_one_choice(space: SearchSpace) -> bool:
    """Whether candidates differ in one unordered choice only, as the variants of a comparison do."""
    varying = [d for d in space.dimensions if len(d.choices) > 1]
    return len(varying) == 1 and not varying[0].ordered
