"""`--like` on the command line: who may not lend is refused before anything runs, and `show` says who did."""

from __future__ import annotations

from pathlib import Path

from kdnas.search.begin import begin
from kdnas.search.worker import run_worker
from tests import fakes
from tests.cli.conftest import Place, Quick


def test_show_says_who_lent_how_many_trials(quick: Quick, place: Place) -> None:
    for name, strategy, trials in (("films", "random", 8), ("speeches", "tpe", 2)):
        budget = {"trials": trials, "epochs": 1}
        begin(fakes.spec(name, data={"source": name}, strategy={"name": strategy}, budget=budget), place.store)
        run_worker(str(place.store), name, prepare=fakes.prepare, measure=fakes.measure)
    assert "warm start: 8 trials of films were lent\n" in quick("show", "speeches").out
    assert "warm start" not in quick("show", "films").out
    assert quick("show", "speeches", "--json").data["lent"] == [{"study": "films", "trials": 8}]


def test_a_study_that_cannot_lend_is_refused_before_anything_runs(quick: Quick, place: Place, shelf: Path) -> None:
    asked = ["--spec", str(place.spec), "--strategy", "auto", "--like", "films"]
    for command in ("plan", "search"):
        said = quick(command, *asked)
        assert said.code == 2
        assert "'films'" in said.err and "give auto or none" in said.err
        assert not place.store.exists()
    begin(fakes.spec("films", recipe={"name": "causal-divergence"}), place.store)
    said = quick("search", *asked)
    assert said.code == 2
    assert "its recipe is causal-divergence, and this one's hidden-state" in said.err
    said = quick("plan", "--spec", str(place.spec), "--like", "films")
    assert said.code == 2 and "the strategy random learns from no other study" in said.err
