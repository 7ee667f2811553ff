"""A campaign's table that names the wrong winner, or a front with a beaten model on it."""

from __future__ import annotations

from typing import Any

from kdnas.study.campaign_table import ranked, verdict, with_front
from kdnas.study.constraints import limits_of


def row(member: str, score: float | None, ms: float | None, kind: str = "student", **more: Any) -> dict[str, Any]:
    speedup = None if ms is None else 10 / ms
    own = {"name": member, "member": member, "kind": kind, "score": score, "latency_ms": ms, "speedup": speedup}
    return {**own, "parameters": 1000, **more}


ROWS = [
    row("slow", 0.90, 8.0),
    row("fast", 0.85, 2.0),
    row("beaten", 0.84, 3.0),
    row("twin", 0.85, 2.0),
    row("lost", None, None),
    row("t", 0.95, 10.0, "teacher"),
]


def test_a_beaten_model_stands_on_the_front() -> None:
    front = {one["name"]: one["front"] for one in with_front(ROWS)}
    assert front == {"slow": True, "fast": True, "beaten": False, "twin": True, "lost": False, "t": True}


def test_the_winner_misses_a_constraint_or_a_teacher_wins() -> None:
    free = limits_of({}, 10.0)
    order = ranked(ROWS, free)
    assert [(one["name"], one["rank"]) for one in order] == [
        ("slow", 1), ("fast", 2), ("twin", 3), ("beaten", 4), ("lost", None), ("t", None)
    ]  # fmt: skip
    said = verdict(order, free, 10_000)
    assert said.startswith("slow wins: 0.9000 on the task, 8 ms (1.25 ×). The runner-up fast scores 5.0 points less")
    assert "4.00 times as fast" in said and "chance" not in said and "chance" in verdict(order, free, 100)
    tight = limits_of({"max_latency_ms": 5.0}, 10.0)
    bound = ranked(ROWS, tight)
    assert [one["name"] for one in bound[:3]] == ["fast", "twin", "beaten"] and bound[3][
        "misses"
    ] == "8 ms for at most 5"
    none = limits_of({"max_latency_ms": 1.0}, 10.0)
    nobody = ranked(ROWS, none)
    said = verdict(nobody, none, 100)
    assert said.startswith(
        "No student keeps max_latency_ms 1. The best ones: slow has 8 ms for at most 1; fast has 2 ms"
    )
    assert all(f"{name} has" in said for name in ("slow", "fast", "twin", "beaten")) and "; t has" not in said


def test_students_of_equal_speed_are_told_as_one_times_as_fast() -> None:
    rows = [row("one", 0.85, 2.0), row("twin", 0.85, 2.004)]
    said = verdict(ranked(rows, limits_of({}, 10.0)), limits_of({}, 10.0), 10_000)
    assert "The runner-up twin scores the same and is as fast." in said, said
