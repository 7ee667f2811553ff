"""What going on is expected to bring, held against draws of one's own; and how it is said."""

from __future__ import annotations

import numpy as np
import pytest

from kdnas.study import advice as advising
from kdnas.study.advice import DONE, FEWEST, SETTLED, Advice, advice
from kdnas.study.space import Candidate, Dimension, SearchSpace
from kdnas.study.surrogate import Places, Surrogate

SPACE = SearchSpace((Dimension("layers", (1, 2, 3, 4, 6, 8)), Dimension("width", (64, 96, 128, 192, 256, 384))))
EVERY = list(SPACE.candidates())


def value(candidate: Candidate) -> float:
    layers, width = float(candidate["layers"]), float(candidate["width"])  # type: ignore[arg-type]
    return 0.3 + 0.08 * layers - 0.006 * layers**2 + 0.05 * np.log(width) + 0.02 * np.sin(7 * layers + width)


SOME = [(c, value(c)) for c in EVERY[::3]]
TAKEN = [c for c, _ in SOME]


def expected_gain(known: list[tuple[Candidate, float]], following: int) -> float:
    """By many draws of what the surrogate says of the free candidates, each as unsure as it is."""
    taken, rewards = [c for c, _ in known], [reward for _, reward in known]
    best = max(rewards)
    free = [c for c in EVERY if c not in taken]
    surrogate = Surrogate(Places(SPACE, [*taken, *free]), np.arange(len(taken)), np.log(rewards))
    found = surrogate.predict(np.arange(len(taken), len(EVERY)))
    promising = sorted(range(len(free)), key=lambda n: found.mean[n] + found.deviation[n])[-following:]
    draws = np.random.default_rng(5).standard_normal((100_000, following))
    rewards = np.exp(found.mean[promising] + found.deviation[promising] * draws).max(1)
    return float(np.maximum(rewards - best, 0).mean())


@pytest.mark.parametrize("following", [1, 4, 20])
def test_the_gain_is_that_of_the_most_promising_candidates(following: int) -> None:
    told = advice(SPACE, SOME, TAKEN, following)
    assert told is not None and told.trials == following and told.best == max(reward for _, reward in SOME)
    assert told.gain == pytest.approx(expected_gain(SOME, following), rel=0.15)


@pytest.mark.parametrize("following", [1, 4])
def test_what_has_been_tried_is_no_trial_to_come(following: int) -> None:
    """Rewards by chance: every candidate may be better than what is free seems to be."""
    rng = np.random.default_rng(3)
    known = [(c, float(reward)) for c, reward in zip(EVERY[6:], rng.uniform(0.3, 0.9, 30), strict=True)]
    told = advice(SPACE, known, EVERY[6:], following)
    assert told is not None
    assert told.gain == pytest.approx(expected_gain(known, following), rel=0.25)


def test_twenty_trials_are_told_of_unless_asked_or_fewer_are_left() -> None:
    told = advice(SPACE, SOME, TAKEN)
    assert told is not None and told.trials == 20
    nearly = [c for c in EVERY if c not in EVERY[1:4]]
    told = advice(SPACE, SOME, nearly)
    assert told is not None and told.trials == 3
    assert advice(SPACE, SOME, EVERY) == Advice(0.0, 0, max(reward for _, reward in SOME))


@pytest.mark.parametrize(
    ("told", "brief"),
    [
        (Advice(0.0, 0, 0.5), "every candidate evaluated"),
        (Advice(0.02, 20, 0.5, likeliest=0.1), "none left likely feasible"),
        (Advice(0.0, 20, 0.5), "hardly worth going on"),
        (Advice(0.0, 3, 0.5, finished=9), "next 3: gain of less than 0.0001 expected"),
        (Advice(0.02, 20, 0.5), "next 20: gain of 0.02 expected"),
    ],
)
def test_the_advice_in_few_words(told: Advice, brief: str) -> None:
    assert told.brief == brief


def test_nothing_is_said_of_too_few_trials_or_of_rewards_without_a_logarithm() -> None:
    assert advice(SPACE, SOME[: FEWEST - 1], TAKEN) is None
    assert advice(SPACE, SOME[:FEWEST], TAKEN) is not None
    assert advice(SPACE, [*SOME[:-1], (SOME[-1][0], 0.0)], TAKEN) is None


def test_no_draw_is_more_than_ten_times_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rewards that differ by powers of ten say next to nothing of a free candidate."""
    wild = [(c, 10.0 ** (6 * n % 40 - 20)) for n, (c, _) in enumerate(SOME)]
    told = advice(SPACE, wild, TAKEN)
    assert told is not None and 0 < told.gain <= 9 * told.best * (1 + 1e-9)


def test_of_a_large_space_a_part_is_looked_at_always_the_same() -> None:
    large = SearchSpace(tuple(Dimension(name, tuple(range(1, 18))) for name in ("a", "b", "c")))
    pool = advising._pool(large)
    assert 0.5 * advising.POOL < len(pool) <= advising.POOL < large.product_size
    assert len({large.key(c) for c in pool}) == len(pool) and pool == advising._pool(large)
    assert advising._pool(SPACE) == EVERY
    whole = SearchSpace(tuple(Dimension(name, tuple(range(1, 17))) for name in ("a", "b", "c")))
    assert len(advising._pool(whole)) == whole.product_size == advising.POOL


@pytest.mark.parametrize(
    ("told", "words"),
    [
        (Advice(0.0021, 20, 0.8), "The next 20 trials are expected to gain 0.002 (best 0.8000)."),
        (Advice(0.001, 1, 0.8), "The next trial is expected to gain 0.001 (best 0.8000)."),
        (
            Advice(0.00005, 2, 0.8),
            "The next 2 trials are expected to gain 5e-05 (best 0.8000). Going on is hardly worth it.",
        ),
        (
            Advice(0.00004, 2, 0.8),
            "The next 2 trials are expected to gain less than 0.0001 (best 0.8000). Going on is hardly worth it.",
        ),
        (Advice(0.0, 0, 0.8), "Every candidate of the space has been evaluated."),
        (
            Advice(0.0021, 20, 0.8, likeliest=0.29),
            "No candidate left is likely feasible (29 % at most). Going on is hardly worth it.",
        ),
        (
            Advice(0.0021, 20, 0.8, likeliest=0.004),
            "No candidate left is likely feasible (less than 1 %). Going on is hardly worth it.",
        ),
        (
            Advice(0.0021, 20, 0.8, likeliest=0.34),
            "No candidate left is likely feasible (34 % at most). "
            "The next 20 trials are expected to gain 0.002 (best 0.8000).",
        ),
        (Advice(0.0021, 20, 0.8, likeliest=0.8), "The next 20 trials are expected to gain 0.002 (best 0.8000)."),
        (
            Advice(0.0021, 20, 0.8, SETTLED - 1, likeliest=0.1),
            "The next 20 trials are expected to gain 0.002 (best 0.8000).",
        ),
    ],
)
def test_the_words(told: Advice, words: str) -> None:
    assert str(told) == words


@pytest.mark.parametrize("best", [0.5, -0.5])
def test_a_thousandth_of_the_best_is_worth_going_on_for(best: float) -> None:
    assert not Advice(DONE * 0.5, 20, best).done and Advice(DONE * 0.499, 20, best).done


def bounded(limit: float) -> list[dict[str, float]]:
    return [{"max_latency_ms": float(np.log(float(c["layers"]) / limit))} for c in TAKEN]  # type: ignore[arg-type]


def test_under_a_constraint_the_gain_is_over_the_best_that_keeps_it() -> None:
    """Rewards rise with the layers, of which at most three are allowed: what is free and better is not allowed."""
    free = advice(SPACE, SOME, TAKEN, violations=bounded(100.0))
    plain, few = advice(SPACE, SOME, TAKEN), advice(SPACE, SOME, TAKEN, violations=bounded(3.0))
    assert free is not None and plain is not None and few is not None
    assert free.gain == pytest.approx(plain.gain, rel=0.3) and free.best == plain.best
    assert few.best == max(reward for c, reward in SOME if float(c["layers"]) <= 3) < plain.best  # type: ignore[arg-type]
    assert 0 < few.gain < 0.3 * (plain.best - few.best)


def test_the_likeliest_is_of_the_candidates_that_are_left() -> None:
    """At most two layers are allowed. While such candidates are free one of them is sure; without them the next ones,
    of three layers, are known to miss it."""
    few = [c for c in EVERY if float(c["layers"]) <= 2]  # type: ignore[arg-type]
    some, all_few = advice(SPACE, SOME, TAKEN, violations=bounded(2.5)), [*few, *(c for c in TAKEN if c not in few)]
    assert some is not None and some.likeliest is not None and some.likeliest > 0.9
    known = [(c, value(c)) for c in all_few]
    missed = [{"max_latency_ms": float(np.log(float(c["layers"]) / 2.5))} for c in all_few]  # type: ignore[arg-type]
    none = advice(SPACE, known, all_few, violations=missed)
    assert none is not None and none.likeliest is not None and none.likeliest < 0.3
    assert none.finished >= SETTLED and none.unlikely and none.doubtful and none.done


@pytest.mark.parametrize(("chance", "unlikely", "done"), [(0.8, False, False), (0.3, True, False), (0.29, True, True)])
def test_it_is_done_where_all_that_is_left_has_but_a_slim_chance(chance: float, unlikely: bool, done: bool) -> None:
    told, early = Advice(0.1, 20, 0.8, SETTLED, chance), Advice(0.1, 20, 0.8, SETTLED - 1, chance)
    assert (told.unlikely, told.done) == (unlikely, done) and not early.unlikely and not early.done


def test_nothing_is_called_likely_without_constraints_or_where_not_all_candidates_were_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain, bound = advice(SPACE, SOME, TAKEN), advice(SPACE, SOME, TAKEN, violations=bounded(3.0))
    assert plain is not None and plain.likeliest is None and bound is not None and bound.likeliest is not None
    monkeypatch.setattr(advising, "POOL", SPACE.product_size - 1)
    part = advice(SPACE, SOME, TAKEN, violations=bounded(3.0))
    assert part is not None and part.likeliest is None and not part.unlikely


def test_nothing_is_said_while_no_trial_keeps_the_constraints() -> None:
    assert advice(SPACE, SOME, TAKEN, violations=bounded(0.5)) is None


def test_few_trials_never_say_that_going_on_is_hardly_worth_it() -> None:
    assert not Advice(0.0, 20, 0.8, SETTLED - 1).done and Advice(0.0, 20, 0.8, SETTLED).done
    assert Advice(0.0, 0, 0.8, 3).done  # nothing is left
    flat = [(c, 0.5 + 1e-6 * n) for n, c in enumerate(TAKEN)]
    told = advice(SPACE, flat, TAKEN)
    assert told is not None and told.finished == len(TAKEN) < SETTLED and told.gain < DONE * told.best and not told.done
