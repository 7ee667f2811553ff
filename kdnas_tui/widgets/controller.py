"""The LSTM controller: predicted against actual reward, ε, and their rank agreement."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kdnas.study.ranking import Standing
from kdnas.study.rows import EpisodeRow
from kdnas.study.trial_columns import Board
from kdnas_tui.widgets.axis_ticks import outward
from kdnas_tui.widgets.plot import BRAILLE, Plot


class Controller(Plot):
    """Every trial that the controller chose, predicted against actual reward, both with the α and β of that time."""

    def __init__(self, *, period: float = 1.0, id: str | None = None) -> None:
        super().__init__(
            "predicted reward", "actual", empty="No trial foreseen by a controller yet.", period=period, id=id
        )
        self.board: Board | None = None
        self.episodes: tuple[EpisodeRow, ...] = ()
        self._seen: tuple[Standing | None, int] = (None, 0)

    def show(self, board: Board, episodes: Sequence[EpisodeRow]) -> None:
        """Draw if trials or episodes changed."""
        seen = (board.standing, len(episodes))
        self.board, self.episodes = board, tuple(episodes)
        if seen[0] is not self._seen[0] or seen[1] != self._seen[1]:
            self._seen = seen
            self.changed()

    def put(self) -> None:
        if self.board is None:
            return
        predicted, actual = foreseen(self.board)
        self.remark = summary(self.episodes, predicted, actual)
        if not len(predicted):
            return
        both = np.concatenate((predicted, actual))
        ends = [float(both.min()), float(both.max())]
        self.plot(ends, ends, line_style=self.style_of("quiet"), hires_mode=BRAILLE)  # where both agree
        latest = -max(1, len(predicted) // max(1, len(self.episodes)))  # about those of the last episode
        self.scatter(predicted[:latest], actual[:latest], marker_style=self.style_of("line"), hires_mode=BRAILLE)
        self.scatter(predicted[latest:], actual[latest:], marker="●", marker_style=self.style_of("strong"))
        self._auto_x_min = self._auto_x_max = self._auto_y_min = self._auto_y_max = False
        self._x_min, self._x_max = outward(float(predicted.min()), float(predicted.max()))
        self._y_min, self._y_max = outward(float(actual.min()), float(actual.max()))


def foreseen(board: Board) -> tuple[np.ndarray, np.ndarray]:
    """Predicted and actual reward of the trials that have both, by trial number."""
    predicted, actual = board.column("predicted"), board.told()
    places = np.flatnonzero(np.isfinite(predicted) & np.isfinite(actual))
    places = places[np.argsort(board.numbers[places])]
    return predicted[places], actual[places]


def rank_agreement(predicted: np.ndarray, actual: np.ndarray) -> float | None:
    """Spearman's rank correlation; None for fewer than three pairs or where all are alike."""
    if len(predicted) < 3 or np.ptp(predicted) == 0 or np.ptp(actual) == 0:
        return None
    return float(np.corrcoef(_ranks(predicted), _ranks(actual))[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks, equal values sharing the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts + 1) / 2)[inverse]


def summary(episodes: Sequence[EpisodeRow], predicted: np.ndarray, actual: np.ndarray) -> str:
    """`episode 11  ε 0.45  rank agreement 0.62`"""
    parts = []
    if episodes:
        last = episodes[-1]
        parts += [f"episode {last.episode + 1}", f"ε {last.epsilon:.2f}"]
    agreement = rank_agreement(predicted, actual)
    if agreement is not None:
        parts.append(f"rank agreement {agreement:.2f}".replace("-", "−"))
    return "  ".join(parts)
