"""The `kdnas search` line of a study that exists, as short as it can be said. Reads the specs that ship, no store."""

from __future__ import annotations

from kdnas.study import spec_flags
from kdnas.study.rows import StudyRow
from kdnas.study.spec import StudySpec, from_store, from_values
from kdnas.study.spec_flags import overlay
from kdnas.study.spec_toml import read_values
from kdnas.study.time_budget import asked_again
from kdnas.system.paths import presets


def present_spec(row: StudyRow) -> StudySpec:
    """The spec that the study was begun with, at its present budget, α and β; its end as hours from its beginning.
    Raises UsageError for a damaged one."""
    now = {"reward.alpha": row.alpha, "reward.beta": row.beta}
    now |= {} if row.open else {"budget.trials": row.trials}
    spec = from_store(asked_again(row.spec, row.created))
    changed = {field: value for field, value in now.items() if spec_flags.flatten(spec)[field] != value}
    return from_values(overlay(spec.model_dump(mode="json"), changed.items())) if changed else spec


def study_command(row: StudyRow, storage: str | None = None) -> str:
    """What begins this very study where it is not there, and goes on with it where it is.

    From whichever shipped spec makes the line shortest, or from none. Raises UsageError for a damaged spec.
    """
    spec = present_spec(row)
    bases = [None, *((name, from_values({"name": name, **read_values(path)})) for name, path in presets().items())]
    return min((spec_flags.command(spec, storage, base) for base in bases), key=len)
