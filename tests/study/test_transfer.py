"""What lent trials say of a study's candidates: as much as the own trials bear out, and in the own trials' terms."""

from __future__ import annotations

import numpy as np
import pytest

from kdnas.study.loan import MOST, Lender, LentTrial, Loan, some, within
from kdnas.study.space import Dimension, SearchSpace
from kdnas.study.surrogate import Places, Surrogate
from kdnas.study.transfer import Lent, Transfer

SPACE = SearchSpace(
    (
        Dimension("layers", (1, 2, 3, 4, 6)),
        Dimension("width", (64, 128, 192, 256)),
        Dimension("act", ("gelu", "relu"), ordered=False),
    )
)
CANDIDATES = list(SPACE.candidates())
PLACES = Places(SPACE, CANDIDATES)
_layers, _width = (np.asarray([float(c[name]) for c in CANDIDATES]) for name in ("layers", "width"))
TRUTH = _width / 400 - 0.3 * (_layers - 4) ** 2 / 9 - 0.1 * np.asarray([c["act"] == "relu" for c in CANDIDATES])
LENT_ROWS = np.random.default_rng(5).permutation(len(CANDIDATES))[:20]
OWN_ROWS = np.random.default_rng(6).permutation(len(CANDIDATES))[:8]
ALL = np.arange(len(CANDIDATES))


def _order(found: np.ndarray, truth: np.ndarray) -> float:
    """Correlation of ranks."""
    return float(np.corrcoef(np.argsort(np.argsort(found)), np.argsort(np.argsort(truth)))[0, 1])


@pytest.mark.parametrize("bent", [lambda x: 3 * x - 7, lambda x: np.exp(1.5 * x), lambda x: 0.2 * np.cbrt(x + 0.3)])
def test_a_study_of_other_levels_and_spreads_lends_its_order(bent: object) -> None:
    own = bent(TRUTH)  # type: ignore[operator]
    few = OWN_ROWS[:4]
    model = Transfer(PLACES, few, own[few], [Lent(LENT_ROWS, TRUTH[LENT_ROWS])])
    found = model.predict(ALL).mean
    assert model.none < 0.5
    assert _order(found, own) > 0.95 > _order(Surrogate(PLACES, few, own[few]).predict(ALL).mean, own)
    # Told in the terms of the study that borrows: its level and its spread.
    assert abs(found.mean() - own.mean()) < own.std()


def test_without_a_trial_of_its_own_a_study_has_the_order_of_those_that_lend() -> None:
    model = Transfer(PLACES, ALL[:0], np.zeros(0), [Lent(LENT_ROWS, TRUTH[LENT_ROWS])])
    assert model.none == 0 and _order(model.predict(ALL).mean, TRUTH) > 0.95


@pytest.mark.parametrize("seed", range(4))
def test_an_unrelated_study_loses_its_weight(seed: int) -> None:
    noise = np.random.default_rng(seed).permutation(TRUTH)
    weights = []
    for count in (2, 8, 16):
        rows = np.random.default_rng(7).permutation(len(CANDIDATES))[:count]
        model = Transfer(PLACES, rows, TRUTH[rows], [Lent(LENT_ROWS, noise[LENT_ROWS])])
        weights.append(1 - model.none)
    assert weights[0] > weights[2] < 0.15
    # What is left says what the own trials say alone.
    alone = Surrogate(PLACES, rows, TRUTH[rows]).predict(ALL).mean
    assert np.abs(model.predict(ALL).mean - alone).max() < 0.2 * TRUTH.std()


def test_of_two_that_lend_the_one_that_fits_counts() -> None:
    noise = np.random.default_rng(3).permutation(TRUTH)
    both = [Lent(LENT_ROWS, noise[LENT_ROWS]), Lent(LENT_ROWS, TRUTH[LENT_ROWS])]
    for lent in (both, both[::-1]):
        model = Transfer(PLACES, OWN_ROWS, TRUTH[OWN_ROWS], lent)
        assert model.none < 0.2 and _order(model.predict(ALL).mean, TRUTH) > 0.95


def test_the_own_trials_are_reproduced() -> None:
    model = Transfer(PLACES, OWN_ROWS, TRUTH[OWN_ROWS], [Lent(LENT_ROWS, TRUTH[LENT_ROWS] + 1)])
    found = model.predict(OWN_ROWS)
    assert np.allclose(found.mean, TRUTH[OWN_ROWS], atol=0.02)
    assert (found.deviation < model.predict(ALL).deviation.max()).all()


# ---------------------------------------------------------------------------- the loan


def test_lent_trials_are_weighed_by_the_alpha_and_beta_of_the_study_that_borrows() -> None:
    trial = LentTrial({"layers": 1}, 0.2, 0.5, 1000)
    loan = Loan((Lender("a", (trial,)),), alpha=-0.5, beta=0.5)
    assert loan.reward(trial) == pytest.approx(0.8)
    assert loan.by_now(-0.5, 1.0, loan.limits).reward(trial) == pytest.approx(0.8 * 2**0.5)
    assert Loan.from_values(loan.to_values()).lenders == loan.lenders


def test_a_space_that_overlaps_is_lent_what_lies_in_it() -> None:
    trials = [LentTrial(c, 0.1, 1.0) for c in CANDIDATES]
    narrow = SearchSpace((Dimension("layers", (2, 3, 5)), *SPACE.dimensions[1:]))
    assert {t.candidate["layers"] for t in within(trials, narrow)} == {2, 3}
    other = SearchSpace((*SPACE.dimensions, Dimension("heads", (1, 2))))
    assert not within(trials, other)


def test_of_many_trials_the_best_and_some_of_all_the_others_are_lent() -> None:
    trials = [LentTrial({"layers": place}, 0.1, 1.0) for place in range(500)]
    kept = [int(t.candidate["layers"]) for t in some(trials, [float(place) for place in range(500)])]
    assert len(kept) == MOST and set(range(470, 500)) <= set(kept) and kept[0] == 0
    assert max(np.diff(kept)) < 20
