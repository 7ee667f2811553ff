"""Whether one more worker may join a study from this machine: what it is asked before it loads anything, and after.

That teacher, tokenizer and data are the study's is checked where they are read (`kdnas.store.studies.prepared`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any

from kdnas.store import changes, ends, queries, studies
from kdnas.store.database import Store
from kdnas.store.patience import patient
from kdnas.study.rows import Status, StudyRow
from kdnas.study.states import Wanted
from kdnas.study.time_budget import require_time
from kdnas.system import liveness
from kdnas.system.errors import UsageError
from kdnas.system.versions import versions

UNLIKE = "unlike machines"  # in a study's history: machines of another device or version may join


class Unlike(StrEnum):
    """What becomes of latency on machines of another device than the study's."""

    LEAVE = "leave"  # left to workers that have its device
    MIX = "mix"  # measured there, too


def allow_unlike(store: Store, study_id: int, latency: str) -> None:
    """From now on machines that are unlike the study's first may join it. The last word on latency holds for those that
    begin after it."""
    latency = Unlike(latency)
    if allowed(store, study_id) is not latency:
        changes.add_event(store, study_id, UNLIKE, {"latency": latency})


def require_joinable(store: Store, row: StudyRow) -> None:
    """Raises UsageError for a study in which there is nothing left to do, or that another version of kdnas has begun.

    A host that has a worker at work on it already has been let in.
    """
    if _ended(row):
        more = f"kdnas search {row.name} {'--hours 2' if row.open else f'--trials {row.trials * 2}'}"
        raise UsageError(f"{row.name} has finished its {row.trials} trials.", f"Raise the budget: {more}")
    require_time(row.name, row.end, ends.now(store))
    if studies.wanted(store, row.study_id) in (Wanted.STOP, Wanted.ABANDON):
        raise UsageError(f"{row.name} was stopped.", f"Let it go on: kdnas resume {row.name}")
    if liveness.this_host() in row.hosts or allowed(store, row.study_id) is not None:
        return
    theirs = queries.provenance(store, row.study_id).get("versions", {}).get("kdnas")
    ours = versions().get("kdnas")
    if theirs is not None and theirs != ours:
        raise UsageError(
            f"{row.name} was begun with kdnas {theirs}, and this is kdnas {ours}.",
            f"Install kdnas {theirs} here, or let it join all the same: --unlike leave.",
        )


def goes_on(store: Store, name: str) -> bool:
    """Whether the study has something left to do, and people want it done."""
    row = queries.study_row(store, name)
    return not _ended(row) and studies.wanted(store, row.study_id) in (Wanted.RUN, Wanted.PAUSE)


def _ended(row: StudyRow) -> bool:
    return row.spent or row.status is Status.FINISHED


def measures(store: Store, study_id: int, device: str) -> bool:
    """Whether a worker on a device of that name is one that measures latency: the first, or one on the study's device,
    or where people let others measure, too."""
    theirs = queries.provenance(store, study_id).get("device")
    return theirs in (None, device) or allowed(store, study_id) is Unlike.MIX


def require_like(store: Store, study_id: int, facts: Mapping[str, Any], log: Callable[[str, str], None]) -> str | None:
    """The device that the study was begun on, where this machine's device, named in `facts`, is another one and leaves
    latency to workers that have it; None where it measures itself. Raises UsageError where neither is allowed."""
    recorded = queries.provenance(store, study_id)
    theirs, ours = recorded.get("device"), facts["device"]
    if theirs in (None, ours):
        return None
    how = allowed(store, study_id)
    if how is None:
        raise UsageError(
            f"The study measures latency on {theirs}, and this worker would on {ours}.",
            "Give --unlike leave to leave that to workers of its device, or --unlike mix to compare speed-ups.",
        )
    if how is Unlike.LEAVE:
        log("info", f"this worker is on {ours}: it leaves latency to workers on {theirs}")
        return str(theirs)
    log("warning", f"latencies of this worker are of {ours}, the study began on {theirs}: compare speed-ups")
    return None


@patient
def allowed(store: Store, study_id: int) -> Unlike | None:
    """How machines that are unlike the study's first may join; None where they may not."""
    with store.connect() as connection:
        detail = changes.recorded(connection, study_id, UNLIKE, last=True)
    return None if detail is None else Unlike(detail["latency"])
