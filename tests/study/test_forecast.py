"""Forecasts corrected by results: within a group, by no more than they tell, and never turning an order around."""

from __future__ import annotations

import numpy as np
import pytest

from kdnas.study.forecast import Forecast
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


def x() -> None:
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
