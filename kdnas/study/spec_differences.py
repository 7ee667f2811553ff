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


ASKED = ("teacher.", "data.", "recipe.", "space.", "training.", "latency.", "budget.epochs", "budget.proxy_fraction")


def same_question(one: StudySpec, other: StudySpec) -> bool:
    """Whether two studies differ only in how they search: by another strategy, seed, budget of trials, α or β. They are
    repetitions then, which are begun to be compared."""
    first, second = flatten(one), flatten(other)
    return all(
        first.get(field) == second.get(field)
        for field in first.keys() | second.keys()
        if field.startswith(ASKED) or field == "reward.loss"
    )
