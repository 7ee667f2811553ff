"""Wall time as a budget: the rule for one more trial, and how a spec, a command and a stored study say it."""

from __future__ import annotations

import math
import shlex
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdnas.cli.search import plan
from kdnas.cli.spec_options import given_fields, spec_from
from kdnas.study.spec import StudySpec, from_values
from kdnas.study.spec_differences import differences
from kdnas.study.spec_end import moment_of, resolved, without_time
from kdnas.study.spec_flags import assigned, command, overlay
from kdnas.study.spec_strategies import GP_TRIALS
from kdnas.study.spec_toml import read_toml, to_toml
from kdnas.study.time_budget import (
    MOST_TRIALS,
    Cost,
    End,
    asked_again,
    end_of,
    end_words,
    expected_s,
    fits,
    in_time,
    least_s,
    trials_in,
)
from kdnas.system.errors import BadOptionError, UsageError

NOW = 1_790_000_000.0


def budget(**values: Any) -> StudySpec:
    return from_values({"name": "tonight", "budget": values})


# ---------------------------------------------------------------------------- the rule


def test_a_trial_fits_where_it_is_expected_to_end_in_time() -> None:
    assert fits(60, 60) and fits(60, 59.9) and not fits(60, 60.1)
    assert fits(0.1, None) and not fits(0, None) and not fits(-5, 1)


def test_what_is_expected_comes_from_the_group_then_from_all_then_from_the_plan() -> None:
    costs = [Cost(10, "1"), Cost(12, "1"), Cost(14, "1"), Cost(60, "8"), Cost(54, "8")]
    assert expected_s(costs, "1", 99) == 12
    assert expected_s(costs, "8", 99) == expected_s(costs, "4", 99) == 30  # two are too few
    assert expected_s([], "1", 99) == 99 and expected_s([], "1", None) is None
    assert least_s(costs, 1) == 12 and least_s(costs[3:], 1) == 57 and least_s([], 5) == 5 and least_s([], None) is None


def test_a_sleep_and_a_clock_that_was_set_are_no_costs() -> None:
    costs = [Cost(10)] * 5
    wild = [*costs, Cost(36_000), Cost(-3600), Cost(0)]
    assert expected_s(wild, "", None) == expected_s(costs, "", None) == 10
    assert expected_s([Cost(-3600)], "", 7) == 7


def test_trials_by_the_end_are_those_that_run_and_those_that_fit() -> None:
    assert trials_in(100, 10) == 10 and trials_in(99, 10) == 9 and trials_in(0, 10) == 0 == trials_in(-5, 10)
    assert trials_in(100, 10, workers=3) == 30
    assert trials_in(100, 10, workers=1, begun=[4]) == 1 + 9
    assert trials_in(100, 10, workers=2, begun=[40]) == 1 + 10 + 10  # it is overdue
    assert trials_in(-5, 10, workers=2, begun=[1, 2]) == 2


@given(st.floats(-1e4, 1e6), st.floats(0.1, 1e4), st.integers(1, 64), st.lists(st.floats(0, 1e4), max_size=8))
def test_no_more_trials_are_expected_than_workers_have_time_for(
    left: float, each: float, workers: int, begun: list[float]
) -> None:
    found = trials_in(left, each, workers, begun)
    assert len(begun) <= found <= len(begun) + workers * math.floor(max(0.0, left) / each + 1e-6)


def test_the_time_left_is_that_of_whatever_ends_the_study_first() -> None:
    assert in_time(None, End(NOW + 60, True), NOW) == (60, 60)
    assert in_time((10, 90), End(NOW + 60, False), NOW) == (10, 60)
    assert in_time(None, End(NOW + 60, False), NOW) is None
    assert in_time(None, End(NOW - 5, True), NOW) == (0, 0)


# ---------------------------------------------------------------------------- the spec


def test_time_alone_leaves_the_number_of_trials_open_and_both_limit() -> None:
    alone, both = budget(hours=8).budget, budget(until="07:30", trials=40).budget
    assert (alone.open, alone.trials, both.open, both.trials) == (True, MOST_TRIALS, False, 40)
    plain = budget().budget
    assert (plain.timed, plain.open, plain.trials) == (False, False, 100)
    assert not budget(trials=MOST_TRIALS).budget.open
    lstm = from_values({"strategy": {"name": "lstm"}, "budget": {"hours": 2}}).budget
    episodes = from_values({"strategy": {"name": "lstm", "episodes": 3}, "budget": {"hours": 2}}).budget
    assert lstm.open and not episodes.open and episodes.trials == 15


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"hours": 0}, "budget.hours = 0 is out of range. Give a number of more than 0 and at most 8760"),
        ({"hours": -1}, "budget.hours = -1 is out of range."),
        ({"hours": math.nan}, "budget.hours = nan is out of range."),
        ({"hours": 1e9}, "budget.hours = 1000000000.0 is out of range."),
        ({"hours": "eight"}, "budget.hours = 'eight' is no number."),
        ({"until": "25:00"}, "budget.until = '25:00': it has no time of day; times go from 00:00 to 23:59."),
        ({"until": "yesterday"}, "budget.until = 'yesterday': it is no moment; give a time such as 07:30"),
        ({"until": 730}, "Put it in quotes"),
        ({"hours": 8, "until": "07:30"}, "hours and until both say when the search ends; give one of them."),
    ],
)
def test_a_time_that_is_none_is_refused_in_one_line(values: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as refused:
        budget(**values)
    assert said in str(refused.value) and "\n" not in str(refused.value)


def test_gp_is_refused_a_number_of_trials_that_is_open() -> None:
    with pytest.raises(
        UsageError, match=f"a time alone sets no such limit; give budget.trials, too, at most {GP_TRIALS}"
    ):
        from_values({"strategy": {"name": "gp"}, "budget": {"hours": 8}})
    assert from_values({"strategy": {"name": "gp"}, "budget": {"hours": 8, "trials": 50}}).budget.trials == 50


@pytest.mark.parametrize("pruner", ["median", "asha", "hyperband"])
def test_pruners_need_no_number_of_trials(pruner: str) -> None:
    assert from_values({"budget": {"hours": 8, "pruner": pruner}, "strategy": {"name": "tpe"}}).budget.open


def test_a_spec_file_may_write_a_time_of_toml(tmp_path: Any) -> None:
    file = tmp_path / "spec.toml"
    file.write_text('name = "tonight"\n[budget]\nuntil = 07:30:00\n')
    assert read_toml(file).budget.until == "07:30:00"
    file.write_text('name = "tonight"\n[budget]\nuntil = 2027-03-01T07:30:00+01:00\n')
    spec = read_toml(file)
    assert moment_of(spec.budget, 1_803_000_000.0) == 1_803_882_600.0
    file.write_text(to_toml(spec))
    assert read_toml(file) == spec


def test_specs_of_before_compare_equal_and_the_time_may_change() -> None:
    stored = budget().model_dump(mode="json")
    del stored["budget"]["hours"], stored["budget"]["until"]
    assert from_values(stored) == budget() and not differences(from_values(stored), budget(hours=3))


# ---------------------------------------------------------------------------- the moment


def test_hours_begin_with_the_study_and_are_stored_as_one_moment() -> None:
    spec = resolved(budget(hours=8), NOW)
    assert (spec.budget.hours, spec.budget.until) == (None, "2026-09-21T22:13:20Z") and spec.budget.open
    values = spec.model_dump(mode="json")
    assert end_of(values) == End(NOW + 8 * 3600, True) and from_values(values) == spec
    assert resolved(budget(), NOW) == budget() and end_of(budget().model_dump()) is None
    assert end_of({"budget": {"until": "nonsense"}}) is None is end_of({"unreadable": True})
    with pytest.raises(BadOptionError, match="2020-01-01 07:30 has passed") as refused:
        resolved(budget(until="2020-01-01 07:30"), NOW)
    assert refused.value.field == "budget.until"


def test_a_study_is_asked_for_again_by_its_hours() -> None:
    spec = resolved(budget(hours=1.5), NOW)
    again = from_values(asked_again(spec.model_dump(mode="json"), NOW))
    assert again == budget(hours=1.5) and not without_time(again).budget.timed


def test_the_end_is_told_in_words() -> None:
    assert end_words(End(NOW + 7200, True), 12, NOW).endswith("(2h00)")
    assert end_words(End(NOW + 7200, False), 1200, NOW).endswith("(2h00, or until 1,200 trials are done)")


# ---------------------------------------------------------------------------- the command


@pytest.mark.parametrize(
    "values",
    [
        {"hours": 8.0},
        {"until": "07:30"},
        {"until": "2027-03-01 07:30", "trials": 40},
        {"hours": 0.5, "trials": 100},
    ],
)
@pytest.mark.parametrize("strategy", [{"name": "auto"}, {"name": "lstm"}, {"name": "lstm", "episodes": 4}])
def test_the_command_begins_the_same_study(values: dict[str, Any], strategy: dict[str, Any]) -> None:
    spec = from_values({"name": "tonight", "budget": values, "strategy": strategy})
    preset = from_values({"name": "base", "budget": {"trials": 12, "hours": 3}})
    for line in (command(spec), command(spec, None, ("base", preset))):
        words = shlex.split(line)
        base = preset.model_dump(mode="json") if "--preset" in words else {}
        assert spec_from({**base, "name": "tonight"}, _fields(words)) == spec, line


def _fields(words: list[str]) -> dict[str, Any]:
    """As `kdnas plan` reads them."""
    flags = plan.make_context("plan", words[2:]).params
    others = ("study", "spec_file", "preset", "storage", "as_json")
    return given_fields({name: value for name, value in flags.items() if name not in others})


def test_one_way_to_say_the_end_takes_the_place_of_the_other() -> None:
    base = budget(hours=8).model_dump(mode="json")
    assert from_values(overlay(base, [("budget.until", "07:30")])).budget.hours is None
    base = resolved(budget(hours=8), NOW).model_dump(mode="json")
    assert from_values(overlay(base, [("budget.hours", 2)])).budget.until is None
    with pytest.raises(UsageError, match="give one of them"):
        from_values(overlay({}, [("budget.hours", 2), ("budget.until", "07:30")]))
    taken_away = overlay(budget(hours=8, trials=5).model_dump(mode="json"), [assigned("budget.hours=")])
    assert not from_values(taken_away).budget.timed
