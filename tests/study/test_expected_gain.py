"""What a new point adds to a front, up to a reference that is not the same in both directions."""

from __future__ import annotations

import numpy as np
import pytest

from kdnas.study.expected_gain import area_gained
from kdnas.study.hypervolume import hypervolume


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("reference", [(1.5, 0.6), (0.6, 1.5), (1.0, 1.0)])
def test_points_beyond_the_reference_neither_add_nor_hide_anything(seed: int, reference: tuple[float, float]) -> None:
    rng = np.random.default_rng(seed)
    losses, times = np.round(rng.random((2, 9)) * 2, 1)  # some of them alike
    new = np.round(rng.random((30, 2)) * 2, 2)
    before = hypervolume(losses, times, reference)
    grown = [hypervolume(np.append(losses, x), np.append(times, y), reference) - before for x, y in new]
    gained = area_gained(losses, times, new[:, 0], new[:, 1], reference)
    np.testing.assert_allclose(gained, grown, atol=1e-12)
    assert gained.shape == (30,)
    assert area_gained(losses, times, new[:, :1], new[:, 1:], reference).shape == (30, 1)
