"""`kdnas compare`: a table with the differences, the reasons for what is not compared, and the same as JSON."""

from __future__ import annotations

import pytest

from kdnas.store.database import open_store
from kdnas.system.text import clean
from tests.cli.conftest import Place, Quick
from tests.reports.test_study_comparison import found
from tests.rows import made_rows
from tests.tui.filled import study


@pytest.fixture
def _three(place: Place) -> None:
    with open_store(place.store, create=True) as store:
        found(store, study(store, "one", rows=made_rows(30, 0)))
        found(store, study(store, "two", rows=made_rows(30, 1), strategy="random"))
        found(store, study(store, "other", rows=made_rows(20, 2)), teacher_fingerprint="u", device="cuda: \x1b[2J")


@pytest.mark.usefixtures("_three")
def test_a_table_with_the_better_of_each_line_and_what_differs(quick: Quick) -> None:
    said = quick("compare", "one", "two")
    assert said.code == 0, said.err
    lines = {line.split("  ")[0].strip(): line for line in said.out.splitlines()}
    assert lines["best reward"].count("▲") == 1
    assert "tpe" in lines["strategy.name"] and "random" in lines["strategy.name"]
    assert "teacher.model" not in lines
    assert "settings are the same." in said.out
    assert "not compared" not in said.out


@pytest.mark.usefixtures("_three")
def test_what_is_not_compared_is_said_and_never_ranked(quick: Quick) -> None:
    said = quick("compare", "one", "other")
    assert "Losses are not compared: one and other have different versions of the teacher" in said.out
    assert clean("Latencies are not compared: one and other were timed on different devices") in said.out
    ranked = [line for line in said.out.splitlines() if "▲" in line]
    assert [line.split("  ")[0] for line in ranked] == ["its parameters"]
    assert "\x1b" not in said.out


@pytest.mark.usefixtures("_three")
def test_json_holds_fronts_histories_and_reasons(quick: Quick) -> None:
    data = quick("compare", "one", "two", "--json").data
    assert data["comparable"] == {"loss": True, "latency": True, "reward": True}
    assert [one["name"] for one in data["studies"]] == ["one", "two"]
    assert all(one["front"] and one["history"] for one in data["studies"])
    assert data["differing"]["strategy.name"] == ["tpe", "random"]


@pytest.mark.usefixtures("_three")
def test_one_study_is_no_comparison_and_a_wrong_name_is_said(quick: Quick) -> None:
    assert "One study cannot be compared. Give two to 6 different ones." in quick("compare", "one").line
    assert "Did you mean 'two'?" in quick("compare", "one", "tow").line
