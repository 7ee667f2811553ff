"""What candidates are worth to `surrogate`: those unlikely to keep constraints come last, once trials have shown where
the bounds are, and the slow end of a front counts before anything there was tried."""

from __future__ import annotations

from math import log

import numpy as np
import optuna
import pytest

from kdnas.strategies import candidate, directions, sampler
from kdnas.strategies.optuna_space import distributions, parameters
from kdnas.strategies.surrogate import STEADY, within
from kdnas.study.spec import from_values
from tests.strategies.loop import SPACE, measured

CHANCE, GAIN = np.asarray([0.99, 0.85, 0.5, 0.01]), np.asarray([0.001, 0.01, 0.1, 0.9])


def test_until_then_a_candidate_is_worth_its_gain_times_its_chance() -> None:
    assert within(CHANCE, GAIN, STEADY - 1) == pytest.approx(CHANCE * GAIN)


def test_from_then_on_likely_ones_come_first_whatever_the_others_might_gain() -> None:
    assert np.argmax(within(CHANCE, GAIN, STEADY - 1)) == 2
    worth = within(CHANCE, GAIN, STEADY)
    assert np.argmax(worth) == 1 and worth[:2].min() > worth[2:].max()


def test_where_none_is_likely_the_likeliest_is_the_first() -> None:
    assert np.argmax(within(CHANCE * 0.1, GAIN, STEADY)) == 0


def test_where_likely_ones_gain_nothing_they_still_come_first() -> None:
    assert np.argmax(within(CHANCE, np.asarray([0.0, 0.0, 1.0, 1.0]), 40)) in (0, 1)


def test_without_constraints_the_gain_alone_counts() -> None:
    for trials in (0, STEADY, 100):
        assert (within(np.ones(4), GAIN, trials) == GAIN).all()


@pytest.mark.parametrize("two", [False, True])
def test_of_two_constraints_both_are_kept_after_the_first_twenty(two: bool) -> None:
    """Slow ones have the best rewards. A sixth of all candidates keep both bounds."""
    spec = from_values({"strategy": {"name": "surrogate", "two_objectives": two}})
    study, taken, kept = optuna.create_study(directions=directions(spec)), set[str](), []
    for slot in range(32):
        study.sampler = sampler(spec, SPACE, slot, taken)
        trial = study.ask()
        chosen = candidate(trial, SPACE)
        taken.add(SPACE.key(chosen))
        loss, latency = measured(SPACE, chosen)
        violations = {"latency": log(latency / 7.0), "loss": log(loss / 0.75)}
        for name, by in violations.items():
            trial.set_constraint(name, by)
        kept.append(max(violations.values()) <= 0)
        study.tell(trial, [loss, latency] if two else 1 - loss)
    assert sum(kept[20:]) >= 0.9 * len(kept[20:])


def test_a_front_is_looked_for_beyond_the_slowest_that_was_tried() -> None:
    """Of the slower half nothing has been tried; its candidates have the lowest losses."""
    spec = from_values({"strategy": {"name": "surrogate", "two_objectives": True}})
    study = optuna.create_study(directions=directions(spec))
    by_time = sorted(SPACE.candidates(), key=lambda c: measured(SPACE, c)[1])
    tried = by_time[: len(by_time) // 2 : 12]
    for one in tried:
        params, values = parameters(SPACE, one), measured(SPACE, one)
        study.add_trial(optuna.trial.create_trial(params=params, distributions=distributions(SPACE), values=values))
    study.sampler = sampler(spec, SPACE, len(tried), {SPACE.key(c) for c in tried})
    loss, latency = measured(SPACE, candidate(study.ask(), SPACE))
    losses, latencies = zip(*(measured(SPACE, c) for c in tried), strict=True)
    assert loss < min(losses) and latency > max(latencies)
