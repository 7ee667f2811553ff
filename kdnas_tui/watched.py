"""What is known of the study that is watched: its rows, trials and curves, and the cursor, filter and order on them.

All screens over one study share one `Watched`. It takes news from the feed and answers questions; it draws nothing,
asks nothing of the store and knows no Textual.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from kdnas.study.columns import CodedColumn
from kdnas.study.constraints import of_study
from kdnas.study.filter import COLUMNS, Filter, parse
from kdnas.study.loan import EVENT as LENT
from kdnas.study.ranking import Scored
from kdnas.study.rows import CurvePoint, EpisodeRow, EventRow, RunRow, Status, StudyRow, WorkerRow
from kdnas.study.time_budget import in_time
from kdnas.study.trial_columns import Board
from kdnas.system.errors import UsageError
from kdnas.system.time_left import FEWEST, Span, span
from kdnas_tui import filter_words
from kdnas_tui.feed import News

if TYPE_CHECKING:
    from kdnas.store.advising import Remarks
    from kdnas_tui.machine import Reading


READ_S = 10.0  # between two readings of devices that are remembered
MOST_READINGS = 5000  # some fourteen hours of them


class Watched:
    """The study `name`; `study` and `trials` are None until the feed has brought them."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.study: StudyRow | None = None
        self.trials: Board | None = None
        self.crew: list[WorkerRow] = []
        self.curves: dict[int, list[CurvePoint]] = {}
        self.provenance: dict[str, Any] = {}
        self.remarks: Remarks | None = None
        self.episodes: list[EpisodeRow] = []
        self.events: list[EventRow] = []  # what was changed on the study, oldest first
        self.runs: list[RunRow] = []  # models made of candidates, and their scores
        self.devices: tuple[Reading, ...] = ()  # readings of this machine, while a worker runs on it
        self.readings: deque[tuple[float, tuple[Reading, ...]]] = deque(maxlen=MOST_READINGS)  # since it was opened
        self.last_log = ""
        self.fault = ""  # why the store cannot be read, while it cannot
        self.filter: Filter = parse("")
        self.mask: np.ndarray | None = None  # of the trials that pass the filter; None where all do
        self.cursor: int | None = None
        self.sort_key, self.descending = "reward", True
        self.redraw: Callable[[], None] | None = None  # called where something changed that the store does not know
        self._marks: dict[int, bool] = {}  # of trials, in place of those in the store
        self._followers: list[Callable[[int], None]] = []

    # ------------------------------------------------------------------ news

    def take(self, news: News) -> bool:
        """Take in what is new; True where trials, study or curves changed."""
        if news.error is not None:
            self.fault = f"{news.error.problem} {news.error.hint}"
        if news.healed or news.study is not None:
            self.fault = ""
        if news.study is not None and (self.study is None or news.study.study_id == self.study.study_id):
            self.study, self.name = news.study, news.study.name
        if news.board is not None:
            self.trials = news.board
        if self.trials is not None:
            self.trials.update(list(news.trials.values()))
            self._mark_again()
            if self.study is not None:
                self.trials.rescore(self.study.alpha, self.study.beta, of_study(self.study))
        for part, value in (
            ("crew", news.workers),
            ("provenance", news.provenance),
            ("remarks", news.remarks),
            ("episodes", news.episodes),
            ("events", news.events),
            ("runs", news.runs),
            ("devices", news.devices),
        ):
            if value is not None:
                setattr(self, part, value)
        self.curves.update(news.curves)
        if news.logs:
            self.last_log = news.logs[-1].line
        changed = news.board is not None or news.study is not None or bool(news.trials or news.curves)
        if changed:
            self._filter_again()
        return changed

    def keep_reading(self, now: float) -> None:
        """Remember how busy the devices are, so often that a night has room."""
        if self.devices and (not self.readings or now - self.readings[-1][0] >= READ_S):
            self.readings.append((now, self.devices))

    # ------------------------------------------------------------------ filter

    def use_filter(self, text: str, *, typing: bool = False) -> bool:
        """Filter by the text; True where that shows other trials. Raises FilterError and keeps the last good filter.

        While it is typed, only what is finished of it filters.
        """
        keys = frozenset() if self.trials is None else self.trials.keys()
        chosen = parse(filter_words.finished(text, self._values) if typing else text, keys)
        if chosen == self.filter:
            return False
        self.filter = chosen
        self._filter_again()
        return True

    def completed(self, text: str) -> str | None:
        """The filter with its last word written out; None where it cannot go on."""
        return filter_words.completed(text, () if self.trials is None else self.trials.keys(), self._values)

    def _values(self, key: str) -> list[str]:
        """The words that trials have under a key of the filter, the most frequent kind of value only."""
        if self.trials is None:
            return []
        column = COLUMNS.get(key)
        found = [self.trials.coded(column.field or "")] if column is not None else self.trials.keyed(key)
        words = (value for coded in found if isinstance(coded, CodedColumn) for value in coded.values[1:])
        parts = (part for value in words for part in (value if isinstance(value, tuple) else (value,)))
        return sorted({part for part in parts if isinstance(part, str) and part and " " not in part})

    def _filter_again(self) -> None:
        everything = self.trials is None or not len(self.trials) or self.filter.empty
        self.mask = None if everything or self.trials is None else self.trials.mask(self.filter)

    def mark_here(self, number: int, marked: bool) -> None:
        """Mark a trial for as long as it is watched; the store is left as it is."""
        self._marks[number] = marked
        self._mark_again()
        self._filter_again()
        if self.redraw is not None:
            self.redraw()

    def _mark_again(self) -> None:
        for number, marked in self._marks.items():
            scored = self.trials.scored(number) if self.trials is not None else None
            if self.trials is not None and scored is not None and scored.row.marked is not marked:
                self.trials.update([replace(scored.row, marked=marked)])

    # ------------------------------------------------------------------ cursor

    def follow(self, heard: Callable[[int], None]) -> None:
        """Call `heard` with the trial's number whenever the cursor has moved."""
        self._followers.append(heard)

    def point_at(self, number: int) -> None:
        """Put the cursor on a trial."""
        if number != self.cursor:
            self.cursor = number
            for heard in self._followers:
                heard(number)

    def check_shown(self, number: int) -> None:
        """Raises UsageError where there is no such trial, or the filter hides it."""
        numbers = self.trials.numbers if self.trials is not None else np.zeros(0, dtype=np.int64)
        places = np.flatnonzero(numbers == number)
        if not len(places):
            there = f"They go from {numbers.min()} to {numbers.max()}." if len(numbers) else "There is none yet."
            raise UsageError(f"There is no trial {number}.", there)
        if self.mask is not None and not self.mask[places[0]]:
            raise UsageError(f"The filter hides trial {number}.", "Clear the filter to see all trials.")

    def step(self, by: int) -> None:
        """Move the cursor in the table's order; it stops at both ends."""
        if self.trials is None or not len(self.trials):
            return
        places = self.trials.order(self.sort_key, descending=self.descending, mask=self.mask)
        numbers = self.trials.numbers[places]
        found = np.flatnonzero(numbers == self.cursor) if self.cursor is not None else places[:0]
        if len(numbers):
            here = int(found[0]) + by if len(found) else 0
            self.point_at(int(numbers[max(0, min(here, len(numbers) - 1))]))

    # ------------------------------------------------------------------ answers

    def current(self) -> Scored | None:
        """The trial under the cursor."""
        if self.trials is None or self.cursor is None:
            return None
        return self.trials.scored(self.cursor)

    def marked(self) -> list[Scored]:
        """The marked trials, the best first."""
        if self.trials is None or not len(self.trials):
            return []
        return self.trials.ranked(self.trials.mask(parse("is:marked")))

    @property
    def lent(self) -> str:
        """What other studies lent this one when it began: `20 trials of films`; empty where nothing."""
        return next((str(event.detail.get("by", "")) for event in self.events if event.kind == LENT), "")

    def doing(self) -> str | None:
        """What the first worker that lives says it does."""
        return next((worker.doing for worker in self.crew if worker.alive and worker.doing), None)

    def eta(self, now: float) -> Span | None:
        """Seconds until the budget is spent, from and to; None where nothing can be said.

        By the times of what has finished here, as `span` tells them.
        """
        row = self.study
        if row is None or row.status is not Status.RUNNING or not row.workers:
            return None
        by_trials = None if row.open else self._by_trials(row, now)
        return by_trials if row.end is None else in_time(by_trials, row.end, now)

    def _by_trials(self, row: StudyRow, now: float) -> Span | None:
        """The same where the trials alone decide."""
        trials = self.trials
        if trials is None or not trials.whole:
            return None
        took = trials.column("duration")
        known = ~trials.mistimed()
        took = took[known & trials.evaluated()]
        if len(took) < FEWEST:
            return None
        begun = (now - trials.started()[known & trials.runs()]).tolist()
        left, mean, deviation = row.trials - row.done - row.waiting, float(took.mean()), float(took.std(ddof=1))
        if left <= 0 and row.waiting:
            return None  # nobody knows how soon they are timed
        return span(max(0, left), len(took), mean, deviation, float(took.max()), begun, row.workers)

    @property
    def sketched(self) -> bool:
        """Whether there is only a sketch of very many trials yet, which the next second completes."""
        return self.trials is not None and not self.trials.whole
