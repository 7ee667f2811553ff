"""The rewards of a study at other α and β than its trials were reported with. Tells Optuna nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from kdnas.store.trial_figures import TrialFigures
from kdnas.study.ranking import LossKind
from kdnas.study.reward import reward


@dataclass(frozen=True)
class Rewards:
    """Trial number → reward of the finished trial, and of each of its epochs."""

    final: Mapping[int, float]
    by_epoch: Mapping[int, Mapping[int, float]]


class Rescoring:
    """Of one study; computed anew for trials that changed, and for all once α or β did."""

    def __init__(self, figures: TrialFigures, loss: LossKind) -> None:
        """Rewards of single epochs are computed where the figures have them."""
        self._figures = figures
        self._loss = "raw_loss" if loss == "raw" else "loss"
        self._rate: tuple[float, float] | None = None
        self._final: dict[int, float] = {}
        self._by_epoch: dict[int, dict[int, float]] = {}

    def now(self, alpha: float, beta: float, changed: Iterable[int]) -> Rewards:
        """Every reward at this α and β. `changed`: the trials whose figures were read since the last call."""
        if self._rate != (alpha, beta):
            self._rate, changed = (alpha, beta), list(self._figures.rows)
        for number in changed:
            row, points = self._figures.rows[number], self._figures.epochs.get(number, {})
            times = row.latency_ms, row.teacher_latency_ms
            if not (row.teacher_latency_ms or 0) > 0:
                continue
            if (loss := getattr(row, self._loss)) is not None:
                self._final[number] = reward(loss, *times, alpha, beta)
            if points:
                losses = {epoch: getattr(point, self._loss) for epoch, point in points.items()}
                self._by_epoch[number] = {epoch: reward(loss, *times, alpha, beta) for epoch, loss in losses.items()}
        return Rewards(self._final, self._by_epoch)
