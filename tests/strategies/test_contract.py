"""What every strategy owes: valid candidates, none twice, one sequence per seed, whatever is stopped and resumed."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from pathlib import Path

import pytest

from kdnas.strategies import SpaceExhausted, distributions, from_parameters, parameters
from kdnas.study.space import Candidate, SearchSpace
from kdnas.system.errors import UsageError
from tests.strategies.loop import CONDITIONAL, SPACE, STRATEGIES, Search, on_file, spec

every_strategy = pytest.mark.parametrize("strategy", STRATEGIES)


def slots(strategy: str) -> int:
    """How many are filled: past each strategy's random start, and two episodes of the controller. GP is slow."""
    return 14 if strategy == "gp-two" else 28


@functools.cache
def whole(strategy: str) -> tuple[Candidate, ...]:
    """The uninterrupted search, which several tests compare with: it is run once."""
    return tuple(Search(spec(strategy)).run(range(slots(strategy))))


@every_strategy
def test_only_valid_candidates_and_none_twice(strategy: str) -> None:
    done = whole(strategy)
    assert len({SPACE.ordinal(c) for c in done}) == slots(strategy)  # ordinal raises for a value that is no choice


@every_strategy
def test_a_small_space_is_seen_whole_and_then_the_search_says_so(strategy: str) -> None:
    search = Search(spec(strategy), CONDITIONAL)
    search.run(range(CONDITIONAL.size))
    assert sorted(map(CONDITIONAL.ordinal, search.done)) == sorted(map(CONDITIONAL.ordinal, CONDITIONAL.candidates()))
    with pytest.raises(SpaceExhausted, match="All 12 candidates"):
        search.run([CONDITIONAL.size])


@every_strategy
def test_one_seed_one_sequence_another_seed_another(strategy: str) -> None:
    count = slots(strategy) // 2 + 5  # for the controller, into its second episode
    once, again = list(whole(strategy)[:count]), Search(spec(strategy)).run(range(count))
    assert once == again
    if strategy not in ("grid", "blocks", "blocks-two"):
        assert Search(spec(strategy, seed=4)).run(range(count)) != once


@every_strategy
def test_stopped_after_every_trial_and_taken_up_by_new_objects(strategy: str, tmp_path: Path) -> None:
    """A new storage and sampler before each trial: equal here for each k means equal from any k on, by induction."""
    resumed = Search(spec(strategy))
    for slot in range(slots(strategy)):
        resumed.run([slot], on_file(tmp_path / "study.db"))
    assert resumed.done == list(whole(strategy))


@every_strategy
def test_a_lost_trial_changes_nothing(strategy: str) -> None:
    found = Search(spec(strategy), lost=frozenset({0, 7, 11, 25, 26})).run(range(slots(strategy)))
    assert found == list(whole(strategy))


def test_taken_up_by_a_new_process(tmp_path: Path) -> None:
    done = {}
    for strategy in ("tpe", "nsga2"):  # the file holds what the new process goes on from
        search = Search(spec(strategy))
        done[strategy] = search.run(range(20), on_file(tmp_path / f"{strategy}.db"))
    code = (
        "import sys, json, pathlib; from tests.strategies.loop import *\n"
        "for strategy, done in json.loads(sys.argv[2]).items():\n"
        "    place = on_file(pathlib.Path(sys.argv[1], strategy + '.db'))\n"
        "    print(json.dumps(Search(spec(strategy), done=done).run(range(20, 28), place)))"
    )
    told = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), json.dumps(done)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert list(map(json.loads, told.stdout.splitlines())) == [list(whole(strategy)) for strategy in done]


@pytest.mark.parametrize("space", [SPACE, CONDITIONAL])
def test_every_candidate_survives_the_way_to_optuna_and_back(space: SearchSpace) -> None:
    for candidate in space.candidates():
        values = parameters(space, candidate)
        assert from_parameters(space, values) == candidate
        assert all(d._contains(d.to_internal_repr(values[name])) for name, d in distributions(space).items())


def test_gp_is_refused_for_budgets_that_it_cannot_serve() -> None:
    assert spec("gp", trials=200).budget.trials == 200
    with pytest.raises(UsageError, match=r"gp is for budgets up to 200 trials.*201.*tpe or lstm"):
        spec("gp", trials=201)


def test_evolution_puts_what_was_pruned_below_what_was_not() -> None:
    from optuna.trial import TrialState, create_trial

    from kdnas.strategies.evolution import _fitness

    asked = distributions(SPACE)
    values = parameters(SPACE, SPACE.from_ordinal(0))
    pruned = create_trial(
        state=TrialState.PRUNED, params=values, distributions=asked, value=0.9, intermediate_values={1: 0.9}
    )
    whole = create_trial(state=TrialState.COMPLETE, params=values, distributions=asked, value=0.1)
    assert _fitness(pruned, 1.0) < _fitness(whole, 1.0)
