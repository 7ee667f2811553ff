"""The columns of the table of trials, and what each says of a trial. Text only; the table fits and draws them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

import numpy as np

from kdnas.study import layer_words
from kdnas.study.filter import ALIASES, COLUMNS, lookup
from kdnas.study.ranking import Scored
from kdnas.study.states import TIMING
from kdnas.study.trial_columns import Board
from kdnas_tui import words
from kdnas_tui.widgets.lines import clean

_TITLES = {"layers": "L", "width": "H", "heads": "A", "ffn": "ffn", "act": "act"}
_STATE_CELLS = {"running": 8, "waiting": 7, "pruned": 10, "reused": 7, "failed": 6}  # cells that a state takes; else 5
_SIZES = {"layers": 2, "width": 4, "heads": 2, "ffn": 4, "act": 5}


@dataclass(frozen=True)
class Column:
    """One column: what it is called, what it sorts by, how much room it takes, and what it says of a trial.

    Columns are compared without what they say, which is made anew with every change of the trials.
    """

    key: str  # of the filter language
    title: str
    width: int
    leaves: int  # the highest number leaves first where it is narrow, 0 never
    text: Callable[[Scored], str] = field(compare=False)
    look: Callable[[Scored], str] | None = field(default=None, compare=False)
    left: bool = False
    falling: bool = False  # the natural order is from the largest down
    usual: bool = True  # shown unless it is hidden; the others only where they are chosen

    @property
    def about(self) -> str:
        """What it shows, in a few words."""
        if self.key in COLUMNS:
            return COLUMNS[self.key].about
        return ", ".join(ALIASES.get(self.key, (self.key,))[:1])


def columns_of(board: Board | None) -> list[Column]:
    """All columns that the board's trials have something for, from the left; those that are not usual last."""
    digits = 4 if board is not None and board.loss == "raw" else 3
    highest = int(board.numbers.max()) if board is not None and len(board) else 0
    states = board.states() if board is not None else frozenset()
    state = max([5, *(_STATE_CELLS.get(name, 5) for name in states)])
    columns = [
        Column("number", "#", max(4, len(str(highest)) + 1), 0, _number, falling=True),
        Column("reward", "reward", 7, 0, _reward, falling=True),
        Column("loss", "loss", digits + 2, 0, lambda s: words.figure(s.loss_used, digits)),
        Column("latency", "lat", 5, 0, lambda s: words.milliseconds(s.told.latency_ms)),
        Column("half", "±", 3, 8, _latency_spread, _flag_look),
        Column("speedup", "×T", 5, 9, _speedup, falling=True),
        Column("params", "params", 6, 10, lambda s: words.count(s.row.parameters)),
    ]
    if board is not None:
        columns += _settings(board)
        if not np.isnan(board.rungs()).all():
            columns.append(Column("rung", "rung", 4, 6, _rung, falling=True))
    columns.append(Column("state", "state", state, 0, _state, _state_look, left=True))
    if board is not None and board.tagged():
        columns.append(Column("tag", "tags", 12, 20, lambda s: clean(" ".join(s.row.tags)), left=True))
    return columns + _unusual()


def _unusual() -> list[Column]:
    """What is shown where somebody has chosen it."""
    return [
        Column("rank", "rank", 5, 30, lambda s: str(s.rank or "–"), usual=False),
        Column("raw", "raw", 7, 30, lambda s: words.figure(s.row.raw_loss, 4), usual=False),
        Column("p90", "p90", 5, 30, lambda s: words.milliseconds(s.told.latency_p90_ms), usual=False),
        Column("memory", "memory", 8, 30, lambda s: words.mib(s.row.memory_mib), usual=False, falling=True),
        Column("duration", "time", 6, 30, _duration, usual=False),
        Column("predicted", "predicted", 9, 30, lambda s: words.figure(s.row.predicted), usual=False, falling=True),
        Column("origin", "origin", 10, 30, lambda s: clean(s.row.origin or "–"), left=True, usual=False),
        Column("flag", "flag", 20, 30, lambda s: clean(s.row.latency_flag or ""), left=True, usual=False),
        Column("note", "note", 20, 30, lambda s: clean(s.row.note), left=True, usual=False),
    ]


def _settings(board: Board) -> list[Column]:
    """What the candidates differ in, transformers' sizes first."""
    keys = board.keys()
    varying = board.varying_keys()
    of_layers = {key: own for key in board.dimensions() if (own := layer_words.size_of(key)) is not None}
    varying |= {name for key, (name, _) in of_layers.items() if key in varying}
    short = [key for key in _TITLES if not (keys if key in ("layers", "width") else varying).isdisjoint(ALIASES[key])]
    spoken_for = {name for key in (*short, "head") for name in ALIASES[key]}
    columns = [
        Column(key, _TITLES[key], _room(key, of_layers.values()), 1 + place, _setting(key), left=key == "act")
        for place, key in enumerate(short)
    ]
    spoken_for |= of_layers.keys()
    others = [key for key in board.dimensions() if key in varying and key not in spoken_for]
    for place, key in enumerate(others):
        says = [key, *(clean(value) for value in board.dimensions()[key].values if isinstance(value, str))]
        # Without its kind, a static student's row would say nothing of what it is.
        leaves = 7 if key == layer_words.KIND else 12 + place
        columns.append(Column(key, key, min(16, max(5, *map(len, says))), leaves, _setting(key)))
    return columns


def progress_bar(row_epoch: int, epochs: int, progress: float) -> str:
    """`▰▰▱▱ 2/4`: how far the evaluation is, and the finished epochs."""
    full = max(0, min(4, int(progress * 4 + 1e-9)))
    return "▰" * full + "▱" * (4 - full) + f" {row_epoch}/{epochs}"


def _number(scored: Scored) -> str:
    return f"{scored.number} "  # the last cell is for the star of the front


def _reward(scored: Scored) -> str:
    """The last cell is for the mark of a tie, of a trial that stayed on a lower rung, or of one that misses a
    constraint."""
    sign = "~" if scored.tie else "<" if scored.behind else "^" if scored.infeasible else " "
    return f"{words.figure(scored.reward)}{sign}"


def _rung(scored: Scored) -> str:
    return "–" if scored.row.rung is None else str(scored.row.rung)


def _duration(scored: Scored) -> str:
    row = scored.row
    return "–" if row.ended is None else words.duration(row.ended - row.started)


def _speedup(scored: Scored) -> str:
    if scored.speedup is None:
        return "–"
    return f"{scored.speedup:.1f}×" if scored.speedup < 99.95 else f"{scored.speedup:.0f}×"


def _latency_spread(scored: Scored) -> str:
    """Half of the 95 % interval, in the latency's decimals, never as 0; ! where the figure is doubtful, ≈ where it is
    predicted."""
    row = scored.told
    if row.latency_ms is None:
        return ""
    if row.latency_flag:
        return "≈" if row.latency_predicted else "!"
    if row.latency_low_ms is None or row.latency_high_ms is None:
        return ""
    half = (row.latency_high_ms - row.latency_low_ms) / 2
    decimals = 2 if row.latency_ms < 10 and half < 1 else 1 if half < 10 else 0
    if decimals == 1 and half < 0.05:
        decimals = 2
    return f"{max(half, 0.01):.{decimals}f}".removeprefix("0")


def _flag_look(scored: Scored) -> str:
    return "failed" if scored.row.latency_flag and not scored.row.latency_predicted else "quiet"


def _room(key: str, of_layers: Iterable[tuple[str, int]]) -> int:
    """The cells of a size; where layers differ in it, for one number a layer."""
    layers = max((layer for name, layer in of_layers if name in ALIASES[key]), default=1)
    return (_SIZES[key] + 1) * layers - 1


def _setting(key: str) -> Callable[[Scored], str]:
    def text(scored: Scored) -> str:
        sizes, row = layer_words.shown(scored.row.candidate), scored.row
        if row.candidate.get(layer_words.KIND) == layer_words.STATIC:  # the sizes that stand folded in it are none
            row = replace(row, candidate=sizes)
        value = next((sizes[name] for name in ALIASES.get(key, ()) if name in sizes), lookup(row, key))
        return "–" if value is None else clean(str(value))

    return text


def _state(scored: Scored) -> str:
    row = scored.row
    match row.state:
        case "running" if row.epochs and (row.phase in (None, "training") or row.epoch > 0):
            return progress_bar(row.epoch, row.epochs, row.progress)
        case "running":
            return clean(row.phase or "running")
        case "waiting":
            return TIMING if row.phase == TIMING else row.state
        case "pruned":
            return f"pruned {row.epoch}/{row.epochs}"
        case "reused":
            return f"as #{row.reused_from}" if row.reused_from is not None else "reused"
    return row.state


def _state_look(scored: Scored) -> str:
    return {"running": "running", "failed": "failed", "done": ""}.get(scored.row.state, "quiet")
