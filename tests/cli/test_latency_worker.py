"""A study whose latencies are measured after: `show` hides what waits, and a latency worker is begun for nothing."""

from __future__ import annotations

import pytest

from kdnas.search.begin import begin
from kdnas.store import slots, waiting
from kdnas.store.database import open_store
from kdnas.store.studies import enter
from kdnas.system import liveness
from tests import fakes
from tests.cli.conftest import Place, Quick


@pytest.fixture
def waits(place: Place) -> Place:
    """Of four trials two have a score, and one of these is being timed."""
    begin(fakes.spec(budget={"trials": 4}, latency={"when": "after"}), place.store)
    with open_store(place.store) as store:
        hold = liveness.Hold()
        worker = enter(store, 1, lock=str(hold.path), device=None, task="search")
        for number in range(2):
            claimed = slots.claim(store, 1, worker)
            assert isinstance(claimed, slots.Claim)
            candidate = fakes.SPACE.from_ordinal(number)
            slots.propose(
                store, 1, claimed.slot, worker, number, candidate, fakes.SPACE.key(candidate),
                config={}, origin="strategy", predicted=None, seed=0, epochs=2,
            )  # fmt: skip
            figures = {"loss": 0.25, "raw_loss": 0.5, "parameters": 10, "memory_mib": 1.0, "extra": "{}", "epoch": 2}
            waiting.scored(store, 1, claimed.slot, worker, number, **figures)
        assert waiting.claim(store, 1, worker)
        hold.release(known=False)
    return place


def test_show_calls_a_trial_that_waits_for_its_latency_running_or_done(waits: Place, quick: Quick) -> None:
    said = quick("show", "fake").out
    assert "0 of 4 trials, 2 waiting for latency" in said
    rows = [line.split() for line in said.splitlines() if "0.2500" in line]
    assert [row[-1] for row in rows] == ["timing", "latency"] or [row[-1] for row in rows] == ["latency", "timing"]
    told = quick("show", "fake", "--json").data
    assert {(one["state"], one["phase"], one["rank"], one["reward"]) for one in told["trials"]} == {
        ("waiting", "timing", None, None),
        ("waiting", "waiting for latency", None, None),
    }
    assert quick("show", "fake", "--filter", "state=waiting phase=timing").out.count("0.2500") == 1


def test_a_latency_worker_is_begun_where_none_is_asked_for_or_as_several(waits: Place, quick: Quick) -> None:
    for more in (["--workers", "2"], ["--until-done"]):
        assert "A latency worker is one process." in quick("worker", "fake", "--latency", *more).line
    begin(fakes.spec("plain"), waits.store)
    said = quick("worker", "plain", "--latency")
    assert said.code == 2 and "plain has each latency measured by the worker that trains" in said.line
    assert "--set latency.when=after" in said.line
