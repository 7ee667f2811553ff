"""Whether a study can begin here: looked at before workers are left to themselves, whose complaints nobody would see.

Writes nothing but what it fetches. Heavy, as `plan` is.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from kdnas.data import documents, hub, shipped
from kdnas.search.measured_cost import Measured
from kdnas.search.plan import Plan, plan
from kdnas.study.spec import StudySpec
from kdnas.system import paths
from kdnas.system.errors import UsageError
from kdnas.system.progress import Progress

SPARE_BYTES = 64 * 2**20  # for the store, logs and checkpoints of a search


def fetch(spec: StudySpec, on_progress: Progress) -> None:
    """What ships and is not here yet, said before it is fetched. Raises UsageError where it cannot be had."""
    for name in (spec.teacher.model, spec.data.source, getattr(spec.recipe, "student", None)):
        asset = shipped.ASSETS.get(name or "")
        if asset is not None and shipped.present(asset.name) is None:
            on_progress(f"{asset.name} is not on this machine yet: fetching {asset.size_mib:g} MiB", None)
            shipped.fetch(asset.name, on_progress)


def require_ready(spec: StudySpec, on_progress: Progress, measured: Measured | None = None) -> Plan:
    """The plan. Raises UsageError for a teacher, data, a space, a device, a time or a disk with which no worker could
    begin."""
    fetch(spec, on_progress)
    made = plan(spec, measured=measured)
    if not documents.at_hand(spec.data):
        hub.require_data_set(spec.data.source)
    folder = _nearest(paths.cache_folder())
    wanted, free = (made.cache_bytes or 0) + SPARE_BYTES, shutil.disk_usage(folder).free
    if free < wanted:
        raise UsageError(
            f"The study needs about {wanted / 2**20:,.0f} MiB in {folder}, and {free / 2**20:,.0f} MiB are free.",
            "Make room there, or name another folder in KDNAS_CACHE.",
        )
    return made


def _nearest(folder: Path) -> Path:
    """The folder, or the one in which it would be made."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder
