"""Replays of a recorded table: several trials in flight, a constraint that is known after a trial, and the advice."""

from __future__ import annotations

from itertools import pairwise
from math import inf

import pytest

from benchmarks import search_advice, search_constraint
from benchmarks.search_replay import ALPHAS, TABLES, evaluate_from, load, strategy_loop
from kdnas.study.space import Candidate
from kdnas.study.spec import from_values

RECORDED = load(TABLES / "news-recurrent.csv.gz")
REWARDS = RECORDED.rewards(-0.06)


@pytest.mark.parametrize("workers", [1, 4])
def test_with_several_workers_every_candidate_is_evaluated_once(workers: int) -> None:
    known = evaluate_from(RECORDED, REWARDS)
    seen: list[str] = []

    def evaluate(candidate: Candidate) -> tuple[float, float, float]:
        seen.append(RECORDED.space.key(candidate))
        return known(candidate)

    spec = from_values({"strategy": {"name": "random"}})
    found = list(strategy_loop(spec, RECORDED.space, evaluate, RECORDED.candidates[:3], workers=workers))
    assert len(seen) == len(set(seen)) == RECORDED.space.size and sorted(found) == pytest.approx(sorted(REWARDS))
    assert seen[:3] == [RECORDED.space.key(c) for c in RECORDED.candidates[:3]]


def test_with_several_workers_a_proposal_knows_only_what_has_ended() -> None:
    """The sampler is asked for the fourth candidate before the first has a result."""
    known, spec = evaluate_from(RECORDED, REWARDS), from_values({"strategy": {"name": "auto"}})
    alone = strategy_loop(spec, RECORDED.space, known, ())
    four = strategy_loop(spec, RECORDED.space, known, (), workers=4)
    one, other = [next(alone) for _ in range(9)], [next(four) for _ in range(9)]
    assert one[:4] == other[:4] and one != other


def test_what_is_begun_at_once_knows_nothing_and_what_follows_knows_everything() -> None:
    known, spec = evaluate_from(RECORDED, REWARDS), from_values({"strategy": {"name": "auto"}})

    def first(count: int, **several: int) -> list[float]:
        loop = strategy_loop(spec, RECORDED.space, known, (), **several)  # type: ignore[arg-type]
        return [next(loop) for _ in range(count)]

    assert first(6, at_once=6) == first(6, workers=6)
    assert first(9, at_once=4) == first(9)  # its first four never learn from each other
    assert first(9, at_once=6) != first(9, workers=6)


def test_a_tenth_keeps_the_constraint_and_the_search_knows_after_twenty() -> None:
    limits, feasible = search_constraint.bound(RECORDED)
    assert feasible.sum() == round(0.1 * len(feasible))
    missed = [limits.miss({"speedup": 1 / share}) for share in RECORDED.latencies]
    assert ([by == 0 for by in missed] == feasible).all()
    found = search_constraint.search("auto", RECORDED, ALPHAS["evaluations_median"], 0)
    by_chance = search_constraint.search("random", RECORDED, ALPHAS["evaluations_median"], 0)
    assert found.first is not None and found.reached is not None and found.first <= found.reached
    assert 0 <= by_chance.kept <= by_chance.counted <= search_constraint.LIMIT - search_constraint.LEARNT


def test_the_advice_ends_a_constrained_search_at_its_regret() -> None:
    found = search_advice.search("auto_constrained", RECORDED, ALPHAS["evaluations_median_strict"], 1)
    assert found.after is None or (found.after == len(found.regrets) >= 20)
    assert all(later <= earlier for earlier, later in pairwise(found.regrets)) and 0 <= found.regrets[-1] < inf
