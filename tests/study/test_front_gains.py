"""Which points a front has gained lately, by its definition."""

from __future__ import annotations

import numpy as np
import pytest

from kdnas.study.front_gains import FrontGains, front_gains
from kdnas.study.hypervolume import hypervolume
from kdnas.study.ranked_rows import rank
from tests.rows import made_row, made_rows


def test_the_gains_are_the_new_points_of_the_front_and_the_area_they_add() -> None:
    scored = rank(made_rows(60), -0.06, 0.6)
    done = sorted((s for s in scored if s.rank is not None), key=lambda s: s.number)
    assert len(scored) > len(done) > 40 and done != [s for s in scored if s.rank is not None]
    losses, shares = np.asarray([[s.row.loss, s.row.latency_ms / s.row.teacher_latency_ms] for s in done]).T  # type: ignore[operator]
    for last in (1, 7, 40, len(done) - 1):
        found = front_gains(scored, last)
        assert found is not None and found.trials == last
        assert found.numbers == tuple(s.number for s in done if s.front and s in done[-last:])
        assert found.before == pytest.approx(hypervolume(losses[:-last], shares[:-last]))
        assert found.now == pytest.approx(hypervolume(losses, shares))
    whole = front_gains(scored, 40)
    assert whole is not None and len(whole.numbers) > 1 and whole.now > whole.before


def test_a_study_must_have_had_more_trials_than_are_looked_back_on() -> None:
    scored = rank([made_row(n, loss=0.5 - n / 100) for n in range(21)], -0.06, 0.6)
    assert front_gains(scored[:20]) is None  # twenty, unless told
    found = front_gains(scored)
    assert found is not None and found.trials == 20
    assert front_gains(scored[:3], 3) is None and front_gains(scored[:4], 3) is not None


def test_what_was_not_measured_covers_nothing() -> None:
    rows = [made_row(0, loss=0.5), made_row(1, loss=0.4)]
    scored = rank(rows, -0.06, 0.6)
    blank = [scored[0]._replace(row=made_row(1, loss=None)), scored[1]]
    untimed = [scored[0]._replace(row=made_row(1, loss=0.4, latency_ms=None)), scored[1]]
    for changed in (blank, untimed):
        found = front_gains(changed, 1)
        assert found is not None and found.now == found.before == pytest.approx((1 - 0.5) * (1 - 5 / 30))


@pytest.mark.parametrize(
    ("gains", "words"),
    [
        (FrontGains(20, (), 0.5, 0.5), "The front has gained nothing in the last 20 trials (hypervolume 0.5000)."),
        (
            FrontGains(1, (7,), 0.25, 0.75),
            "The front has gained #7 in the last trial (hypervolume 0.7500, was 0.2500).",
        ),
        (
            FrontGains(20, (3, 12), 0.5, 0.61234),
            "The front has gained #3, #12 in the last 20 trials (hypervolume 0.6123, was 0.5000).",
        ),
    ],
)
def test_the_words_name_the_points_and_the_area(gains: FrontGains, words: str) -> None:
    assert str(gains) == words
