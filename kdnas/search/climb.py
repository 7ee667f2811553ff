"""One candidate on its way up the rungs of a study: how it stands among those of the store, and whether it goes on.

The rule itself is in rungs.py. A candidate is held against finished trials alone, so that a worker who takes up a lost
trial decides as the lost one did.
"""

from __future__ import annotations

from dataclasses import replace
from typing import cast

from kdnas.recipes.contract import Workbench
from kdnas.search import rungs
from kdnas.search.candidate import Measurement, Timed
from kdnas.search.rungs import Reached
from kdnas.store import queries, slots
from kdnas.store.database import Store
from kdnas.store.limits import present
from kdnas.study.constraints import figures
from kdnas.study.reference_time import factor
from kdnas.study.reward import reward
from kdnas.study.rows import RUNG, TrialRow
from kdnas.study.space import Candidate
from kdnas.study.spec import StudySpec
from kdnas.study.states import TrialState
from kdnas.training.contract import Epoch

LOSS, RAW_LOSS = "loss_as_built", "raw_loss_as_built"  # among a trial's own figures


class Climb:
    """Of one candidate; without rungs in the spec it always goes on."""

    def __init__(self, store: Store, study_id: int, spec: StudySpec, bench: Workbench, candidate: Candidate) -> None:
        self._store, self._study_id, self._spec, self._bench = store, study_id, spec, bench
        self._candidate = candidate
        self._figures: dict[str, float] = {}
        self.rungs = bench.budget.rungs

    def goes_on(self, epoch: Epoch, timed: Timed) -> bool:
        """Whether the training goes on after this epoch (0 for the score as built)."""
        if not self.rungs:
            return True
        ends = rungs.ends(self._bench.budget)
        if epoch.epoch == 0:
            self._figures |= {LOSS: epoch.score.loss, RAW_LOSS: epoch.score.raw_loss}
        if epoch.epoch not in ends:
            return True
        rung = ends.index(epoch.epoch)
        self._figures[RUNG] = rung
        if epoch.epoch == ends[-1]:
            return True
        own = self._reached(epoch.score.loss, epoch.score.raw_loss, timed.p50, timed.teacher_p50)
        return rungs.goes_on(own, self._others(rung, epoch.epoch), self.rungs[rung])

    def measured(self, found: Measurement) -> Measurement:
        """What the evaluation found, and the rung that it reached: a candidate that stays on one is finished."""
        return replace(found, extra={**found.extra, **self._figures}, pruned=found.pruned and not self.rungs)

    def _others(self, rung: int, epoch: int) -> list[Reached]:
        """How the finished trials stood at the rung, those that compare with this one."""
        key = self._bench.comparable(self._candidate)
        rows = [row for row in queries.trial_rows(self._store, self._study_id) if self._was_at(row, rung, key)]
        curves = queries.curves(self._store, self._study_id, [row.number for row in rows] if rung else [])
        found = []
        for row in rows:
            losses = row.extra[LOSS], row.extra[RAW_LOSS]
            if rung:
                losses = next((point.loss, point.raw_loss) for point in curves[row.number] if point.epoch == epoch)
            times = cast(float, row.latency_ms), cast(float, row.teacher_latency_ms)
            found.append(self._reached(*losses, *times))
        return found

    def _was_at(self, row: TrialRow, rung: int, key: str) -> bool:
        reached = row.state == TrialState.DONE and row.extra.get(RUNG, -1) >= rung
        return reached and self._bench.comparable(row.candidate) == key

    def _reached(self, loss: float, raw_loss: float, latency_ms: float, teacher_ms: float) -> Reached:
        """How a candidate of these figures stands, by the study's α and β of now."""
        seen = raw_loss if self._spec.reward.loss == "raw" else loss
        limits = present(self._store, self._study_id).on_times()
        miss = limits.miss(
            figures(latency_ms=latency_ms, teacher_latency_ms=teacher_ms, reference_ms=limits.reference_ms)
        )
        if self._spec.two_objectives:
            return Reached(None, seen, latency_ms * factor(teacher_ms, limits.reference_ms), miss)
        alpha, beta = slots.rate(self._store, self._study_id)
        return Reached(reward(seen, latency_ms, teacher_ms, alpha, beta), seen, latency_ms, miss)
