"""Lists of rows through the columns and back: the rows themselves, and a ranking that filters as it stands."""

from __future__ import annotations

from kdnas.study.filter import parse
from kdnas.study.ranked_rows import _standing, passing, rank
from tests.rows import made_row, made_rows


def test_the_rows_of_a_ranking_are_those_that_were_given() -> None:
    rows = made_rows(30)
    assert all(scored.row is rows[scored.number] for scored in rank(rows, -0.06, 0.6))


def test_a_filter_compares_the_loss_that_the_ranking_saw() -> None:
    rows = [made_row(0, loss=0.1, raw_loss=0.3), made_row(1, loss=0.3, raw_loss=0.1)]
    for kind, number in (("normalised", 0), ("raw", 1)):
        ranked = rank(rows, -0.06, 0.6, kind)  # type: ignore[arg-type]
        assert [scored.number for scored in passing(parse("loss<0.2"), ranked)] == [number]


def test_a_ranking_in_any_order_stands_as_it_was_ranked() -> None:
    ranked = rank(made_rows(40), -0.06, 0.6)
    for scored in (ranked, ranked[::-1], ranked[7:]):
        found = _standing(scored)
        assert found.rank.tolist() == [one.rank or 0 for one in scored]
        assert found.tie.tolist() == [one.tie for one in scored] and found.front.tolist() == [s.front for s in scored]
        ranks = [scored[place].rank or 0 for place in found.order.tolist()]
        assert ranks == sorted(one.rank for one in scored if one.rank)
