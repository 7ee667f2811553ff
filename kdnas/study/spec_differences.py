"""A spec as a flat list of settings, and in which of them two specs differ. Reads and writes no file."""

from __future__ import annotations

from typing import Any

from kdnas.study.spec import StudySpec
from kdnas.study.spec_constraints import ConstraintsSpec


def flatten(spec: StudySpec) -> dict[str, Any]:
    """`{"reward.alpha": −0.06, …}`"""
    flat: dict[str, Any] = {}

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, dict) and prefix not in ("space.choices", "space.variants"):
            for key, inner in value.items():
                walk(f"{prefix}.{key}" if prefix else key, inner)
        else:
            flat[prefix] = value

    walk("", spec.model_dump(mode="json"))
    return flat


CHANGEABLE = frozenset(
    {"budget.trials", "budget.hours", "budget.until", "reward.alpha", "reward.beta", "device"}
    | {f"constraints.{name}" for name in ConstraintsSpec.model_fields}
)


def differences(stored: StudySpec, wanted: StudySpec) -> dict[str, tuple[Any, Any]]:
    """Fields in which two specs differ and that a begun study may not change: field → (stored, wanted)."""
    old, new = flatten(stored), flatten(wanted)
    return {
        field: (old.get(field), new.get(field))
        for field in sorted(old.keys() | new.keys())
        if field not in CHANGEABLE and old.get(field) != new.get(field)
    }


OF_A_TRIAL = ("teacher.", "data.", "recipe.", "space.", "training.", "latency.")
BUDGET_OF_A_TRIAL = ("budget.epochs", "budget.proxy_fraction", "budget.short_text")
NOT_OF_A_TRIAL = frozenset({"latency.when"})  # the same is timed, by whoever it is


def of_a_trial(spec: StudySpec, *further: str) -> dict[str, Any]:
    """The settings that decide what a single trial trains, scores and times, and `further` ones."""
    named = {*BUDGET_OF_A_TRIAL, *further}
    own = {field: value for field, value in flatten(spec).items() if field.startswith(OF_A_TRIAL) or field in named}
    return {field: value for field, value in own.items() if field not in NOT_OF_A_TRIAL}


def same_question(one: StudySpec, other: StudySpec) -> bool:
    """Whether two studies differ only in how they search: by another strategy, seed, budget of trials, α or β. They are
    repetitions then, which are begun to be compared."""
    return of_a_trial(one, "reward.loss") == of_a_trial(other, "reward.loss")
