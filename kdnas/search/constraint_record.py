"""What is written of a finished trial's constraints: for Optuna's tools, for the log, and where no trial keeps them."""

from __future__ import annotations

from kdnas.search.candidate import Measurement
from kdnas.store import limits as present_limits
from kdnas.store import queries
from kdnas.store.database import Store
from kdnas.store.optuna_storage import CONSTRAINT
from kdnas.store.trial_storage import TrialStorage
from kdnas.study.constraints import Limits, figures
from kdnas.study.ranked_rows import nearest_miss

FUTILE = 10  # finished trials after which it is told that none keeps the constraints, and whenever they have doubled


def record(limits: Limits, trials: TrialStorage, trial_id: int, found: Measurement, *, raw: bool) -> str:
    """Writes to Optuna's trial how far it misses each constraint of now; what it misses, in words, empty where nothing.
    `raw`: the reward sees the raw loss."""
    told = figures(
        loss=found.raw_loss if raw else found.loss,
        latency_ms=found.timed.p50,
        teacher_latency_ms=found.timed.teacher_p50,
        parameters=found.parameters,
        reference_ms=limits.reference_ms,
    )
    for name, by in limits.scaled(told).items():
        trials.set_trial_system_attr(trial_id, f"{CONSTRAINT}{name}", by)
    return limits.told(told)


def none_keeps(store: Store, study_id: int) -> str | None:
    """A warning where it is time to say that no trial so far keeps the constraints."""
    row = queries.study_of(store, study_id)
    if row.best_number is not None or row.done not in {FUTILE * 2**k for k in range(20)}:
        return None
    limits = present_limits.present(store, study_id)
    nearest = nearest_miss(queries.trial_rows(store, study_id), row)
    return f"None of {row.done} trials keeps to {limits}; {nearest}. Loosen it, or widen the space" if nearest else None
