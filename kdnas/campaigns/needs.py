"""What a campaign will need, told before anything runs: disk for caches and models, and which members cannot begin.

Fetches what ships; starts nothing and writes no row.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from kdnas.campaigns.scoring import member_spec, rows_of
from kdnas.search.plan import plan
from kdnas.search.ready import SPARE_BYTES, fetch
from kdnas.study.campaign_rows import CampaignRow
from kdnas.study.campaign_spec import campaign_from
from kdnas.study.constraints import BYTES_PER_PARAMETER
from kdnas.system import paths
from kdnas.system.errors import KdnasError, UsageError
from kdnas.system.time_left import duration

MIB = 2**20


@dataclass(frozen=True)
class Needs:
    """Bytes at most, and why members cannot begin."""

    cache_bytes: int
    model_bytes: int
    seconds: float | None  # of all trials, as they are estimated; None where nobody can say
    faults: Mapping[str, str] = field(default_factory=dict)

    def lines(self, row: CampaignRow) -> list[str]:
        """In words."""
        caches, models = f"{self.cache_bytes / MIB:,.0f} MiB", f"{self.model_bytes / MIB:,.0f} MiB"
        said = f"disk      at most {caches} of caches, and {models} of models in {row.folder}"
        time = [] if self.seconds is None else [f"time      about {duration(self.seconds)} of searches by one worker"]
        return [said, *time, *(f"member    {name} cannot begin: {why}" for name, why in self.faults.items())]


def of(row: CampaignRow, say: Callable[[str], None]) -> Needs:
    """Raises UsageError where the task cannot be read, no member can begin, or the disk has too little room."""
    spec = campaign_from(row.spec)
    fetch(spec.member(next(iter(spec.members))), lambda words, _: say(words))
    rows_of(spec.task)
    caches, models, seconds, faults = 0, 0, 0.0, {}
    known = True
    with tempfile.TemporaryDirectory() as aside:  # the campaign's own folder stays empty until it begins
        for member in row.members:
            try:
                own = member_spec(replace(row, folder=aside), member.name)
                fetch(own, lambda words, _: say(words))
                made = plan(own)
            except KdnasError as error:
                faults[member.name] = str(error)
                continue
            caches += made.cache_bytes or 0
            count = made.teacher.get("parameters")
            models += 2 * BYTES_PER_PARAMETER * count if isinstance(count, int) else 0  # of a round, and in full
            known = known and made.seconds_per_trial is not None
            seconds += made.seconds_per_trial or 0.0
    if len(row.members) - len(faults) < 1:
        name, why = next(iter(faults.items()))
        raise UsageError(f"No member of the campaign {row.name} can begin. {name}: {why}")
    each = seconds / (len(row.members) - len(faults))
    needs = Needs(caches, models, each * row.budget if known and not row.timed else None, faults)
    _require_room(paths.cache_folder(), needs.cache_bytes + SPARE_BYTES)
    _require_room(Path(row.folder), needs.model_bytes + SPARE_BYTES)
    return needs


def _require_room(folder: Path, needed: int) -> None:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UsageError(
            f"The campaign needs about {needed / MIB:,.0f} MiB in {folder}, and {free / MIB:,.0f} MiB are free.",
            "Make room there, or name other folders with --output and KDNAS_CACHE.",
        )
