"""Forecasts corrected by results: within a group, by no more than they tell, and never turning an order around."""

from __future__ import annotations

import numpy as np
import pytest

from kdnas.study.forecast import LEAST_SLOPE, PRIOR, Forecast
from kdnas.study.hypervolume import gains, hypervolume

KEYS = tuple(str(i) for i in range(40))
GROUPS = tuple("1 layers" if i < 20 else "2 layers" for i in range(40))
RNG = np.random.default_rng(0)
LOSS, RATIO = RNG.uniform(0.1, 0.8, 40), RNG.uniform(0.1, 1.0, 40)
RAW = Forecast.of(KEYS, GROUPS, LOSS, RATIO)


def results(places: range, factor: float, power: float = 1.0) -> dict[str, tuple[float, float]]:
    return {KEYS[i]: (float(factor * LOSS[i] ** power), float(1.1 * RATIO[i])) for i in places}


def test_without_results_nothing_changes_but_the_rate() -> None:
    found = RAW.corrected({}, -0.3, 0.5)
    assert (found.loss == LOSS).all() and (found.ratio == RATIO).all() and not found.known.any()
    assert (found.alpha, found.beta) == (-0.3, 0.5)
    assert (RAW.corrected({"elsewhere": (0.5, 0.5)}, -0.3, 0.5).loss == LOSS).all()


def test_each_group_is_corrected_by_its_own_results_and_known_ones_are_as_they_are() -> None:
    known = results(range(8), 2.0) | results(range(20, 28), 0.5)
    found = RAW.corrected(known, 0.0, 1.0)
    for key, (loss, ratio) in known.items():
        assert found.loss[int(key)] == pytest.approx(loss) and found.ratio[int(key)] == pytest.approx(ratio)
    assert found.known.sum() == 16
    assert found.loss[8:20] / LOSS[8:20] == pytest.approx(2.0, rel=0.1)
    assert found.loss[28:] / LOSS[28:] == pytest.approx(0.5, rel=0.1)
    assert found.ratio[8:20] / RATIO[8:20] == pytest.approx(1.1, rel=0.01)


def test_a_group_without_results_is_shifted_by_what_all_of_them_say() -> None:
    found = RAW.corrected(results(range(8), 2.0), 0.0, 1.0)
    assert found.loss[20:] / LOSS[20:] == pytest.approx(2.0)


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0, -3.0])
def test_a_correction_stretches_but_turns_no_order_around(power: float) -> None:
    found = RAW.corrected(results(range(10), 0.8, power), 0.0, 1.0)
    free = np.arange(10, 20)
    assert (np.argsort(found.loss[free]) == np.argsort(LOSS[free])).all()
    if power > 0:
        off = np.abs(np.log(found.loss[free]) - np.log(0.8 * LOSS[free] ** power))
        assert off.max() < 0.12


def test_gains_are_what_the_hypervolume_grows_by() -> None:
    front = RNG.uniform(0, 1.2, (2, 15))
    loss, ratio = RNG.uniform(0, 1.1, (2, 60))
    loss[0], ratio[1] = np.nan, 2.0
    loss[2], ratio[2] = front[0, 0], front[1, 0]  # one that is there
    before = hypervolume(*front)
    for place, gain in enumerate(gains((front[0], front[1]), loss, ratio)):
        after = hypervolume(np.append(front[0], loss[place]), np.append(front[1], ratio[place]))
        assert gain == pytest.approx(after - before, abs=1e-12)
    alone = gains((np.array([]), np.array([])), np.array([0.4]), np.array([0.5]))
    assert alone == pytest.approx([0.3])


def by_definition(known: dict[str, tuple[float, float]]) -> tuple[np.ndarray, np.ndarray]:
    """Losses and ratios group by group, the slope as least squares with PRIOR as one more row."""
    off = {int(key): np.log([loss / LOSS[int(key)], ratio / RATIO[int(key)]]) for key, (loss, ratio) in known.items()}
    mean = np.mean(list(off.values()), axis=0)
    loss, ratio = np.log(LOSS), np.log(RATIO)
    for group in sorted(set(GROUPS)):
        places = [i for i in range(40) if GROUPS[i] == group]
        own = [i for i in off if GROUPS[i] == group]
        shift = np.sum([mean, *(off[i] for i in own)], axis=0) / (len(own) + 1)
        slope, middle = 0.0, 0.0
        if own:
            x, y = np.log(LOSS[own]), np.asarray([off[i][0] for i in own])
            middle = float(x.mean())
            rows = np.append(x - middle, PRIOR**0.5)
            slope = float(np.linalg.lstsq(rows[:, None], np.append(y - y.mean(), 0.0), rcond=None)[0][0])
        loss[places] += shift[0] + max(slope, LEAST_SLOPE - 1) * (loss[places] - middle)
        ratio[places] += shift[1]
    loss, ratio = np.exp(loss), np.exp(ratio)
    for key, found in known.items():
        loss[int(key)], ratio[int(key)] = found
    return loss, ratio


@pytest.mark.parametrize(
    "known",
    [
        results(range(5), 1.3, 0.7) | results(range(20, 21), 0.5),
        results(range(2), 1.3, 3.0),
        {KEYS[0]: (0.3, 0.2), KEYS[1]: (0.35, 0.9), KEYS[30]: (0.9, 0.4)},
        {KEYS[3]: (float(LOSS[3]) * 1.2, 0.3), KEYS[4]: (float(LOSS[3]) * 0.9, 0.5), KEYS[5]: (0.5, 0.5)},
    ],
)
def test_corrections_are_what_their_definition_says(known: dict[str, tuple[float, float]]) -> None:
    found = RAW.corrected(known, -0.3, 0.5)
    loss, ratio = by_definition(known)
    np.testing.assert_allclose(found.loss, loss, rtol=1e-9)
    np.testing.assert_allclose(found.ratio, ratio, rtol=1e-9)
    assert np.flatnonzero(found.known).tolist() == sorted(map(int, known))
    assert (found.keys, found.groups, found.alpha, found.beta) == (KEYS, GROUPS, -0.3, 0.5)
    again = found.corrected({}, -0.1, 0.7)
    assert (again.alpha, again.beta) == (-0.1, 0.7) and (again.loss == found.loss).all()


def test_a_forecast_begins_with_nothing_known() -> None:
    found = Forecast.of(KEYS, GROUPS, LOSS, RATIO)
    assert (found.keys, found.groups) == (KEYS, GROUPS) and found.loss is LOSS and found.ratio is RATIO
    assert found.known.dtype == bool and found.known.tolist() == [False] * 40


def test_no_loss_and_no_time_have_no_logarithm_and_do_no_harm() -> None:
    for result in ((0.0, 0.5), (0.5, 0.0)):
        assert (RAW.corrected({KEYS[0]: result}, 0.0, 1.0).loss == LOSS).all()
    perfect = Forecast.of(KEYS, GROUPS, np.where(np.arange(40) == 9, 0.0, LOSS), RATIO)
    found = perfect.corrected(results(range(5), 1.3), 0.0, 1.0)
    assert np.isfinite(found.loss).all() and found.loss[9] == found.loss[:20].min()
    known = perfect.corrected({KEYS[9]: (0.3, 0.5)}, 0.0, 1.0)
    assert np.isfinite(known.loss).all() and known.loss[9] == pytest.approx(0.3)
