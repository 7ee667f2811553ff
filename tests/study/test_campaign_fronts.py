"""Fronts of a campaign that mix two grounds, lose a student without a word, or keep one that is beaten."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from kdnas.store.campaigns import draft
from kdnas.study.campaign_fronts import ENDING, ROUNDS, of_ending, of_rounds
from kdnas.study.campaign_rows import CampaignRow, ScoreRow
from tests.campaigns import formulas


def row(
    scores: list[tuple[int, str, int, float, float | None]], table: list[dict[str, Any]] | None = None
) -> CampaignRow:
    told = tuple(
        ScoreRow(stage, member, trial, score, {"latency_ms": ms}, 0.0) for stage, member, trial, score, ms in scores
    )
    result = {} if table is None else {"rows": table}
    return replace(draft(formulas.spec(10), "/nowhere"), scores=told, result=result)


def line(kind: str, member: str, score: float | None, ms: float | None) -> dict[str, Any]:
    return {"kind": kind, "member": member, "score": score, "latency_ms": ms}


def test_a_beaten_student_stands_on_a_front() -> None:
    found = of_rounds(row([(0, "good", 0, 0.8, 4.0), (0, "good", 1, 0.9, 2.0), (1, "good", 2, 0.95, 6.0)]))
    assert found.members[0].points == ((2.0, 0.9), (6.0, 0.95))


def test_a_student_of_two_rounds_counts_twice_or_the_order_is_not_by_score() -> None:
    found = of_rounds(row([(0, "poor", 0, 0.6, 4.0), (0, "good", 0, 0.8, 4.0), (1, "good", 0, 0.8, 4.0)]))
    assert [(front.member, front.points) for front in found.members] == [
        ("good", ((4.0, 0.8),)),
        ("poor", ((4.0, 0.6),)),
    ]


def test_a_student_without_a_latency_is_dropped_silently() -> None:
    found = of_rounds(row([(0, "good", 0, 0.8, None), (0, "poor", 0, 0.6, 4.0)]))
    assert found.untimed == 1 and [front.member for front in found.members] == ["poor"]


def test_scores_of_rounds_and_of_the_table_are_in_one_picture() -> None:
    table = [line("student", "good", 0.7, 3.0), line("teacher", "good", 0.9, 10.0), line("student", "poor", None, None)]
    both = row([(0, "good", 0, 0.8, 4.0)], table)
    assert (of_rounds(both).of, of_rounds(both).members[0].points) == (ROUNDS, ((4.0, 0.8),))
    ended = of_ending(both)
    assert (ended.of, ended.members[0].points, ended.teachers) == (ENDING, ((3.0, 0.7),), ((10.0, 0.9),))
    assert len(ended.members) == 1


def test_a_campaign_without_a_table_has_an_ending() -> None:
    assert of_ending(row([(0, "good", 0, 0.8, 4.0)])).members == ()
