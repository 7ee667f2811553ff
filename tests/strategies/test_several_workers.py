"""What strategies make of trials that other workers are at, whose results are not known yet."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import optuna
import pytest

from kdnas.strategies import SpaceExhausted, candidate, parameters, sampler
from kdnas.strategies.far_apart import far_from_all
from kdnas.strategies.optuna_space import distributions
from kdnas.study.space import Candidate
from kdnas.study.surrogate import Places
from tests.strategies.loop import SPACE, measured, spec

EVERY = list(SPACE.candidates())
BEGUN = [EVERY[i] for i in np.random.default_rng(0).permutation(len(EVERY))[:12]]


def proposals(
    strategy: str, finished: int, running: Sequence[Candidate], slots: range, taken: Sequence[Candidate] = ()
) -> list[Candidate]:
    """Of each slot with nothing else in between: so many candidates have ended, others are being evaluated, and further
    ones are taken of which nothing else is known."""
    ended, found = BEGUN[:finished], []
    for slot in slots:
        study = optuna.create_study(direction="maximize")
        for one in [*ended, *running]:
            study.enqueue_trial(parameters(SPACE, one))
            trial = study.ask(distributions(SPACE))
            if one in ended:
                loss, latency = measured(SPACE, one)
                study.tell(trial, (1 - loss) * latency**-0.1)
        keys = {SPACE.key(one) for one in [*ended, *running, *taken]}
        study.sampler = sampler(spec(strategy), SPACE, slot, keys)
        found.append(candidate(study.ask(), SPACE))
    return found


@pytest.mark.parametrize(("finished", "running", "modelled"), [(2, 8, True), (2, 7, False)])
def test_gp_models_two_results_once_as_many_have_begun_as_are_random(
    finished: int, running: int, modelled: bool
) -> None:
    """What is random differs from slot to slot; of one model the best hardly does."""
    others = BEGUN[finished : finished + running]
    found = {SPACE.key(one) for one in proposals("gp", finished, others, range(20, 26))}
    assert len(found) <= 2 if modelled else len(found) >= 5


def test_surrogate_looks_farther_from_a_running_trial_than_from_one_that_is_only_taken() -> None:
    """The favourite's result will tell of its neighbours: whoever does not know that it runs proposes one of them."""
    (favourite,) = proposals("surrogate", 8, (), range(20, 21))
    aware = proposals("surrogate", 8, [favourite], range(21, 23))
    unaware = proposals("surrogate", 8, (), range(21, 22), taken=[favourite])

    def steps(one: Candidate) -> int:
        return int(np.abs(SPACE.encode(one) - SPACE.encode(favourite)).sum())

    assert [steps(one) for one in unaware] == [1] and min(steps(one) for one in aware) > 1


def test_what_begins_before_there_are_two_results_is_far_from_all_others_and_at_an_end() -> None:
    """Of sixteen workers' first candidates, one has all sizes the smallest and one the largest, at the latest the
    seventh: the four of the start are as far from each other as they are for one worker."""
    begun: list[Candidate] = []
    for slot in range(16):
        begun += proposals("surrogate", 0, begun, range(slot, slot + 1))
    sizes = [SPACE.encode(one)[:3].tolist() for one in begun]
    smallest, largest = [0, 0, 0], [len(d.choices) - 1 for d in SPACE.dimensions[:3]]
    assert smallest in sizes[:7] and largest in sizes[:7]
    assert len({SPACE.key(one) for one in begun}) == 16


@pytest.mark.parametrize(("strategy", "finished"), [("tpe", 0), ("tpe", 4), ("gp", 0), ("gp", 1)])
def test_past_its_random_candidates_a_strategy_with_too_few_results_looks_far_from_all_others(
    strategy: str, finished: int
) -> None:
    """Ten have begun. The next one is as far from all of them as any candidate, or at an end of all sizes."""
    (chosen,) = proposals(strategy, finished, BEGUN[finished:10], range(10, 11))
    places = Places(SPACE, [*BEGUN[:10], *EVERY])
    points = places.apart()
    nearest = ((points[10:, None] - points[None, :10]) ** 2).sum(2).min(1)
    worth = nearest + places.at_ends()[10:]
    assert worth[EVERY.index(chosen)] == pytest.approx(worth.max())
    tenth = proposals(strategy, finished, BEGUN[finished:9], range(9, 15))
    assert len({SPACE.key(one) for one in tenth}) > 3  # at random


def test_where_all_that_is_left_is_taken_the_space_is_exhausted() -> None:
    taken = {SPACE.key(one) for one in EVERY}
    with pytest.raises(SpaceExhausted, match="All 360 candidates"):
        far_from_all(SPACE, np.random.default_rng(0), taken)
