"""`auto` takes what the space asks for, says so, and keeps to constraints; a search of the recorded table is short."""

from __future__ import annotations

import optuna
import pytest

from benchmarks.search_replay import ALPHAS, DEFAULT, load, replay
from kdnas.strategies import candidate, directions, sampler
from kdnas.study.space import Dimension, SearchSpace
from kdnas.study.spec import from_values
from kdnas.study.spec_strategies import AutoStrategy
from kdnas.study.strategy_choice import SURROGATE_TRIALS, stage, stages, words
from tests.strategies.loop import SPACE, measured

AUTO = AutoStrategy()  # type: ignore[call-arg]
LARGE = SearchSpace(tuple(Dimension(name, tuple(range(1, 9))) for name in "abcd"))
VARIANTS = SearchSpace((Dimension("variant", ("one", "two", "three"), ordered=False),))


def names(space: SearchSpace, two: bool = False) -> list[tuple[int, str]]:
    asked = AutoStrategy(two_objectives=two)  # type: ignore[call-arg]
    return [(one.first, one.options.name) for one in stages(asked, space)]


def test_what_it_takes_for_which_space() -> None:
    assert names(LARGE) == [(0, "surrogate"), (SURROGATE_TRIALS, "tpe")]
    assert names(VARIANTS) == [(0, "grid")]
    small = SearchSpace(LARGE.dimensions[:2])
    assert names(small) == [(0, "surrogate")]
    assert all(one.options.for_the_front() for one in stages(AutoStrategy(two_objectives=True), LARGE))  # type: ignore[call-arg]
    assert stage(AUTO, LARGE, SURROGATE_TRIALS - 1).options.name == "surrogate"
    assert stage(AUTO, LARGE, SURROGATE_TRIALS).options.name == "tpe"


def test_it_says_what_it_takes_and_a_change_only_where_the_budget_reaches_it() -> None:
    told = words(AUTO, LARGE, 100)
    assert told.startswith("Strategy auto takes surrogate: the reward is nearly a sum of effects") and "tpe" not in told
    assert "From trial 300 on it takes tpe" in words(AUTO, LARGE, 301)


@pytest.mark.parametrize("kind", ALPHAS)
def test_a_search_of_the_recorded_table_is_short(kind: str) -> None:
    reached = [replay("auto", load(DEFAULT), ALPHAS[kind], seed).reached for seed in range(3)]
    assert all(one is not None and one <= 40 for one in reached)


def test_who_proposed_stands_in_the_trial_and_later_slots_are_anothers() -> None:
    spec = from_values({"strategy": {"name": "auto"}})
    study = optuna.create_study(directions=directions(spec))
    for slot in (0, 1, SURROGATE_TRIALS):
        study.sampler = sampler(spec, LARGE, slot, {LARGE.key(c) for c in ()})
        study.optimize(lambda trial: float(sum(candidate(trial, LARGE).values())), n_trials=1)  # type: ignore[arg-type]
    assert [t.system_attrs["proposed_by"] for t in study.trials] == ["surrogate", "surrogate", "tpe"]


def test_what_breaks_a_constraint_is_soon_no_longer_proposed() -> None:
    """The best rewards are of candidates that may not be: those of more than two layers."""
    spec = from_values({"strategy": {"name": "auto"}})
    study, taken, kept = optuna.create_study(directions=directions(spec)), set(), []
    for slot in range(30):
        study.sampler = sampler(spec, SPACE, slot, taken)
        trial = study.ask()
        chosen = candidate(trial, SPACE)
        taken.add(SPACE.key(chosen))
        loss, _ = measured(SPACE, chosen)
        trial.set_constraint("layers", float(chosen["num_hidden_layers"]) - 2)  # type: ignore[arg-type]
        kept.append(chosen["num_hidden_layers"] in (1, 2))
        study.tell(trial, 1 - loss)
    assert sum(kept[12:]) >= 0.8 * len(kept[12:])
