"""Strategies that other studies lend to: soon at the goal where they fit, and valid whatever is lent."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import optuna
import pytest

from benchmarks.search_replay import strategy_loop
from kdnas.strategies import lstm
from kdnas.strategies.surrogate import POOL
from kdnas.study.constraints import limits_of
from kdnas.study.loan import Lender, LentTrial, Loan
from kdnas.study.reward import reward
from kdnas.study.space import Candidate, Dimension, SearchSpace
from kdnas.study.spec import from_values
from kdnas.study.spec_strategies import LstmStrategy
from kdnas.system.errors import BadOptionError
from tests.strategies.loop import SPACE, STRATEGIES, measured

ALPHA, BETA = -0.1, 0.6
TEACHER_MS = 12.0
CANDIDATES = list(SPACE.candidates())


def evaluated(candidate: Candidate) -> tuple[float, float, float]:
    loss, ms = measured(SPACE, candidate)
    return loss, ms, reward(loss, ms, TEACHER_MS, ALPHA, BETA)


REWARDS = np.asarray([evaluated(c)[2] for c in CANDIDATES])
GOAL = np.sort(REWARDS)[-8]  # the best eight of 360


def loan(*, shuffled: bool = False, count: int = 20) -> Loan:
    """Of a study whose losses are others, in the same order but for what is small."""
    rng = np.random.default_rng(1)
    rows = rng.permutation(len(CANDIDATES))[:count]
    told = rng.permutation(rows) if shuffled else rows
    lent = []
    for row, other in zip(rows, told, strict=True):
        loss, ms = measured(SPACE, CANDIDATES[other])
        lent.append(LentTrial(CANDIDATES[row], 0.1 + 0.7 * loss**1.2, ms / TEACHER_MS, 1000 * (1 + row)))
    return Loan((Lender("lender", tuple(lent)),), ALPHA, BETA)


def search(name: str, lent: Loan | None, trials: int, seed: int = 3) -> Iterator[float]:
    spec = from_values({"seed": seed, "strategy": STRATEGIES[name], "budget": {"trials": 200}})
    found = strategy_loop(spec, SPACE, evaluated, (), loan=lent)
    return (value for _, value in zip(range(trials), found, strict=False))


@pytest.mark.parametrize("name", ["auto", "tpe", "gp", "lstm"])
def test_a_study_that_fits_brings_the_goal_near(name: str) -> None:
    for seed in range(2 if name in ("auto", "tpe") else 1):
        assert max(search(name, loan(), 6, seed)) >= GOAL


@pytest.mark.parametrize("name", ["auto", "auto-two", "tpe", "gp", "lstm"])
def test_a_space_that_is_not_seen_whole_stops_a_study_that_is_lent_to(name: str) -> None:
    first, *others = SPACE.dimensions
    wide = SearchSpace(
        (replace(first, choices=tuple(range(1, 40))), *others, Dimension("head_size", tuple(range(1, 30))))
    )
    assert wide.product_size > POOL
    lent = [replace(one, candidate={**one.candidate, "head_size": 1}) for one in loan(count=8).trials]
    known: list[Candidate] = []

    def noted(candidate: Candidate) -> tuple[float, float, float]:
        known.append(candidate)
        return evaluated({**candidate, first.name: first.choices[candidate[first.name] % len(first.choices)]})

    spec = from_values({"strategy": STRATEGIES[name], "budget": {"trials": 200}})
    for _ in zip(
        range(3),
        strategy_loop(spec, wide, noted, (), loan=Loan((Lender("l", tuple(lent)),), ALPHA, BETA)),
        strict=False,
    ):
        pass
    assert len({wide.key(candidate) for candidate in known}) >= 3


def test_an_unrelated_study_keeps_none_from_the_goal() -> None:
    assert max(search("auto", loan(shuffled=True), 22)) >= GOAL


@pytest.mark.parametrize("name", ["auto-two", "tpe-two", "gp-two", "lstm", "tpe", "gp"])
def test_candidates_are_valid_and_none_comes_twice(name: str) -> None:
    seen: list[str] = []

    def noted(candidate: Candidate) -> tuple[float, float, float]:
        seen.append(SPACE.key(candidate))
        return evaluated(candidate)

    spec = from_values({"seed": 1, "strategy": STRATEGIES[name], "budget": {"trials": 200}})
    for lent in (loan(count=8), loan(shuffled=True, count=8)):
        seen.clear()
        for _ in zip(range(7), strategy_loop(spec, SPACE, noted, (), loan=lent), strict=False):
            pass
        assert len(set(seen)) == len(seen) >= 7


def test_without_a_loan_nothing_changes() -> None:
    assert list(search("auto", None, 8)) == list(search("auto", Loan(()), 8))


def test_two_objectives_begin_at_the_front_of_those_that_lend() -> None:
    spec = from_values({"strategy": STRATEGIES["auto-two"], "budget": {"trials": 200}})
    seen: list[tuple[float, float]] = []

    def noted(candidate: Candidate) -> tuple[float, float, float]:
        found = evaluated(candidate)
        seen.append(found[:2])
        return found

    for _ in zip(range(5), strategy_loop(spec, SPACE, noted, (), loan=loan()), strict=False):
        pass
    every = np.asarray([measured(SPACE, c) for c in CANDIDATES])
    beaten = [np.mean((every < one).all(1)) for one in seen]
    assert np.median(beaten) < 0.03  # of all candidates, those that are better in both


def test_lent_trials_are_judged_by_the_constraints_of_the_study_that_borrows() -> None:
    """Whoever misses a bound is no model of a good candidate: the first proposal keeps it."""
    limits = limits_of({"min_speedup": 3.0}, None)
    found: list[Candidate] = []

    def noted(candidate: Candidate) -> tuple[float, float, float]:
        found.append(candidate)
        return evaluated(candidate)

    spec = from_values({"strategy": STRATEGIES["auto"], "budget": {"trials": 200}})
    for lent in (loan().by_now(ALPHA, BETA, limits), loan().by_now(0.0, BETA, limits_of({}, None))):
        next(strategy_loop(spec, SPACE, noted, (), loan=lent))
    speed = [TEACHER_MS / measured(SPACE, c)[1] for c in found]
    assert speed[0] >= 3.0 > speed[1]


@pytest.mark.parametrize("strategy", [{"name": "random"}, {"name": "lstm", "controller": "paper"}])
def test_a_strategy_that_learns_from_nobody_refuses_a_lender(strategy: dict[str, object]) -> None:
    with pytest.raises(BadOptionError, match="learns from no other study, and like is films"):
        from_values({"strategy": strategy, "like": "films"})
    assert not from_values({"strategy": strategy}).strategy.borrows()


optuna.logging.set_verbosity(optuna.logging.ERROR)


# ---------------------------------------------------------------- what the controller is taught


def reversed_rewards(lent: Loan) -> Loan:
    """The same candidates, the best with the figures of the worst."""
    (lender,) = lent.lenders
    ranked = sorted(lender.trials, key=lent.reward)
    turned = [
        replace(mine, loss=other.loss, ratio=other.ratio) for mine, other in zip(ranked, ranked[::-1], strict=True)
    ]
    return Loan((Lender("lender", tuple(turned)),), ALPHA, BETA)


def own_trials(count: int) -> list[lstm.Rewarded]:
    rows = np.random.default_rng(2).permutation(len(CANDIDATES))[:count]
    return [lstm.Rewarded(CANDIDATES[row], float(REWARDS[row]), place // 5) for place, row in enumerate(rows)]


def planned_with(lent: Loan | None, own: list[lstm.Rewarded], state: bytes | None = None) -> lstm.Plan:
    taken = {SPACE.key(one.candidate) for one in own}
    return lstm.plan(LstmStrategy(), SPACE, 1, len(own) // 5, own, taken, state, 5, lent)


def test_a_loan_teaches_the_controller_nothing_before_there_are_own_trials() -> None:
    with_loan, without = planned_with(loan(), []), planned_with(None, [])
    assert with_loan.facts["lessons"] == without.facts["lessons"] == 0
    assert with_loan.state == without.state
    assert with_loan.choices[0].origin == "controller" and with_loan.choices[0].predicted is not None
    assert [choice.origin for choice in with_loan.choices[1:]] == ["random"] * 4


def test_what_the_controller_learns_of_a_loan_that_is_borne_out_is_not_handed_on() -> None:
    own = own_trials(10)
    before = planned_with(None, own[:5]).state
    made = planned_with(loan(), own, before)
    assert made.facts["lessons"] == 10 + 20
    assert made.state == before != planned_with(None, own, before).state


def test_a_loan_that_own_trials_speak_against_changes_nothing() -> None:
    own = own_trials(10)
    before = planned_with(None, own[:5]).state
    made, alone = planned_with(reversed_rewards(loan()), own, before), planned_with(None, own, before)
    assert made.facts["lessons"] == 10
    assert made.state == alone.state and made.choices == alone.choices
