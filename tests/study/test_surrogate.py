"""The surrogate learns sums of effects from few trials, and what is left to gain follows from it."""

from __future__ import annotations

import numpy as np
import pytest

from kdnas.study.expected_gain import (
    area_gained,
    chance_below,
    chance_to_keep,
    expected_improvement,
    improvement_beside,
)
from kdnas.study.hypervolume import hypervolume
from kdnas.study.space import Dimension, SearchSpace
from kdnas.study.surrogate import Places, Prediction, Surrogate

SPACE = SearchSpace(
    (
        Dimension("num_hidden_layers", (1, 2, 3, 4, 6)),
        Dimension("hidden_size", (64, 128, 192, 256)),
        Dimension("hidden_act", ("gelu", "relu", "silu"), ordered=False),
        Dimension("dropout", (0.1,)),
    )
)
CANDIDATES = list(SPACE.candidates())


def figures() -> np.ndarray:
    """A sum of effects with one product between two sizes."""
    act = {"gelu": 0.3, "relu": 0.0, "silu": 0.1}
    layers = np.asarray([float(c["num_hidden_layers"]) for c in CANDIDATES])
    width = np.log([float(c["hidden_size"]) for c in CANDIDATES])
    return layers * 0.2 + width + 0.05 * layers * width + np.asarray([act[str(c["hidden_act"])] for c in CANDIDATES])


def test_a_third_of_the_space_tells_the_rest() -> None:
    true, known = figures(), np.random.default_rng(0).permutation(len(CANDIDATES))[:20]
    free = np.setdiff1d(np.arange(len(CANDIDATES)), known)
    found = Surrogate(Places(SPACE, CANDIDATES), known, true[known]).predict(free)
    error = found.mean - true[free]
    assert np.sqrt((error**2).mean()) < 0.15 * true.std()
    assert (np.abs(error) < 3 * found.deviation).mean() > 0.9  # and it knows how well
    assert np.corrcoef(found.mean, true[free])[0, 1] > 0.98


def test_it_knows_least_where_it_has_seen_nothing() -> None:
    places = Places(SPACE, CANDIDATES)
    known = np.flatnonzero([c["num_hidden_layers"] == 1 and c["hidden_act"] != "silu" for c in CANDIDATES])
    seen = Surrogate(places, known, figures()[known])
    far = np.flatnonzero([c["num_hidden_layers"] == 6 and c["hidden_act"] == "silu" for c in CANDIDATES])
    assert seen.predict(far).deviation.min() > 3 * seen.predict(known).deviation.max()


@pytest.mark.parametrize("values", [[1.5], [2.0, 2.0, 2.0]])
def test_one_trial_or_equal_ones_are_no_trouble(values: list[float]) -> None:
    found = Surrogate(Places(SPACE, CANDIDATES), np.arange(len(values)), np.asarray(values)).predict(np.arange(60))
    assert np.isfinite(found.mean).all() and (found.deviation > 0).all()
    assert found.mean[0] == pytest.approx(values[0], abs=0.05)


def test_the_expected_improvement_is_that_of_draws() -> None:
    found = Prediction(np.asarray([0.0, 1.0, -2.0]), np.asarray([1.0, 0.5, 1.5]))
    draws = found.mean + found.deviation * np.random.default_rng(0).standard_normal((200_000, 3))
    assert expected_improvement(found, 0.7) == pytest.approx(np.maximum(draws - 0.7, 0).mean(0), abs=0.01)
    assert chance_below(found, 0.7) == pytest.approx((draws <= 0.7).mean(0), abs=0.01)


def test_a_point_gains_what_the_hypervolume_grows_by() -> None:
    rng = np.random.default_rng(1)
    losses, times = rng.random(12) * 1.2, rng.random(12) * 1.2
    new = rng.random((40, 2)) * 1.2
    gained = area_gained(losses, times, new[:, 0], new[:, 1], (1.0, 1.0))
    before = hypervolume(losses, times)
    grown = [hypervolume(np.append(losses, x), np.append(times, y)) - before for x, y in new]
    assert gained == pytest.approx(grown, abs=1e-12)
    assert gained.max() > 0


def test_the_first_point_of_all_gains_its_own_area() -> None:
    none = np.empty(0)
    assert area_gained(none, none, np.asarray([0.25]), np.asarray([0.5]), (1.0, 1.0)) == pytest.approx([0.375])


def test_what_comes_of_running_trials_changes_predictions_by_as_much_as_they_are_unsure() -> None:
    """Over all ways in which running trials may come out, the mean is today's, and so is the variance: what each way
    leaves, and what the ways differ by."""
    true, order = figures(), np.random.default_rng(0).permutation(len(CANDIDATES))
    known, pending, free = order[:8], order[8:12], order[12:]
    model = Surrogate(Places(SPACE, CANDIDATES), known, true[known])
    normal = np.random.default_rng(1).standard_normal((4000, len(pending)))
    normal = np.concatenate([normal, -normal])
    mean, square = np.zeros(len(free)), np.zeros(len(free))
    of_pending = np.zeros(len(pending))
    for weight, outcomes, found in model.once_out(pending, free, normal):
        mean += weight * found.mean.mean(0)
        square += weight * (found.deviation**2 + (found.mean**2).mean(0))
        of_pending += weight * outcomes.mean(0)
    before = model.predict(free)
    assert mean == pytest.approx(before.mean, rel=1e-9)
    assert np.sqrt(square - mean**2) == pytest.approx(before.deviation, rel=0.05)
    assert of_pending == pytest.approx(model.predict(pending).mean, rel=1e-9)


def test_a_running_trial_takes_the_gain_of_its_neighbours_and_only_if_it_can_be_the_best() -> None:
    true, order = figures(), np.random.default_rng(0).permutation(len(CANDIDATES))
    known, others = order[:8], order[8:]
    model = Surrogate(Places(SPACE, CANDIDATES), known, true[known])
    best = float(true[known].max())
    alone = expected_improvement(model.predict(others), best)
    first = int(np.argmax(alone))
    pending, free = others[[first]], np.delete(others, first)
    normal = np.random.default_rng(1).standard_normal((4000, 1))
    beside = improvement_beside(model, pending, free, best, np.asarray([True]), normal)
    aside = improvement_beside(model, pending, free, best, np.asarray([False]), normal)
    before = np.delete(alone, first)
    assert (aside >= beside).all() and aside.sum() == pytest.approx(before.sum(), rel=0.1)
    assert beside.sum() < 0.5 * before.sum()


def test_the_chance_to_keep_two_constraints_is_the_product_and_without_any_it_is_one() -> None:
    found = Prediction(np.asarray([0.0, 1.0]), np.asarray([1.0, 0.5]))
    assert chance_to_keep([found, found], 2) == pytest.approx(chance_below(found, 0.0) ** 2)
    assert chance_to_keep([], 3).tolist() == [1.0, 1.0, 1.0]
