"""The final table of a campaign: the front over all members, the ranks under its constraints, the winner, in words.

Pure; takes rows as they were scored and timed, and adds what follows from them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from kdnas.study.campaign_rows import CampaignRow, MemberState
from kdnas.study.constraints import Limits, figures

STUDENT, TEACHER = "student", "teacher"


def with_front(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows, each with `front`: no other one has a score as high in as little time, and is better in one of both."""

    def beaten(row: Mapping[str, Any]) -> bool:
        return any(
            other["score"] >= row["score"]
            and other["latency_ms"] <= row["latency_ms"]
            and (other["score"], -other["latency_ms"]) != (row["score"], -row["latency_ms"])
            for other in rows
            if _whole(other)
        )

    return [{**row, "front": _whole(row) and not beaten(row)} for row in rows]


def ranked(rows: Sequence[Mapping[str, Any]], limits: Limits) -> list[dict[str, Any]]:
    """The rows in their order: students that keep the constraints by score, then by latency, with `rank` from 1; other
    students, with what they miss in `misses`; teachers."""
    told = []
    for row in rows:
        found = {"rank": None, "misses": "", **row}
        if row["kind"] == STUDENT and _whole(row):
            has = figures(
                latency_ms=row["latency_ms"],
                teacher_latency_ms=row["latency_ms"] * row["speedup"],
                parameters=row["parameters"],
                reference_ms=limits.reference_ms,
            )
            found["misses"] = limits.told(has)
        told.append(found)
    keep = [row for row in told if row["kind"] == STUDENT and _whole(row) and not row["misses"]]
    keep.sort(key=lambda row: (-row["score"], row["latency_ms"]))
    for rank, row in enumerate(keep, 1):
        row["rank"] = rank
    rest = [row for row in told if row["kind"] == STUDENT and row["rank"] is None]
    rest.sort(key=lambda row: -row["score"] if row["score"] is not None else math.inf)
    return [*keep, *rest, *(row for row in told if row["kind"] == TEACHER)]


def verdict(rows: Sequence[Mapping[str, Any]], limits: Limits, examples: int) -> str:
    """Who wins, and what the runner-up would give; where nobody keeps the constraints, what the best misses."""
    order = [row for row in rows if row.get("rank") is not None]
    if not order:
        near = [row for row in rows if row["kind"] == STUDENT and row.get("misses")]
        if not near:
            return "No student could be scored and timed."
        had = "; ".join(f"{row['member']} has {row['misses']}" for row in near)
        return f"No student keeps {limits or 'the constraints of its member'}. The best ones: {had}."
    first = order[0]
    under = f" under {limits}" if limits else ""
    said = f"{first['member']} wins{under}: {_told(first)}."
    if len(order) == 1:
        return said
    second = order[1]
    lost = first["score"] - second["score"]
    quick = first["latency_ms"] / second["latency_ms"]
    score = f"scores {100 * lost:.1f} points less" if lost >= 0.0005 else "scores the same"
    said += f" The runner-up {second['member']} {score} and {_speed(quick)}."
    if lost < 2 * error(first["score"], second["score"], examples):
        said += f" On {examples:,} rows a difference of that size may be chance."
    return said


def of_last_stage(row: CampaignRow) -> str:
    """Who failed in the last stage and who had what was left; empty where nobody did."""
    said = []
    for member in sorted(row.members, key=lambda member: member.stage):
        if member.state is not MemberState.FAILED or member.stage < row.rounds:
            continue
        heir = next((one.facts["going"][0] for one in row.decisions if one.stage == member.stage), None)
        beside = any(m.stage == member.stage and m.state is MemberState.SEARCHED for m in row.members)
        left = "nobody was left to take its place" if heir is None else f"{heir} had what was left"
        said.append(f"{member.name} failed in the last stage" + ("." if beside else f", and {left}."))
    return " ".join(said)


def error(one: float, other: float, examples: int) -> float:
    """Standard error of the difference of two shares of so many rows each, as if they were scored on different ones:
    an upper bound where both err on the same rows."""
    return math.sqrt((one * (1 - one) + other * (1 - other)) / max(1, examples))


def _speed(times: float) -> str:
    if abs(times - 1) < 0.005:
        return "is as fast"
    return f"is {times:.2f} times as fast" if times > 1 else f"takes {1 / times:.2f} times as long"


def _told(row: Mapping[str, Any]) -> str:
    return f"{row['score']:.4f} on the task, {row['latency_ms']:.3g} ms ({row['speedup']:.2f} ×)"


def _whole(row: Mapping[str, Any]) -> bool:
    return row.get("score") is not None and row.get("latency_ms") is not None
