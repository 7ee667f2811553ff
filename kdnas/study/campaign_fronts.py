"""The students of a campaign that were scored on its task, for one picture: task score against latency, by member.

While the campaign runs these are the scores of the rounds, on the held-out part after the short distillation. In the
end they are those of the final table, on the test part; the two are never in one picture. Reads no store.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from kdnas.study.campaign_rows import CampaignRow
from kdnas.study.campaign_table import STUDENT, TEACHER

ROUNDS, ENDING = "held-out score", "test score"


@dataclass(frozen=True)
class Front:
    """Points (ms, score) of one member, the fastest first: none of them has one beside it that is as fast and as
    good."""

    member: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Fronts:
    """Of all members that have a scored student, the best one first. `of` says which scores these are."""

    of: str
    members: tuple[Front, ...]
    teachers: tuple[tuple[float, float], ...] = ()
    untimed: int = 0  # scored students without a latency, which have no place in the picture


def of_rounds(row: CampaignRow) -> Fronts:
    """The scores of the rounds; a student that was scored in several counts once."""
    found: dict[tuple[str, int], tuple[float | None, float]] = {}
    for one in row.scores:
        found[one.member, one.trial] = one.facts.get("latency_ms"), one.score
    return _fronts(ROUNDS, ((member, *point) for (member, _), point in found.items()))


def of_ending(row: CampaignRow) -> Fronts:
    """The final table; nothing where there is none."""
    rows = [one for one in row.result.get("rows", ()) if one["score"] is not None]
    students = ((str(one["member"]), one["latency_ms"], one["score"]) for one in rows if one["kind"] == STUDENT)
    timed = [one for one in rows if one["kind"] == TEACHER and one["latency_ms"] is not None]
    teachers = tuple(sorted((float(one["latency_ms"]), float(one["score"])) for one in timed))
    return _fronts(ENDING, students, teachers)


def _fronts(
    of: str, scored: Iterable[tuple[str, float | None, float]], teachers: tuple[tuple[float, float], ...] = ()
) -> Fronts:
    points: dict[str, list[tuple[float, float]]] = {}
    untimed = 0
    for member, latency_ms, score in scored:
        if latency_ms is None:
            untimed += 1
        else:
            points.setdefault(member, []).append((float(latency_ms), float(score)))
    members = [Front(name, _front(those)) for name, those in points.items()]
    members.sort(key=lambda front: -front.points[-1][1])
    return Fronts(of, tuple(members), teachers, untimed)


def _front(points: Iterable[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    """The points that no other one beats in both, from the fastest to the best."""
    kept: list[tuple[float, float]] = []
    for point in sorted(points, key=lambda one: (one[0], -one[1])):
        if not kept or point[1] > kept[-1][1]:
            kept.append(point)
    return tuple(kept)
