"""--hours and --until on the command line: what is planned, what is refused before anything begins, and going on."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from kdnas.cli.spec_options import base_values, spec_from
from kdnas.search.begin import begin
from kdnas.search.worker import run_worker
from kdnas.store import ends, queries
from kdnas.store import tables as t
from kdnas.store.database import open_reader, open_store
from kdnas.study.rows import StudyRow
from kdnas.study.space import Candidate
from kdnas.study.spec import StudySpec
from kdnas.system import moments
from tests import fakes
from tests.cli.conftest import Place, Quick

TRIALS = 4
OPEN = ("--set", "budget.trials=")  # the spec of these tests has a number of trials


@pytest.fixture(scope="session")
def timed_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a study, `over`, that ended by its time; made once, copied for each test."""
    folder = tmp_path_factory.mktemp("timed")
    store = folder / "studies.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDNAS_STATE", str(folder / "state"))
        begin(fakes.spec("over", budget={"trials": None, "epochs": 1, "hours": 1}), store)
        begun: list[Candidate] = []

        def trouble(candidate: Candidate) -> None:
            begun.append(candidate)
            if len(begun) == TRIALS:
                with open_store(store) as other:
                    ends.set_end(other, 1, time.time())

        def prepare(spec: StudySpec, *_: Any) -> fakes.FakeBench:
            return fakes.FakeBench(spec, trouble)

        assert run_worker(str(store), "over", prepare=prepare, measure=fakes.measure) == 0
    return store


def half_a_minute_each(store: Path) -> None:
    """All its trials took that long."""
    with open_store(store) as opened, opened.begin() as connection:
        connection.execute(sa.update(t.trial).values(started=t.trial.c.ended - 30.0))


def over(place: Place) -> StudyRow:
    with open_reader(place.store) as store:
        return queries.study_row(store, "over")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--hours", "0"), "budget.hours = '0' is out of range. Give a number of more than 0"),
        (("--hours", "-1"), "budget.hours = '-1' is out of range."),
        (("--hours", "nan"), "budget.hours = 'nan' is out of range."),
        (("--hours", "1e9"), "budget.hours = '1e9' is out of range."),
        (("--hours", "8h"), "budget.hours = '8h' is no number."),
        (("--until", "25:00"), "budget.until = '25:00': it has no time of day; times go from 00:00 to 23:59."),
        (("--until", "yesterday"), "budget.until = 'yesterday': it is no moment; give a time such as 07:30"),
        (("--until", "07:30", "--hours", "8"), "hours and until both say when the search ends; give one of them."),
        (("--until", "2020-01-01 07:30"), "2020-01-01 07:30 has passed. Give a moment that is still to come."),
        (("--hours", "0.0001"), "No trial fits into the time until"),
        (("--hours", "8", "--strategy", "gp"), "a time alone sets no such limit; give budget.trials, too"),
    ],
)
@pytest.mark.parametrize("command", ["plan", "search"])
def test_a_time_that_cannot_be_is_refused_and_nothing_begins(
    quick: Quick, place: Place, shelf: Path, command: str, given: tuple[str, ...], said: str
) -> None:
    found = quick(command, "--spec", str(place.spec), *OPEN, *given)
    assert found.code == 2 and said in found.line
    assert not place.store.exists()


def test_a_plan_expects_as_many_trials_as_the_time_gives(quick: Quick, place: Place, shelf: Path) -> None:
    made = quick("plan", "--spec", str(place.spec), *OPEN, "--hours", "1", "--json").data
    each = made["seconds_per_trial"]
    assert made["trials"] == min(made["space_size"], int(3600 / each)) and made["ends"].endswith("(1h00)")
    assert made["seconds"] <= 3600 and "--hours 1.0" in made["command"]
    assert any("Epochs, proxy share and rungs stay as the spec has them" in note for note in made["notes"])
    said = quick("plan", "--spec", str(place.spec), *OPEN, "--hours", "1").out
    assert f"about {made['trials']:,} trials" in said and "\nend       until " in said
    both = quick("plan", "--spec", str(place.spec), "--trials", "2", "--hours", "1", "--json").data
    assert both["trials"] == 2 and "or until 2 trials are done" in both["ends"]


def test_a_plan_reckons_by_what_trials_that_do_the_same_took(quick: Quick, place: Place, shelf: Path) -> None:
    spec = spec_from(base_values("done", place.spec, None), {"budget.trials": 3, "device": "cpu"})
    begin(spec, place.store)
    assert run_worker(str(place.store), "done", prepare=fakes.prepare, measure=fakes.measure) == 0
    half_a_minute_each(place.store)
    like = ("plan", "other", "--spec", str(place.spec), "--device", "cpu", *OPEN, "--hours", "1", "--json")
    made = quick(*like).data
    assert made["seconds_per_trial"] == pytest.approx(30) and made["trials"] == min(120, made["space_size"])
    assert "A trial is reckoned at 30s, the mean of the study done." in made["notes"]
    unlike = quick(*like, "--epochs", str(spec.budget.epochs + 1)).data
    assert unlike["seconds_per_trial"] != pytest.approx(30)
    short = quick(*like[:-3], "--hours", "0.005")
    assert short.code == 2 and "one takes about 30s, and 18s are left." in short.line


def test_a_study_whose_time_is_over_says_so_and_how_it_goes_on(quick: Quick, place: Place, timed_store: Path) -> None:
    shutil.copy(timed_store, place.store)
    shown = quick("show", "over").out
    assert "finished" in shown and "Its time ends at " in shown and f"{TRIALS} trials" in shown
    for words in (("resume", "over"), ("search", "over", "--trials", "500")):
        found = quick(*words)
        assert found.code == 2 and "The time of over was over at " in found.line
        assert "Give it more: kdnas search over --hours 2" in found.line
    with open_store(place.store) as store, store.begin() as connection:  # it ended early: no trial fitted any more
        spec = json.loads(connection.execute(sa.select(t.study.c.spec)).scalar_one())
        spec["budget"]["until"] = moments.utc_text(time.time() + 600)
        connection.execute(sa.update(t.study).values(spec=json.dumps(spec)))
    found = quick("resume", "over")
    assert (
        found.code == 2
        and "over has finished its 4 trials. Raise the budget: kdnas search over --hours 2" in found.line
    )
    again = quick("search", "over")
    assert again.code == 0 and "Go on with: kdnas search over --hours 2" in again.err
    command = quick("show", "over", "--as", "command").out
    assert " --hours 0.1" in command and "--trials" not in command and "--until" not in command


def test_an_end_is_not_taken_away(quick: Quick, place: Place, timed_store: Path) -> None:
    shutil.copy(timed_store, place.store)
    found = quick("search", "over", "--set", "budget.until=", "--trials", "9")
    assert found.code == 2 and "The end of over cannot be taken away. Give a later one" in found.line


def test_an_exported_study_is_imported_without_its_end_and_says_so(
    quick: Quick, place: Place, timed_store: Path
) -> None:
    shutil.copy(timed_store, place.store)
    assert quick("export", "over", "--output", "over.json").code == 0
    found = quick("import", "over.json", "--name", "again")
    assert found.code == 0 and "The time of over is left behind; give --hours or --until" in found.err
    with open_reader(place.store) as store:
        row = queries.study_row(store, "again")
    assert (row.end, row.trials, row.open) == (None, over(place).done, False)
