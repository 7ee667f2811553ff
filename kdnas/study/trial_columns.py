"""All trials of one study as columns: what screens rank, filter, sort and plot a hundred thousand of.

A trial takes some 300 bytes here and 2.5 KiB as a TrialRow; a TrialRow is made again for the few that are looked at.
Takes rows as they change; reads no store and draws nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import Any

import numpy as np

from kdnas.study import filter as language
from kdnas.study.filter import Filter, Node, Number
from kdnas.study.ranking import SCORED_STATES, Figures, LossKind, Scored, Standing, floats, rewards, stand
from kdnas.study.rows import TrialRow
from kdnas.study.states import TrialState

_FLOATS = (
    "predicted", "reward", "loss", "raw_loss", "latency_ms", "latency_p90_ms", "latency_low_ms",
    "latency_high_ms", "teacher_latency_ms", "memory_mib", "progress", "started", "ended", "mean_loss",
    "mean_raw_loss", "loss_spread",
)  # fmt: skip
_INTS = (
    "number", "slot", "seed", "parameters", "epoch", "revision", "repeats",
)  # fmt: skip
_CODED = (
    "state", "origin", "phase", "alpha", "beta", "latency_count", "latency_flag", "epochs", "reused_from", "error",
    "marked", "tags", "note",
)  # fmt: skip
_MAPPINGS = ("candidate", "config")
_RANKING = (  # what a ranking reads, beside the state
    "loss", "raw_loss", "mean_loss", "mean_raw_loss", "loss_spread", "repeats", "latency_ms", "latency_low_ms",
    "latency_high_ms", "teacher_latency_ms",
)  # fmt: skip
_SMALL = frozenset(_INTS) - {"parameters", "seed"}  # counts and numbers, which fit in 32 bits


class _Absent:
    """Stands for a key that a candidate, configuration or recipe's figures do not have."""

    def __repr__(self) -> str:
        return "ABSENT"


ABSENT = _Absent()


@dataclass(frozen=True)
class Same:
    """A column in which every row has one value."""

    value: Any


@dataclass(frozen=True)
class Columns:
    """n trials by column: `fields` are those of TrialRow, the others go by key; ABSENT where a row lacks the key."""

    fields: Mapping[str, Sequence[Any] | Same]
    candidate: Mapping[str, Sequence[Any] | Same]
    config: Mapping[str, Sequence[Any] | Same]
    extra: Mapping[str, Sequence[Any] | Same]


def by_key(mappings: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Mappings as columns, in the order in which their keys first come."""
    keys: dict[str, None] = {}
    for found in dict.fromkeys(map(tuple, mappings)):
        keys.update(dict.fromkeys(found))
    return {key: [mapping.get(key, ABSENT) for mapping in mappings] for key in keys}


_FIELDS = {  # keys of the filter language that are fields of a row as they stand
    "number": "number", "slot": "slot", "predicted": "predicted", "normalised": "loss", "raw": "raw_loss",
    "spread": "loss_spread", "repeats": "repeats", "latency": "latency_ms", "p90": "latency_p90_ms",
    "low": "latency_low_ms", "high": "latency_high_ms", "teacher": "teacher_latency_ms", "params": "parameters",
    "memory": "memory_mib", "epoch": "epoch", "epochs": "epochs", "progress": "progress", "seed": "seed",
    "state": "state", "origin": "origin", "phase": "phase", "flag": "latency_flag", "error": "error", "note": "note",
    "tag": "tags",
}  # fmt: skip


class _Coded:
    """A column of few different values: a small number per row, and what each number stands for."""

    def __init__(self, capacity: int) -> None:
        self.values: list[Any] = [ABSENT]
        # By type, since True == 1 == 1.0; a list or a mapping is known by what it says.
        self._known: defaultdict[type, dict[Any, int]] = defaultdict(dict, {_Absent: {ABSENT: 0}})
        self.codes = np.zeros(capacity, dtype=np.uint8)

    def put(self, places: np.ndarray, values: Sequence[Any] | Same) -> None:
        codes = [self._code(values.value)] if isinstance(values, Same) else self._codes(values)
        if len(self.values) > np.iinfo(self.codes.dtype).max:
            self.codes = self.codes.astype(np.min_scalar_type(len(self.values)))
        self.codes[places] = codes[0] if isinstance(values, Same) else np.array(codes, dtype=self.codes.dtype)

    def _codes(self, values: Sequence[Any]) -> list[int]:
        kinds = set(map(type, values))
        if len(kinds) > 1 or not kinds.isdisjoint((list, dict)):
            return list(map(self._code, values))
        (kind,) = kinds
        known = self._known[kind]
        for value in set(values).difference(known):
            self._code(value)
        return list(map(known.__getitem__, values))

    def _code(self, value: Any) -> int:
        kind = type(value)
        key = repr(value) if kind in (list, dict) else value
        code = self._known[kind].get(key)
        if code is None:
            code = self._known[kind][key] = len(self.values)
            self.values.append(value)
        return code

    def get(self, place: int) -> Any:
        return self.values[self.codes[place]]

    def where(self, n: int, test: Callable[[Any], bool]) -> np.ndarray:
        """Which of the first n rows' values pass; the test is made once for each different value."""
        passing = [value is not ABSENT and test(value) for value in self.values]
        return np.array(passing, dtype=bool)[self.codes[:n]]

    def sortable(self, n: int) -> np.ndarray:
        """Floats [n] in the order of the values: numbers as they are, words alphabetically, nothing as NaN."""
        if all(_is_number(value) for value in self.values[1:]):
            table = [np.nan, *map(float, self.values[1:])]
        else:
            ordered = sorted({_text(value) for value in self.values[1:]} - {""})
            ranks = {text: float(place) for place, text in enumerate(ordered)}
            table = [np.nan, *(ranks.get(_text(value), np.nan) for value in self.values[1:])]
        return np.array(table)[self.codes[:n]]


class Board:
    """The trials of one study, ranked for one α and β. Rows are put in and replaced by trial number."""

    def __init__(self, alpha: float, beta: float, loss: LossKind = "normalised", *, whole: bool = True) -> None:
        self.alpha = alpha
        self.beta = beta
        self.loss = loss
        self.whole = whole  # else only what ranks, lists and plots the trials is here
        self.revision = -1  # the latest that was put in: ask the store for what is newer
        self.changes = 0  # how often something was put in
        self._n = 0
        self._capacity = 256
        self._columns: dict[str, np.ndarray] = {
            **{name: _nothing(self._capacity) for name in _FLOATS},
            **{name: np.empty(self._capacity, dtype=np.int32 if name in _SMALL else np.int64) for name in _INTS},
        }
        self._coded = {name: _Coded(self._capacity) for name in _CODED}
        self._mappings: dict[str, dict[str, _Coded]] = {name: {} for name in _MAPPINGS}
        self._extra: dict[str, np.ndarray] = {}
        self._place = np.full(self._capacity, -1, dtype=np.int64)  # trial number → place
        self._standing: Standing | None = None
        self._used: np.ndarray | None = None  # what `_loss_used` found, until rows change

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

    def update(self, rows: Sequence[TrialRow]) -> None:
        """Put in new rows and replace those of the same number."""
        if not rows:
            return
        rows = list({row.number: row for row in rows}.values())
        self.put(
            Columns(
                {name: list(map(attrgetter(name), rows)) for name in (*_FLOATS, *_INTS, *_CODED)},
                by_key([row.candidate for row in rows]),
                by_key([row.config for row in rows]),
                by_key([row.extra for row in rows]),
            )
        )

    def put(self, trials: Columns) -> None:
        """The same for rows that come as columns. Their numbers differ."""
        numbers = _whole_column(trials.fields["number"], 1, _as_ints)
        if not len(numbers):
            return
        known = self._n
        places = self._places_for(numbers)
        old = places[places < known]
        before = None if self._standing is None else self._ranked_by(old)
        for name in _FLOATS:
            figures = _whole_column(trials.fields[name], len(places), _as_floats)
            if not self._columns[name].flags.writeable:
                if np.isnan(figures).all():
                    continue
                self._columns[name] = self._columns[name].copy()
            self._columns[name][places] = figures
        for name in _INTS:
            column = self._columns[name]
            values = _whole_column(trials.fields[name], len(places), _as_ints)
            column[places] = np.where(values == _NONE, _least(column), values)
        for name in _CODED:
            self._coded[name].put(places, trials.fields[name])
        for name, by_name in (("candidate", trials.candidate), ("config", trials.config)):
            columns = self._mappings[name]
            for key in dict.fromkeys((*columns, *by_name)):
                if key not in columns:
                    columns[key] = _Coded(self._capacity)
                columns[key].put(places, by_name.get(key, Same(ABSENT)))
        for key in dict.fromkeys((*self._extra, *trials.extra)):
            column = self._extra.setdefault(key, np.full(self._capacity, np.nan))
            column[places] = _whole_column(trials.extra.get(key, Same(None)), len(places), _as_floats)
        self.revision = max(self.revision, int(self._columns["revision"][places].max()))
        self.changes += 1
        self._used = None
        if self._standing is None or before is None:
            return
        # Nothing moves in the ranking when a trial begins, gets on, or is marked, which is most of what happens.
        after = self._ranked_by(old)
        if not _same(before.figures, after.figures) or self._scored(places[places >= known]).any():
            self._standing = None
        elif self._n > known or not _same(before.looks, after.looks):
            self._standing = _longer(self._standing, self._n - known)

    def rescore(self, alpha: float, beta: float) -> None:
        """Rank for another α and β."""
        if (alpha, beta) != (self.alpha, self.beta):
            self.alpha, self.beta = alpha, beta
            self._standing = None

    @property
    def standing(self) -> Standing:
        """Reward, rank, ties and front by place, computed where something changed since the last time."""
        self.rank()
        assert self._standing is not None
        return self._standing

    def rank(self) -> bool:
        """Compute the standing; False where it was known."""
        if self._standing is not None:
            return False
        self._standing = stand(self._figures(), self.alpha, self.beta)
        return True

    def best_for(self, alpha: float, beta: float, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Places and rewards of the `count` best for another α and β, the best first; the board stays as it is."""
        ranked, columns = self.standing.order, self._columns
        values = rewards(
            self._loss_used()[ranked], columns["latency_ms"][ranked], columns["teacher_latency_ms"][ranked], alpha, beta
        )
        if count < len(ranked):
            least = np.partition(values, len(values) - count)[len(values) - count]
            ranked, values = ranked[values >= least], values[values >= least]
        first = np.lexsort((self.numbers[ranked], -values))[:count]
        return ranked[first], values[first]

    def scored(self, number: int) -> Scored | None:
        """The trial of this number, None where there is none."""
        if not 0 <= number < len(self._place) or self._place[number] < 0:
            return None
        return self.at(int(self._place[number]))

    def best(self, count: int) -> list[Scored]:
        """The `count` best, the best first."""
        return [self.at(place) for place in self.standing.order[:count].tolist()]

    def ranked(self, mask: np.ndarray | None = None) -> list[Scored]:
        """All trials (where the mask is), as `ranking.rank` orders them: for exports, not for every tick."""
        rank = self.standing.rank
        places = np.lexsort((self.numbers, np.where(rank > 0, rank, np.iinfo(np.int64).max)))
        return [self.at(place) for place in places.tolist() if mask is None or mask[place]]

    def at(self, place: int) -> Scored:
        """The trial at a place of the columns."""
        standing = self.standing
        used = self._loss_used()[place]
        return Scored(
            self.row(place),
            None if np.isnan(standing.reward[place]) else float(standing.reward[place]),
            int(standing.rank[place]) or None,
            bool(standing.tie[place]),
            bool(standing.front[place]),
            None if np.isnan(used) else float(used),
        )

    def row(self, place: int) -> TrialRow:
        """The row as it was put in."""
        values: dict[str, Any] = {}
        for name in _FLOATS:
            value = float(self._columns[name][place])
            values[name] = None if value != value else value
        for name in _INTS:
            whole = int(self._columns[name][place])
            values[name] = None if whole == _least(self._columns[name]) else whole
        for name in _CODED:
            values[name] = self._coded[name].get(place)
        for name in _MAPPINGS:
            found = ((key, column.get(place)) for key, column in self._mappings[name].items())
            values[name] = {key: value for key, value in found if value is not ABSENT}
        figures = ((key, float(column[place])) for key, column in self._extra.items())
        values["extra"] = {key: figure for key, figure in figures if figure == figure}  # NaN is not given
        return TrialRow(**values)

    def keys(self) -> frozenset[str]:
        """Every candidate key, configuration key and recipe's figure, for `kdnas.study.filter.parse`."""
        return frozenset().union(*self._mappings.values(), self._extra)

    def candidate_keys(self) -> list[str]:
        """The dimensions of the candidates, in the space's order."""
        return list(self._mappings["candidate"])

    def varying_keys(self) -> set[str]:
        """Candidate and configuration keys that have had more than one value."""
        return {key for columns in self._mappings.values() for key, column in columns.items() if len(column.values) > 2}

    def ended(self) -> np.ndarray:
        """When each trial ended, UTC seconds, NaN while it runs; float [n]."""
        return self._columns["ended"][: self._n]

    def began(self) -> float:
        """When the first trial began, UTC seconds."""
        return float(self._columns["started"][: self._n].min()) if self._n else 0.0

    def told(self) -> np.ndarray:
        """The reward that each trial was told with, at the α and β of then, NaN where none; float [n]."""
        return self._columns["reward"][: self._n]

    def running(self) -> list[int]:
        """Numbers of the trials that run."""
        running = self._coded["state"].where(self._n, lambda state: state == TrialState.RUNNING)
        found: list[int] = self.numbers[running].tolist()
        return found

    def marked(self) -> np.ndarray:
        """Which trials are marked, bool [n]."""
        return self._coded["marked"].where(self._n, bool)

    def tagged(self) -> bool:
        """Whether any trial has a tag."""
        return any(self._coded["tags"].values[1:])

    def column(self, key: str) -> np.ndarray:
        """Floats [n] of a key of the filter language, in its order where it is text; missing values are NaN."""
        n = self._n
        if key in _FIELDS:
            name = _FIELDS[key]
            if name in _FLOATS:
                return self._columns[name][:n]
            if name in _INTS:
                whole = self._columns[name][:n]
                return np.where(whole == _least(whole), np.nan, whole)
            return self._coded[name].sortable(n)
        match key:
            case "reward":
                return self.standing.reward
            case "rank":
                return np.where(self.standing.rank > 0, self.standing.rank, np.nan)
            case "loss":
                return self._loss_used()
            case "speedup":
                with np.errstate(divide="ignore", invalid="ignore"):
                    return self._columns["teacher_latency_ms"][:n] / self._columns["latency_ms"][:n]
            case "duration":
                return self._columns["ended"][:n] - self._columns["started"][:n]
            case "interval":
                return self._columns["latency_high_ms"][:n] - self._columns["latency_low_ms"][:n]
        found = np.full(n, np.nan)
        for values, present in reversed(list(self._key_columns(key, lambda column: column.sortable(n)))):
            found = np.where(present, values, found)
        return found

    def order(self, key: str, *, descending: bool = False, mask: np.ndarray | None = None) -> np.ndarray:
        """Places (where the mask is) sorted by a key, missing values last, equal ones by trial number; int [m]."""
        places = np.arange(self._n) if mask is None else np.flatnonzero(mask)
        values = self.column(key)[places]
        numbers = self.numbers[places]
        if key in ("reward", "rank"):  # below the ranked ones first what runs, then the newest
            running = self._coded["state"].where(self._n, lambda state: state == TrialState.RUNNING)[places]
            values = np.where(self.standing.rank[places] > 0, values, np.nan)
            unranked = np.isnan(values)
            numbers = np.where(unranked, -numbers - np.where(running, self._n + 1e9, 0), numbers)
        return places[np.lexsort((numbers, -values if descending else values))]

    def mask(self, chosen: Filter) -> np.ndarray:
        """Which trials pass, bool [n]: what `chosen.matches` says of each."""
        return self._mask(chosen.root)

    def _mask(self, node: Node) -> np.ndarray:
        n = self._n
        match node:
            case language.Everything():
                return np.ones(n, dtype=bool)
            case language.Not(part):
                return ~self._mask(part)
            case language.And(parts):
                return np.logical_and.reduce([self._mask(part) for part in parts])
            case language.Or(parts):
                return np.logical_or.reduce([self._mask(part) for part in parts])
            case language.Fact(name):
                return self._fact(name)
            case language.Word(text):
                return self._word(language.word_test(text))
            case language.Compare():
                return self._compare(node)

    def _fact(self, name: str) -> np.ndarray:
        match name:
            case "front":
                return self.standing.front
            case "tie":
                return self.standing.tie
            case "ranked":
                return self.standing.rank > 0
            case "repeated":
                return self._columns["repeats"][: self._n] > 0
            case "flagged":
                return self._coded["latency_flag"].where(self._n, bool)
            case _:
                return self.marked()

    def _word(self, test: Callable[[Any], bool]) -> np.ndarray:
        found = self._coded["note"].where(self._n, lambda note: note != "" and test(note))
        found |= self._coded["tags"].where(self._n, lambda tags: any(test(tag) for tag in tags))
        for columns in self._mappings.values():
            for column in columns.values():
                found |= column.where(self._n, test)
        return found

    def _compare(self, node: language.Compare) -> np.ndarray:
        test = language.value_test(node)
        if node.key in language.COLUMNS:
            if _FIELDS.get(node.key) in _CODED:
                return self._coded[_FIELDS[node.key]].where(self._n, test)
            return _numbers_where(self.column(node.key), node)
        passing = np.zeros(self._n, dtype=bool)
        for values, present in reversed(list(self._key_columns(node.key, lambda c: c.where(self._n, test)))):
            if values.dtype != bool:
                values = np.fromiter(map(test, values.tolist()), bool, self._n)
            passing = np.where(present, values, passing)
        return passing

    def _key_columns(self, key: str, of: Callable[[_Coded], np.ndarray]) -> Iterable[tuple[np.ndarray, np.ndarray]]:
        """What `of` makes of each column that holds the key, and where it is present; the first present one counts."""
        for name in language.ALIASES.get(key, (key,)):
            for columns in self._mappings.values():
                if name in columns:
                    yield of(columns[name]), columns[name].codes[: self._n] != 0
            if name in self._extra:
                values = self._extra[name][: self._n]
                yield values, ~np.isnan(values)

    def _scored(self, places: np.ndarray) -> np.ndarray:
        """Which of these have a result, bool [m]."""
        state = self._coded["state"]
        return np.array([value in SCORED_STATES for value in state.values], dtype=bool)[state.codes[places]]

    def _ranked_by(self, places: np.ndarray) -> _RankedBy:
        """What decides on the ranking of these, and what else of them is told by place; without results, nothing."""
        state, scored = self._coded["state"].codes[places], self._scored(places)
        figures = [np.where(scored, self._columns[name][places], 0) for name in _RANKING]
        return _RankedBy((*figures, np.where(scored, state, 0)), (state, self._coded["marked"].codes[places]))

    def _loss_used(self) -> np.ndarray:
        if self._used is None:
            single, mean = ("loss", "mean_loss") if self.loss == "normalised" else ("raw_loss", "mean_raw_loss")
            means = self._columns[mean][: self._n]
            self._used = np.where(np.isnan(means), self._columns[single][: self._n], means)
        return self._used

    def _figures(self) -> Figures:
        n, columns = self._n, self._columns
        means = columns["mean_loss"][:n]
        with np.errstate(invalid="ignore", divide="ignore"):
            spread = columns["loss_spread"][:n] / np.abs(np.where(np.isnan(means), columns["loss"][:n], means))
        state = self._coded["state"]
        return Figures(
            number=self.numbers,
            done=state.where(n, lambda value: value == TrialState.DONE),
            scored=state.where(n, lambda value: value in SCORED_STATES),
            loss=self._loss_used(),
            latency_ms=columns["latency_ms"][:n],
            low_ms=columns["latency_low_ms"][:n],
            high_ms=columns["latency_high_ms"][:n],
            teacher_latency_ms=columns["teacher_latency_ms"][:n],
            spread=spread,
            repeats=columns["repeats"][:n],
        )

    def _places_for(self, numbers: np.ndarray) -> np.ndarray:
        highest = int(numbers.max())
        if highest >= len(self._place):
            self._place = _grown(self._place, max(highest + 1, 2 * len(self._place)), fill=-1)
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
        self._columns = {name: _grown(column, capacity) for name, column in self._columns.items()}
        self._extra = {key: _grown(column, capacity, fill=np.nan) for key, column in self._extra.items()}
        for columns in (self._coded, *self._mappings.values()):
            for column in columns.values():
                column.codes = _grown(column.codes, capacity, fill=0)


@dataclass(frozen=True)
class _RankedBy:
    figures: tuple[np.ndarray, ...]
    looks: tuple[np.ndarray, ...]


def _same(one: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> bool:
    return all(np.array_equal(a, b, equal_nan=a.dtype.kind == "f") for a, b in zip(one, other, strict=True))


def _nothing(capacity: int) -> np.ndarray:
    """A column of NaN that takes no room, until somebody has a figure to write."""
    return np.broadcast_to(np.array(np.nan), capacity)


def _grown(array: np.ndarray, capacity: int, fill: float | None = None) -> np.ndarray:
    if not array.flags.writeable:
        return _nothing(capacity)
    grown = np.empty(capacity, dtype=array.dtype)
    grown[: len(array)] = array
    if fill is not None:
        grown[len(array) :] = fill
    return grown


def _longer(standing: Standing, by: int) -> Standing:
    """Another one with so many more trials that have no result yet: whoever saw the one before draws again."""
    return Standing(
        np.concatenate((standing.reward, np.full(by, np.nan))),
        np.concatenate((standing.rank, np.zeros(by, dtype=standing.rank.dtype))),
        np.concatenate((standing.tie, np.zeros(by, dtype=bool))),
        np.concatenate((standing.front, np.zeros(by, dtype=bool))),
        standing.order,
    )


def _numbers_where(values: np.ndarray, node: language.Compare) -> np.ndarray:
    """The vectorised `number_test`; NaN passes nothing."""
    numbers = [number for number in node.wanted if isinstance(number, Number)]
    limit = numbers[0].value
    match node.op:
        case "<":
            return values < limit
        case "<=":
            return values <= limit
        case ">":
            return values > limit
        case ">=":
            return values >= limit
    equal = np.zeros(len(values), dtype=bool)
    for number in numbers:
        low, high = number.value - number.half, number.value + number.half
        equal |= ((low <= values) & (values < high)) | (values == number.value)
    return ~equal & ~np.isnan(values) if node.op == "!=" else equal


_NONE = np.iinfo(np.int64).min


def _least(column: np.ndarray) -> int:
    """What stands for None in a column of whole numbers."""
    return int(np.iinfo(column.dtype).min)


def _whole_column(values: Sequence[Any] | Same, n: int, of: Callable[[Sequence[Any]], np.ndarray]) -> np.ndarray:
    return np.repeat(of([values.value]), n) if isinstance(values, Same) else of(values)


def _as_floats(values: Sequence[Any]) -> np.ndarray:
    if values[0] is None and values.count(None) == len(values):
        return np.full(len(values), np.nan)
    try:
        return floats(values)
    except TypeError:
        return floats([None if value is ABSENT else value for value in values])


def _as_ints(values: Sequence[Any]) -> np.ndarray:
    if values[0] is None and values.count(None) == len(values):
        return np.full(len(values), _NONE)
    try:
        return np.array(values, dtype=np.int64)
    except TypeError:
        return np.array([_NONE if value is None else value for value in values], dtype=np.int64)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _text(value: Any) -> str:
    return " ".join(value) if isinstance(value, tuple) else "" if value is None else str(value)


assert set(_FLOATS) | set(_INTS) | set(_CODED) | set(_MAPPINGS) | {"extra"} == {f.name for f in fields(TrialRow)}
