"""`kdnas show` says what strategy `auto` takes and why, and what the next trials are expected to gain."""

from __future__ import annotations

import pytest

from kdnas.store import queries
from kdnas.store.database import open_store
from tests.cli.conftest import Place, Quick
from tests.tui.filled import study


@pytest.mark.parametrize(("strategy", "told"), [("auto", True), ("tpe", False)])
def test_what_auto_takes_is_said_once_and_of_no_other(place: Place, quick: Quick, strategy: str, told: bool) -> None:
    with open_store(place.store, create=True) as store:
        study(store, "minilm", strategy=strategy, rows=30)
    said = quick("show", "minilm")
    assert said.code == 0, said.err
    assert said.out.count("Strategy auto takes surrogate: the reward is nearly a sum of effects") == told
    assert (said.out + said.err).count("expected to gain") == 1


def test_the_advice_is_over_the_best_that_keeps_the_constraints(place: Place, quick: Quick) -> None:
    with open_store(place.store, create=True) as store:
        study(store, "bound", strategy="auto", rows=30, values={"constraints": {"min_speedup": 6.0}})
        best = queries.study_row(store, "bound").best_reward
    said = quick("show", "bound")
    assert said.code == 0 and "constraints: min_speedup 6" in said.out
    assert f"(best {best:.4f})" in said.out + said.err
