"""`kdnas show` says what strategy `auto` takes and why, and what the next trials are expected to gain."""

from __future__ import annotations

import pytest

from kdnas.store import advising, queries
from kdnas.store.database import open_store
from tests.cli.conftest import Place, Quick
from tests.rows import made_rows
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


def test_where_nothing_left_is_likely_to_keep_the_constraints_it_is_said_with_the_chance(
    place: Place, quick: Quick
) -> None:
    """One trial keeps both bounds. The others show what each size costs, so that all that are left are known to miss
    one of them."""
    fastest = max(made_rows(60), key=lambda row: row.speedup or 0.0)
    assert fastest.speedup is not None and fastest.loss is not None
    with open_store(place.store, create=True) as store:
        bounds = {"min_speedup": round(0.999 * fastest.speedup, 6), "max_loss": round(1.001 * fastest.loss, 6)}
        values = {"constraints": bounds}
        study(store, "bound", strategy="auto", trials=80, rows=60, values=values)
    told = quick("show", "bound", "--json").data["advice"]
    assert 0 <= told["likeliest"] < 0.3 and told["done"] and told["trials"] == 20
    said = quick("show", "bound")
    assert told["words"].startswith("No candidate left is likely feasible (")
    assert told["words"] in said.err and "expected to gain" not in said.err


def test_the_advice_is_in_the_json_and_null_where_there_is_none(place: Place, quick: Quick) -> None:
    with open_store(place.store, create=True) as store:
        study(store, "many", strategy="auto", rows=30)
        study(store, "few", strategy="auto", rows=3)
    told = quick("show", "many", "--json").data["advice"]
    assert told["words"] in quick("show", "many").err and told["likeliest"] is None and told["gain"] > 0
    assert quick("show", "few", "--json").data["advice"] is None


def test_of_more_trials_than_a_model_takes_no_advice_is_made(
    place: Place, quick: Quick, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model of thousands of trials takes minutes and gigabytes, which nobody asks for who looks at a study."""
    with open_store(place.store, create=True) as store:
        study(store, "many", strategy="auto", rows=30)
        done = queries.study_row(store, "many").done
    monkeypatch.setattr(advising, "MOST", done - 1)
    said = quick("show", "many")
    assert said.code == 0 and "expected to gain" not in said.err + said.out
    assert quick("show", "many", "--json").data["advice"] is None
