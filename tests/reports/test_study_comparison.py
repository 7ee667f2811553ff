"""Several studies beside each other: what is ranked together, what is refused, and in which settings they differ."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from kdnas.reports import study_comparison as comparison
from kdnas.store import changes, queries
from kdnas.store import tables as t
from kdnas.store.database import Store
from kdnas.system.errors import UsageError
from tests.rows import made_rows
from tests.study.test_comparable import FOUND
from tests.tui.filled import new_store, study


def found(store: Store, study_id: int, **changed: Any) -> None:
    """Another provenance of the study."""
    with store.begin() as connection:
        text = json.dumps({**FOUND, **changed})
        connection.execute(sa.update(t.study).where(t.study.c.study_id == study_id).values(provenance=text))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    _, opened = new_store(tmp_path)
    with opened:
        for name, seed, strategy in (("one", 0, "tpe"), ("two", 1, "random"), ("other", 2, "tpe")):
            found(opened, study(opened, name, rows=made_rows(30, seed), strategy=strategy))
        found(opened, queries.study_row(opened, "other").study_id, teacher_fingerprint="another")
        yield opened


def compared(store: Store, *names: str) -> comparison.Comparison:
    return comparison.compare(store, [queries.study_row(store, name).study_id for name in names])


def test_a_common_front_is_that_of_all_points_together(store: Store) -> None:
    both = compared(store, "one", "two")
    assert both.verdict.reward == ""
    points = [
        (loss, ms, common)
        for front in both.fronts()
        for loss, ms, common in zip(front.loss, front.latency_ms, front.common, strict=True)
    ]
    for loss, ms, common in points:
        beaten = any((a <= loss and b <= ms and (a, b) != (loss, ms)) for a, b, _ in points)
        assert bool(common) == (not beaten)
    assert 0 < sum(bool(common) for *_, common in points) < len(points)
    for front in both.fronts():
        assert (np.diff(front.latency_ms) >= 0).all()


def test_latencies_of_one_teacher_are_told_for_one_time_of_it(store: Store) -> None:
    """The second study's machine was busy when its teacher was timed first: all its milliseconds are twice as long."""
    study_id = queries.study_row(store, "two").study_id
    one, two = compared(store, "one", "two").fronts()
    with store.begin() as connection:
        twice = sa.update(t.study).where(t.study.c.study_id == study_id)
        connection.execute(twice.values(teacher_latency_ms=2 * t.study.c.teacher_latency_ms))
    both = compared(store, "one", "two")
    assert both.latencies() == pytest.approx((1.0, 0.5))
    assert both.reference_ms == both.rows[0].teacher_latency_ms
    for before, after in zip((one, two), both.fronts(), strict=True):
        assert after.number.tolist() == before.number.tolist()
        assert after.latency_ms == pytest.approx(before.latency_ms)
        assert after.common.tolist() == before.common.tolist()
    cells = {name: cells for name, cells, _ in comparison.figures(both)}["its latency ms"]
    assert [float(cell) for cell in cells] == pytest.approx(
        [s["best"]["latency_ms"] for s in comparison.values(both)["studies"]], rel=0.01
    )
    assert compared(store, "one", "other").reference_ms is None


def test_all_are_ranked_at_the_reward_of_the_first_and_histories_only_rise(store: Store) -> None:
    changes.set_reward(store, queries.study_row(store, "two").study_id, -0.5, 0.3)
    both = compared(store, "one", "two")
    assert {(board.alpha, board.beta) for board in both.boards} == {(-0.06, 0.6)}
    for board, (finished, best) in zip(both.boards, both.histories(), strict=True):
        assert (np.diff(finished) > 0).all()
        assert (np.diff(best) >= 0).all()
        assert finished[-1] == (board.standing.rank > 0).sum()
        assert best[-1] == board.standing.reward[board.standing.rank > 0].max()


def test_differences_come_first_and_everything_else_is_the_same(store: Store) -> None:
    changes.set_reward(store, queries.study_row(store, "two").study_id, -0.5, 0.6)
    both = compared(store, "one", "two")
    differing = dict(both.differing)
    assert differing["strategy.name"] == ("tpe", "random")
    assert differing["reward.alpha"] == (-0.06, -0.5)
    assert "name" not in differing
    shared = dict(both.shared)
    assert shared["teacher.model"] == "all-minilm-l6-v2"
    assert not set(shared) & set(differing)


def test_losses_of_different_teachers_are_in_no_history_no_front_and_no_ranking(store: Store) -> None:
    mixed = compared(store, "one", "other")
    assert "different versions of the teacher" in mixed.verdict.loss
    assert [len(best) for _, best in mixed.histories()] == [0, 0]
    assert not any(front.common.any() for front in mixed.fronts())
    better = {name: value for name, _, value in comparison.figures(mixed)}
    assert (better["best reward"], better["its loss"], better["its latency ms"]) == (0, 0, -1)
    assert "on the common front" not in better
    values = comparison.values(mixed)
    assert values["comparable"] == {"loss": False, "latency": True, "reward": False}
    assert values["why_not"]["loss"] == mixed.verdict.loss
    assert values["history_of"] is None


def test_where_only_latencies_differ_the_best_loss_is_the_history(store: Store) -> None:
    found(store, queries.study_row(store, "two").study_id, device="cuda: NVIDIA H100")
    both = compared(store, "one", "two")
    assert (both.verdict.loss, both.verdict.latency != "") == ("", True)
    assert comparison.values(both)["history_of"] == "loss"
    for board, (_, best) in zip(both.boards, both.histories(), strict=True):
        assert (np.diff(best) <= 0).all()
        assert best[-1] == board.column("loss")[board.standing.rank > 0].min()


def test_one_study_or_seven_are_no_comparison(store: Store) -> None:
    study_id = queries.study_row(store, "one").study_id
    with pytest.raises(UsageError, match="One study cannot be compared"):
        comparison.compare(store, [study_id, study_id])
    with pytest.raises(UsageError, match="7 studies"):
        comparison.compare(store, range(7))


def test_a_study_without_a_trial_stands_there_with_dashes(store: Store) -> None:
    found(store, study(store, "new", rows=0))
    cells = {name: cells for name, cells, _ in comparison.figures(compared(store, "one", "new"))}
    assert cells["best reward"][1] == "–"
    assert cells["on its front"][1] == "0"
