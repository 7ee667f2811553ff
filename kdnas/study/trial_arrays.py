"""All trials of one study as arrays, a row put in and made again at its place: what ranks a hundred thousand of them.

A trial takes some 300 bytes here and 2.5 KiB as a TrialRow. Knows no reward and no ranking (trial_columns.py does).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from kdnas.study import filter as language
from kdnas.study.columns import (
    ABSENT,
    NONE,
    CodedColumn,
    Columns,
    Same,
    as_floats,
    as_ints,
    grown,
    least,
    nothing,
    whole_column,
)
from kdnas.study.ranking import SCORED_STATES
from kdnas.study.rows import RUNG, TrialRow
from kdnas.study.states import TrialState
from kdnas.study.trial_fields import CODED, FLOATS, INTS, MAPPINGS, SMALL
from kdnas.system.moments import CALENDAR_S


class TrialArrays:
    """By place, in the order in which the trials came; a trial is found by its number."""

    def __init__(self) -> None:
        self.revision = -1  # the latest that was put in: ask the store for what is newer
        self.changes = 0  # how often something was put in
        self._n = 0
        self._capacity = 256
        self._columns: dict[str, np.ndarray] = {
            **{name: nothing(self._capacity) for name in FLOATS},
            **{name: np.empty(self._capacity, dtype=np.int32 if name in SMALL else np.int64) for name in INTS},
        }
        self._coded = {name: CodedColumn(self._capacity) for name in CODED}
        self._mappings: dict[str, dict[str, CodedColumn]] = {name: {} for name in MAPPINGS}
        self._extra: dict[str, np.ndarray] = {}
        self._place = np.full(self._capacity, -1, dtype=np.int64)  # trial number → place

    def __len__(self) -> int:
        return self._n

    @property
    def numbers(self) -> np.ndarray:
        """Trial numbers by place, int [n]."""
        return self._columns["number"][: self._n]

    def reserve(self, count: int) -> None:
        """Make room for so many trials at once, with some to come."""
        if count > self._capacity:
            self._grow(count + count // 16)

    def row(self, place: int) -> TrialRow:
        """The row as it was put in."""
        values: dict[str, Any] = {}
        for name in FLOATS:
            value = float(self._columns[name][place])
            values[name] = None if value != value else value
        for name in INTS:
            whole = int(self._columns[name][place])
            values[name] = None if whole == least(self._columns[name]) else whole
        for name in CODED:
            values[name] = self._coded[name].get(place)
        for name in MAPPINGS:
            found = ((key, column.get(place)) for key, column in self._mappings[name].items())
            values[name] = {key: value for key, value in found if value is not ABSENT}
        figures = ((key, float(column[place])) for key, column in self._extra.items())
        values["extra"] = {key: figure for key, figure in figures if figure == figure}  # NaN is not given
        return TrialRow(**values)

    def keys(self) -> frozenset[str]:
        """Every candidate key, configuration key and recipe's figure, for `kdnas.study.filter.parse`."""
        return frozenset().union(*self._mappings.values(), self._extra)

    def dimensions(self) -> Mapping[str, CodedColumn]:
        """What the candidates hold, by dimension in the space's order."""
        return self._mappings["candidate"]

    def varying_keys(self) -> set[str]:
        """Candidate and configuration keys that have had more than one value."""
        return {key for columns in self._mappings.values() for key, column in columns.items() if len(column.values) > 2}

    def ended(self) -> np.ndarray:
        """When each trial ended, UTC seconds, NaN while it runs; float [n]."""
        return self._columns["ended"][: self._n]

    def started(self) -> np.ndarray:
        """When each trial began, UTC seconds; float [n]."""
        return self._columns["started"][: self._n]

    def began(self) -> float:
        """When the first trial of those that are not `mistimed` began, UTC seconds; 0 where there is none."""
        known = self.started()[~self.mistimed()]
        return float(known.min()) if len(known) else 0.0

    def mistimed(self) -> np.ndarray:
        """Which trials began or ended at no time of the calendar, as those of damaged rows do; bool [n]."""
        started, ended = self.started(), self.ended()
        open_end = np.isnan(ended) & ~self.evaluated()
        odd: np.ndarray = ~(_dated(started) & (_dated(ended) | open_end))
        return odd

    def rungs(self) -> np.ndarray:
        """The rung that each trial reached, NaN where none; float [n]."""
        return self._extra[RUNG][: self._n] if RUNG in self._extra else np.full(self._n, np.nan)

    def told(self) -> np.ndarray:
        """The reward that each trial was told with, at the α and β of then, NaN where none; float [n]."""
        return self._columns["reward"][: self._n]

    def running(self) -> list[int]:
        """Numbers of the trials that run."""
        found: list[int] = self.numbers[self.runs()].tolist()
        return found

    def runs(self) -> np.ndarray:
        """Which trials run, bool [n]."""
        return self._coded["state"].where(self._n, lambda state: state == TrialState.RUNNING)

    def evaluated(self) -> np.ndarray:
        """Which trials were evaluated here until they had a result, bool [n]."""
        return self._coded["state"].where(self._n, lambda state: state in (TrialState.DONE, TrialState.PRUNED))

    def states(self) -> frozenset[str]:
        """The states that trials have had."""
        return frozenset(self._coded["state"].values[1:])

    def flags(self) -> frozenset[str]:
        """Why latencies have been doubtful."""
        return frozenset(filter(None, self._coded["latency_flag"].values[1:]))

    def marked(self) -> np.ndarray:
        """Which trials are marked, bool [n]."""
        return self._coded["marked"].where(self._n, bool)

    def tagged(self) -> bool:
        """Whether any trial has a tag."""
        return any(self._coded["tags"].values[1:])

    def coded(self, field: str) -> CodedColumn | None:
        """The values of a row's field that has few different ones; None for a field of numbers."""
        return self._coded.get(field)

    def keyed(self, key: str) -> Iterable[CodedColumn | np.ndarray]:
        """What candidates, configurations and figures hold under a key or its short name; the first one counts."""
        for name in language.ALIASES.get(key, (key,)):
            for columns in self._mappings.values():
                if name in columns:
                    yield columns[name]
            if name in self._extra:
                yield self._extra[name][: self._n]

    def words(self) -> Iterable[CodedColumn]:
        """Everything that candidates and configurations hold."""
        for columns in self._mappings.values():
            yield from columns.values()

    def _scored(self, places: np.ndarray) -> np.ndarray:
        """Which of these have a result, bool [m]."""
        state = self._coded["state"]
        return np.array([value in SCORED_STATES for value in state.values], dtype=bool)[state.codes[places]]

    def _write(self, places: np.ndarray, trials: Columns) -> None:
        """Puts trials in at places that `_places_for` gave."""
        for name in FLOATS:
            figures = whole_column(trials.fields[name], len(places), as_floats)
            if not self._columns[name].flags.writeable:
                if np.isnan(figures).all():
                    continue
                self._columns[name] = self._columns[name].copy()
            self._columns[name][places] = figures
        for name in INTS:
            column = self._columns[name]
            values = whole_column(trials.fields[name], len(places), as_ints)
            column[places] = np.where(values == NONE, least(column), values)
        for name in CODED:
            self._coded[name].put(places, trials.fields[name])
        for name, by_name in (("candidate", trials.candidate), ("config", trials.config)):
            columns = self._mappings[name]
            for key in dict.fromkeys((*columns, *by_name)):
                if key not in columns:
                    columns[key] = CodedColumn(self._capacity)
                columns[key].put(places, by_name.get(key, Same(ABSENT)))
        for key in dict.fromkeys((*self._extra, *trials.extra)):
            column = self._extra.setdefault(key, np.full(self._capacity, np.nan))
            column[places] = whole_column(trials.extra.get(key, Same(None)), len(places), as_floats)
        self.revision = max(self.revision, int(self._columns["revision"][places].max()))
        self.changes += 1

    def _places_for(self, numbers: np.ndarray) -> np.ndarray:
        highest = int(numbers.max())
        if highest >= len(self._place):
            self._place = grown(self._place, max(highest + 1, 2 * len(self._place)), fill=-1)
        places = self._place[numbers]
        new = np.flatnonzero(places < 0)
        places[new] = np.arange(self._n, self._n + len(new))
        self._place[numbers] = places
        self._n += len(new)
        if self._n > self._capacity:
            self._grow(max(self._n, 2 * self._capacity))
        return places

    def _grow(self, capacity: int) -> None:
        self._capacity = capacity
        self._columns = {name: grown(column, capacity) for name, column in self._columns.items()}
        self._extra = {key: grown(column, capacity, fill=np.nan) for key, column in self._extra.items()}
        for columns in (self._coded, *self._mappings.values()):
            for column in columns.values():
                column.codes = grown(column.codes, capacity, fill=0)


def _dated(moments: np.ndarray) -> np.ndarray:
    """Which of these UTC seconds a calendar has, bool [n]."""
    found: np.ndarray = (moments >= CALENDAR_S[0]) & (moments < CALENDAR_S[1])
    return found
