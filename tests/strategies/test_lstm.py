"""The controller: what an episode is made of, and that a plan follows from its arguments alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kdnas.strategies import SpaceExhausted
from kdnas.strategies.lstm import Controller, Plan, Rewarded, epsilon, plan, randoms
from kdnas.study.spec import from_values
from kdnas.study.spec_strategies import LstmStrategy
from kdnas.system.seeds import Purpose, generator
from tests.strategies.loop import CONDITIONAL, SPACE, measured

OURS = LstmStrategy()
PAPER = from_values({"strategy": {"name": "lstm", "controller": "paper"}}).strategy
both = pytest.mark.parametrize("options", [OURS, PAPER], ids=["ours", "paper"])


def history(count: int, samples: int) -> list[Rewarded]:
    rng = generator(0, Purpose.PROPOSAL, 0)
    drawn = [SPACE.from_ordinal(int(o)) for o in rng.permutation(SPACE.size)[:count]]
    return [Rewarded(c, 1 - measured(SPACE, c)[0], i // samples) for i, c in enumerate(drawn)]


def planned(options: LstmStrategy, past: list[Rewarded], state: bytes | None = None, count: int = 20) -> Plan:
    taken = {SPACE.key(r.candidate) for r in past}
    return plan(options, SPACE, 1, past[-1].episode + 1 if past else 0, past, taken, state, count)


def test_epsilon_falls_from_one_to_its_floor_without_drifting() -> None:
    assert [epsilon(PAPER, e) for e in (0, 1, 2, 3, 14, 18)] == [1, 0.95, 0.9, 0.85, 0.3, 0.1]
    assert [epsilon(PAPER, e) for e in (19, 20, 1000)] == [0.05] * 3
    assert [randoms(PAPER, e, 20) for e in range(21)] == [*range(20, 0, -1), 1]


@pytest.mark.parametrize("samples", [1, 3, 5, 7, 20])
def test_no_candidate_is_lost_to_rounding(samples: int) -> None:
    options = LstmStrategy(samples=samples, epsilon=1.0, epsilon_step=0.07, epsilon_floor=0.1)
    counts = [randoms(options, e, samples) for e in range(200)]
    assert all(0 <= count <= samples for count in counts)
    assert abs(sum(counts) - sum(epsilon(options, e) for e in range(200)) * samples) < 1
    for episode in range(5):
        assert len(plan(options, SPACE, 1, episode, [], set(), None, samples).choices) == samples


@both
def test_nothing_taken_and_nothing_twice_is_chosen(options: LstmStrategy) -> None:
    past = history(60, options.samples)
    made = planned(options, past)
    keys = [SPACE.key(c.candidate) for c in made.choices]
    assert len(set(keys)) == 20
    assert not set(keys) & {SPACE.key(r.candidate) for r in past}
    assert sum(c.origin == "random" for c in made.choices) == randoms(options, past[-1].episode + 1, 20)
    assert made.global_best == max(r.reward for r in past)
    assert made.previous_best == max(r.reward for r in past if r.episode == past[-1].episode)


@both
def test_the_end_of_the_space(options: LstmStrategy) -> None:
    keys = [CONDITIONAL.key(c) for c in CONDITIONAL.candidates()]
    made = plan(options, CONDITIONAL, 1, 3, [], set(keys[:9]), None, 20)
    assert sorted(CONDITIONAL.key(c.candidate) for c in made.choices) == sorted(keys[9:])
    with pytest.raises(SpaceExhausted):
        plan(options, CONDITIONAL, 1, 3, [], set(keys), None, 20)


@both
@pytest.mark.parametrize("threads", [1, 2])
def test_a_plan_made_again_is_the_same_to_the_last_bit(options: LstmStrategy, threads: int) -> None:
    past = history(100, options.samples)
    before = planned(options, past[:80]).state
    once = planned(options, past, before)
    known = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        torch.manual_seed(threads)  # what the worker's own random numbers are at must not matter
        again = planned(options, past, before)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(known)
    assert again == once
    assert planned(options, past, None).state != once.state  # what was learnt before counts


def test_the_controller_is_an_lstm_over_three_states() -> None:
    """Against torch's own, weight by weight: the paper's network, not something near it."""
    controller = Controller(SPACE, 32, 32, 1, False, torch.Generator().manual_seed(0))
    p = controller.parameters
    dimensions = len(SPACE.shape)
    theirs = torch.nn.LSTM(dimensions * 32, 32, batch_first=True)
    with torch.no_grad():
        theirs.weight_ih_l0.copy_(p["lstm.input"][0].T)
        theirs.weight_hh_l0.copy_(p["lstm.hidden"][0].T)
        theirs.bias_ih_l0.copy_(p["lstm.bias"][0, 0])
        theirs.bias_hh_l0.zero_()
    states = torch.from_numpy(np.stack([SPACE.encode(c) for c in list(SPACE.candidates())[:40]]))
    previous, best, candidates = states[0], states[1], states[2:]
    sequence = torch.stack([s.expand_as(candidates) for s in (previous, best)] + [candidates], dim=1)
    embedded = p["embedding"][0][sequence + controller.offsets].flatten(2)
    expected = theirs(embedded)[0][:, -1] @ p["head.weight"][0] + p["head.bias"][0]
    torch.testing.assert_close(controller(previous, best, candidates)[0], expected[:, 0])


def test_ours_learns_from_the_history_what_is_good() -> None:
    past = history(120, OURS.samples)
    state = None
    for episode in range(1, 24):
        until = [r for r in past if r.episode < episode]
        state = plan(OURS, SPACE, 1, episode, until, {SPACE.key(r.candidate) for r in past}, state, 5).state
    made = planned(OURS, past, state)
    chosen = [1 - measured(SPACE, c.candidate)[0] for c in made.choices if c.origin == "controller"]
    everyone = [1 - measured(SPACE, c)[0] for c in SPACE.candidates()]
    assert np.mean(chosen) > np.percentile(everyone, 90)
    assert made.controller_loss is not None and made.controller_loss < np.var([r.reward for r in past])
    foreseen = [c.predicted for c in made.choices if c.origin == "controller"]
    assert np.mean(np.abs(np.asarray(foreseen) - chosen)) < np.std(everyone)


def test_the_papers_episodes_are_the_default_budget_of_the_papers_controller() -> None:
    assert from_values({"strategy": {"name": "lstm", "controller": "paper"}}).budget.trials == 300
    assert from_values({"strategy": {"name": "lstm", "episodes": 4}}).budget.trials == 20
    assert from_values({"strategy": {"name": "lstm", "episodes": 4}, "budget": {"trials": 7}}).budget.trials == 7
