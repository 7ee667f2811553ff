"""What a trial takes, by the trials of a store: those of the study itself, or of another one whose trials do the same.

Reads the store, loads no model. A plan that knows it need not guess from the speed of a product of matrices.
"""

from __future__ import annotations

from dataclasses import dataclass

from kdnas.store import queries
from kdnas.store.database import Store
from kdnas.study.rows import StudyRow
from kdnas.study.spec import StudySpec, from_store
from kdnas.study.spec_differences import of_a_trial
from kdnas.system.errors import KdnasError
from kdnas.system.time_left import FEWEST

ENDS_IT = ("budget.pruner", "budget.rungs")  # settings by which some trials end before others


@dataclass(frozen=True)
class Measured:
    """Seconds of a trial, the mean of what `study` has evaluated."""

    seconds: float
    study: str


def measured(store: Store, spec: StudySpec) -> Measured | None:
    """Of the studies whose trials do the same: by the spec's own where it has trials, else by the one that changed last
    and of which enough have ended; None where there is none. Machines are not distinguished."""
    wanted = of_a_trial(spec, "device", *ENDS_IT)
    rows = [row for row in queries.study_rows(store) if row.trial_s is not None and _same(row, wanted)]
    enough = [row for row in rows if row.name == spec.name or row.done - row.failed >= FEWEST]
    for row in sorted(enough, key=lambda row: row.name != spec.name):
        if row.trial_s is not None:
            return Measured(row.trial_s, row.name)
    return None


def _same(row: StudyRow, wanted: dict[str, object]) -> bool:
    try:
        return of_a_trial(from_store(row.spec), "device", *ENDS_IT) == wanted
    except KdnasError:  # damaged
        return False
