"""The end that a spec asks for, as the moment that it is for a study that begins now. Reads no clock."""

from __future__ import annotations

from kdnas.study.rows import StudyRow
from kdnas.study.spec import BudgetSpec, StudySpec
from kdnas.system import moments
from kdnas.system.errors import BadOptionError, UsageError


def moment_of(budget: BudgetSpec, now: float) -> float | None:
    """When a study begun now would end, UTC seconds; None where no time was asked for. Raises BadOptionError for a
    moment that has passed or is none."""
    if budget.hours is not None:
        return now + budget.hours * 3600
    if budget.until is None:
        return None
    try:
        return moments.moment(budget.until, now)
    except UsageError as error:
        raise BadOptionError("budget.until", error.problem, error.hint) from None


def resolved(spec: StudySpec, now: float) -> StudySpec:
    """The spec of a study that begins now: its end as one moment in UTC. Raises BadOptionError."""
    until = moment_of(spec.budget, now)
    if until is None:
        return spec
    budget = spec.budget.model_copy(update={"hours": None, "until": moments.utc_text(until)})
    return spec.model_copy(update={"budget": budget})


def without_time(spec: StudySpec) -> StudySpec:
    """The spec without an end."""
    return spec.model_copy(update={"budget": spec.budget.model_copy(update={"hours": None, "until": None})})


def require_use(row: StudyRow) -> None:
    """Raises UsageError where nothing is left that a study could use more time for."""
    if row.space_size is not None and row.done >= row.space_size:
        raise UsageError(
            f"Every candidate of {row.name} has been evaluated; more time brings nothing.",
            f"See it with: kdnas show {row.name}",
        )
