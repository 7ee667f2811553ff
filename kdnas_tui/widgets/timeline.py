"""Who worked on what and when: a row for each worker, with its trials as bars from their start to their end.

States are told apart by signs. A cell shows the state that fills most of it, · where the worker was idle for most of it
and nothing where it was idle throughout. Times are those that the store recorded; what runs reaches to now.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from kdnas.study.rows import WorkerRow
from kdnas.study.states import TrialState
from kdnas.study.trial_columns import Board
from kdnas_tui import words
from kdnas_tui.widgets.devices import Moment, draw_devices, draw_doubtful, named
from kdnas_tui.widgets.lines import clean, fitted
from kdnas_tui.widgets.picture import Picture, paged, title, title_end
from kdnas_tui.widgets.readout import undated
from kdnas_tui.widgets.sketch import Sketch
from kdnas_tui.widgets.time_axis import said, ticks

SIGNS = {  # state → (sign, look): all differ in ASCII, too
    TrialState.DONE: ("█", "line"),
    TrialState.PRUNED: ("≈", "quiet"),
    TrialState.FAILED: ("×", "bad"),
    TrialState.LOST: ("?", "bad"),
    TrialState.REUSED: ("○", "good"),
    TrialState.RUNNING: ("▸", "good"),
    TrialState.WAITING: ("=", "quiet"),
}
PARTLY = "·"
AGES_S = 5.0  # how often what runs grows
MOST_CLOSER = 16  # times that the time axis may be doubled
LEAST_ROWS = 3  # of workers, before anything stands beneath
_FAULTS = (TrialState.FAILED, TrialState.LOST)
_UNKNOWN = -1.0  # stands for the worker of trials of which none is recorded


@dataclass(frozen=True)
class Bars:
    """The trials shown, each an array [n]: who evaluated it, when it began and ended in UTC seconds, and its state."""

    number: np.ndarray
    worker: np.ndarray
    start: np.ndarray
    end: np.ndarray
    state: np.ndarray  # index of SIGNS

    @staticmethod
    def of(board: Board, chosen: np.ndarray, now: float) -> Bars:
        """Of the trials where `chosen`, bool [n]; what has no end reaches to `now`."""
        states = board.coded("state")
        assert states is not None
        order = {state: index for index, state in enumerate(SIGNS)}
        known = np.array([order.get(value, -1) for value in states.values])
        state = known[states.codes[: len(board)]]
        start, end = board.started(), board.ended()
        end = np.where(np.isfinite(end), end, now)
        kept = chosen & (state >= 0) & ~board.mistimed() & (end >= start)
        worker = board.column("worker")
        worker = np.where(np.isfinite(worker), worker, _UNKNOWN)
        return Bars(*(column[kept] for column in (board.numbers, worker, start, end, state)))

    def of_worker(self, worker: float) -> Bars:
        here = self.worker == worker
        return Bars(*(column[here] for column in (self.number, self.worker, self.start, self.end, self.state)))


def busy(start: np.ndarray, end: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """How long intervals [n] lie between neighbouring edges [m], together; float [m − 1], in the unit of the edges."""
    found: np.ndarray = np.diff(_before(start, edges) - _before(end, edges))
    return found


def _before(moments: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """The sum of what each edge [m] lies behind each of the moments [n], where it does; float [m]."""
    if not len(moments):
        return np.zeros(len(edges))
    origin = edges[0]  # differences of small numbers, not of moments since 1970
    ordered = np.sort(moments - origin)
    count = np.searchsorted(ordered, edges - origin)
    sums = np.concatenate(([0.0], np.cumsum(ordered)))
    return (edges - origin) * count - sums[count]


class Timeline(Picture):
    """Give it the crew beside the board. `closer` doubles the time axis around the trial under the cursor."""

    def __init__(self, clock: Callable[[], float], *, period: float = 1.0, id: str | None = None) -> None:
        super().__init__(period=period, id=id)
        self.crew: tuple[WorkerRow, ...] = ()
        self.readings: Sequence[Moment] = ()
        self._clock = clock
        self._closer = 0
        self._pages = 1
        self._title = ""
        self._bars: Bars | None = None  # as last drawn, like the next three
        self._here: list[float] = []
        self._left = 0
        self._edges = np.zeros(2)

    def on_mount(self) -> None:
        self.set_interval(AGES_S, self._age)

    def _age(self) -> None:
        if self.board is not None and self.board.runs().any():
            self.changed()

    @property
    def pages(self) -> int:
        return self._pages

    def show_crew(self, crew: Sequence[WorkerRow], readings: Sequence[Moment] = ()) -> None:
        """Who they are, and how busy the devices were; draw soon if somebody came or went."""
        self.readings = readings
        seen = [(worker.worker_id, worker.alive) for worker in crew]
        if seen != [(worker.worker_id, worker.alive) for worker in self.crew]:
            self.changed()
        self.crew = tuple(crew)

    def closer(self, by: int, axis: str = "x") -> bool:
        """Double the time axis so many times, or halve it; False where it is at its end."""
        closer = max(0, min(self._closer + by, MOST_CLOSER)) if by else 0
        if axis == "y" or closer == self._closer:
            return False
        self._closer = closer
        self.changed(at_once=True)
        return True

    # ------------------------------------------------------------------ drawing

    @property
    def follows_cursor(self) -> bool:
        return self._closer > 0

    def put(self, sketch: Sketch, board: Board, passing: np.ndarray) -> bool:
        live = bool(board.runs().any())
        every = Bars.of(board, np.ones(len(board), dtype=bool), self._clock() if live else 0.0)
        without = undated(board, passing)
        if not len(every.number):
            return self.say_none(sketch, without and f"{without}.")
        shown = Bars.of(board, passing, self._clock() if live else 0.0)
        order = self._order(every)
        doubtful = self._doubtful(board, shown)
        below = len(named(self.readings)) + bool(len(doubtful))
        below = below if sketch.height - 3 - below >= LEAST_ROWS else 0
        room = sketch.height - 3 - below
        self._pages = max(1, -(-len(order) // room))
        self.page = min(self.page, self._pages - 1)
        here = order[self.page * room : (self.page + 1) * room]
        labels = [self._label(worker) for worker in here]
        left = min(max(map(len, labels)) + 1, max(8, sketch.width // 5))
        cells = sketch.width - left
        start, end = self._window(every)
        edges = np.linspace(start, end, cells + 1)
        for row, (worker, label) in enumerate(zip(here, labels, strict=True), start=1):
            sketch.write(0, row, fitted(clean(label), left - 1).rstrip(), "quiet")
            self._row(sketch, row, left, edges, every.of_worker(worker), shown.of_worker(worker))
        self._bars, self._here, self._left, self._edges = shown, here, left, edges
        self._signs(sketch, np.isin(shown.number, board.numbers[board.marked()]), "◆", "mark")
        for cell, label in ticks(start, end, cells - 4 if live and self._closer == 0 else cells):
            sketch.write(left + cell, len(here) + 1, label, "quiet")
        if live and end >= float(every.end.max()):
            sketch.write(sketch.width - 3, len(here) + 1, "now", "quiet")
        if below:
            self._beneath(sketch, len(here) + 2, doubtful)
        self._legend(sketch, shown)
        whole = f" of {words.duration(float(every.end.max() - every.start.min()))}" if self._closer else ""
        self._title = paged(
            f"{words.plural(len(order), 'worker')}, {words.duration(end - start)}{whole}{without and f'; {without}'}",
            self.page,
            self._pages,
        )
        title(sketch, self._title)
        return True

    def put_cursor(self, sketch: Sketch, board: Board) -> None:
        if self._bars is not None:
            self._signs(sketch, self._bars.number == self.cursor, "✛", "cursor")
            title_end(sketch, self._title, self._readout(self._bars))

    def _order(self, bars: Bars) -> list[float]:
        """Workers that live first, then those that came last."""
        alive = {float(worker.worker_id) for worker in self.crew if worker.alive and worker.task == "search"}
        return sorted(alive | set(np.unique(bars.worker).tolist()), key=lambda one: (one not in alive, -one))

    def _label(self, worker: float) -> str:
        if worker == _UNKNOWN:
            return "○ unknown"
        row = next((row for row in self.crew if row.worker_id == int(worker)), None)
        if row is None:
            return f"○ {worker:.0f}"
        return " ".join(filter(None, ("●" if row.alive else "○", f"{worker:.0f}", row.host, row.device)))

    def _window(self, bars: Bars) -> tuple[float, float]:
        """First and last moment drawn."""
        first, last = float(bars.start.min()), float(bars.end.max())
        last = max(last, first + 1.0)
        if not self._closer:
            return first, last
        span = (last - first) / 2**self._closer
        found = np.flatnonzero(bars.number == self.cursor)
        middle = float(bars.start[found[0]] + bars.end[found[0]]) / 2 if len(found) else last
        start = min(max(first, middle - span / 2), last - span)
        return start, start + span

    def _row(self, sketch: Sketch, y: int, left: int, edges: np.ndarray, every: Bars, shown: Bars) -> None:
        cells, each = len(edges) - 1, float(edges[1] - edges[0])
        if len(every.number) > len(shown.number):
            hidden = busy(every.start, every.end, edges) > 0
            columns = left + np.flatnonzero(hidden)
            sketch.signs(columns, np.full(len(columns), y), "╌", "faint")
        times = np.stack(
            [busy(shown.start[shown.state == s], shown.end[shown.state == s], edges) for s in range(len(SIGNS))]
        )
        total, most = times.sum(axis=0), times.argmax(axis=0)
        for state, (sign, look) in enumerate(SIGNS.values()):
            mostly = np.flatnonzero((most == state) & (total >= each / 2))
            sketch.signs(left + mostly, np.full(len(mostly), y), sign, look)
        partly = np.flatnonzero((total > each * 1e-6) & (total < each / 2))
        sketch.signs(left + partly, np.full(len(partly), y), PARTLY, "quiet")
        first, last = _cells(shown.start, edges), _cells(shown.end, edges)
        inside = (shown.end > edges[0]) & (shown.start < edges[-1])
        for place in np.flatnonzero(inside & (last - first >= 2)).tolist():
            number = f"│{shown.number[place]}"
            sign = number if len(number) <= last[place] - first[place] else "│"
            sketch.write(left + int(first[place]), y, sign, SIGNS[list(SIGNS)[shown.state[place]]][1])
        for fault in _FAULTS:  # short ones, too, where they are few
            index = list(SIGNS).index(fault)
            there = inside & (shown.state == index)
            if there.sum() <= cells // 4:
                sketch.signs(left + last[there], np.full(int(there.sum()), y), *SIGNS[fault])

    def _signs(self, sketch: Sketch, chosen: np.ndarray, sign: str, look: str) -> None:
        """A sign in the middle of the bars where `chosen`."""
        shown, here, edges = self._bars, self._here, self._edges
        assert shown is not None
        for place in np.flatnonzero(chosen & np.isin(shown.worker, here)).tolist():
            middle = (shown.start[place] + shown.end[place]) / 2
            if edges[0] <= middle <= edges[-1]:
                column = self._left + int(_cells(np.array([middle]), edges)[0])
                sketch.signs(np.array([column]), np.array([1 + here.index(shown.worker[place])]), sign, look)

    def _doubtful(self, board: Board, shown: Bars) -> np.ndarray:
        """When the trials with doubtful latencies ended, float [n]."""
        flags = board.coded("latency_flag")
        assert flags is not None
        found: np.ndarray = shown.end[np.isin(shown.number, board.numbers[flags.where(len(board), bool)])]
        return found

    def _beneath(self, sketch: Sketch, row: int, doubtful: np.ndarray) -> None:
        """What disturbs measurements, beneath what was measured meanwhile."""
        edges = self._edges
        if len(doubtful):
            inside = doubtful[(doubtful >= edges[0]) & (doubtful <= edges[-1])]
            draw_doubtful(sketch, row, self._left, _cells(inside, edges))
            row += 1
        draw_devices(sketch, row, self._left, edges, self.readings)

    def _legend(self, sketch: Sketch, shown: Bars) -> None:
        there = set(np.unique(shown.state).tolist())
        x = 0
        for index, (state, (sign, look)) in enumerate(SIGNS.items()):
            if index in there and x + 3 + len(state) <= sketch.width:
                sketch.write(x, sketch.height - 1, sign, look)
                sketch.write(x + 2, sketch.height - 1, str(state), "quiet")
                x += 4 + len(state)
        if x + 8 <= sketch.width:
            sketch.write(x, sketch.height - 1, f"{PARTLY} idle", "quiet")

    def _readout(self, bars: Bars) -> tuple[str, ...]:
        found = np.flatnonzero(bars.number == self.cursor)
        if not len(found):
            return ()
        place = int(found[0])
        took = words.duration(float(bars.end[place] - bars.start[place]))
        state = list(SIGNS)[bars.state[place]]
        return f"#{self.cursor}", str(state), took, f"from {said(float(bars.start[place]), 1)}"


def _cells(moments: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Which cell each moment [n] is in, the outermost for those beyond; int [n]."""
    cells = len(edges) - 1
    found = np.floor((moments - edges[0]) / (edges[-1] - edges[0]) * cells)
    return np.clip(found, 0, cells - 1).astype(np.int64)
