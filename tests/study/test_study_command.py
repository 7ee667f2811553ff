"""The command of a study that exists: read back it is the study as it is now, and the nearest preset shortens it."""

from __future__ import annotations

import shlex
from typing import Any

import pytest

from kdnas.study.rows import StudyRow
from kdnas.study.spec import StudySpec, from_values
from kdnas.study.spec_flags import overlay
from kdnas.study.spec_toml import read_values
from kdnas.study.study_command import present_spec, study_command
from kdnas.system.errors import UsageError
from kdnas.system.paths import presets
from tests.study.test_export import study
from tests.study.test_spec_flags import SPECS, read_back


def row_of(spec: StudySpec, **changes: Any) -> StudyRow:
    now = {"alpha": spec.reward.alpha, "beta": spec.reward.beta, "trials": spec.budget.trials}
    return study(**{"name": spec.name, "spec": spec.model_dump(mode="json"), **now, **changes})


@pytest.mark.parametrize("base", ["", *presets()])
def test_it_reads_back_as_the_study_at_its_present_budget_and_reward(base: str) -> None:
    values = dict(read_values(presets()[base])) if base else {}
    spec = from_values({**values, "name": "mine"})
    row = row_of(spec, alpha=-0.2, beta=0.4, trials=spec.budget.trials + 7)
    line = study_command(row)
    assert read_back(line) == present_spec(row), line
    assert (present_spec(row).reward.alpha, present_spec(row).budget.trials) == (-0.2, spec.budget.trials + 7)
    assert (f"--preset {base}" in line) == bool(base)
    assert shlex.split(study_command(row, "a b.db"))[-2:] == ["--storage", "a b.db"]


@pytest.mark.parametrize("values", SPECS, ids=lambda v: str(v)[:60])
def test_it_is_the_study_whatever_the_spec(values: dict[str, Any]) -> None:
    spec = from_values(overlay(values, [("name", "mine")]))
    line = study_command(row_of(spec))
    assert read_back(line) == spec, line


def test_a_study_just_as_a_preset_is_one_word_more_than_its_name() -> None:
    spec = from_values({**read_values(presets()["quickstart"]), "name": "mine"})
    assert study_command(row_of(spec)) == "kdnas search mine --preset quickstart"


def test_a_damaged_spec_has_no_command() -> None:
    with pytest.raises(UsageError):
        study_command(study(spec={"name": "s", "unreadable": True}))
