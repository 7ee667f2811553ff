"""The figures of the trial under the cursor in a line, as much of them as there is room for. Pure text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rich.cells import cell_len

from kdnas.study.ranking import Scored
from kdnas.study.trial_columns import Board
from kdnas_tui import words

GAP = "  "


def readout(board: Board | None, number: int | None) -> tuple[str, ...]:
    """Number, reward, loss and latency of a trial, the most important first; nothing where there is no such trial."""
    scored = None if board is None or number is None else board.scored(number)
    return () if scored is None else _pieces(scored)


def _pieces(scored: Scored) -> tuple[str, ...]:
    figures = [f"#{scored.number}"]
    if scored.reward is None:
        figures.append(scored.row.state)
    else:
        figures.append(f"reward {scored.reward:.3f}")
    if scored.loss_used is not None:
        figures.append(f"loss {scored.loss_used:.3f}")
    if (latency_ms := scored.told.latency_ms) is not None:
        figures.append(f"{words.milliseconds(latency_ms)} ms")
    return tuple(figures)


def undated(board: Board, chosen: np.ndarray) -> str:
    """How many of the trials where `chosen`, bool [n], have no time of the calendar; nothing where all have one."""
    count = int((board.mistimed() & chosen).sum())
    return f"{words.plural(count, 'trial')} of no known time" if count else ""


def as_fits(pieces: Sequence[str], room: int) -> str:
    """The first pieces in a line of at most `room` cells; nothing where not even one fits."""
    text = ""
    for piece in pieces:
        longer = f"{text}{GAP}{piece}" if text else piece
        if cell_len(longer) > room:
            break
        text = longer
    return text
