"""Looks at the store once a second in a thread of its own, and says what is new.

It asks `PRAGMA data_version` first, then reads only rows that changed. They wait in a basket until the screen takes
them: a slow screen gets one bigger piece of news, never a queue. Writes nothing.
"""

from __future__ import annotations

import importlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kdnas.system.errors import KdnasError, UsageError
from kdnas_tui import memory, mishaps

if TYPE_CHECKING:
    from kdnas.store.advising import Remarks
    from kdnas.store.database import Store
    from kdnas.study.campaign_rows import CampaignRow
    from kdnas.study.rows import CurvePoint, EpisodeRow, EventRow, LogRow, RunRow, StudyRow, TrialRow, WorkerRow
    from kdnas.study.trial_columns import Board
    from kdnas_tui.machine import Probe, Reading

PERIOD_S = 1.0
DEVICES_S = 2.0
STATUS_S = 3.0  # a worker's death writes nothing: ask for the status this often all the same
LOG_LINES = 2000  # of the past, on opening
AHEAD = ("kdnas_tui.screens.study", "kdnas.study.export")  # one after each of the first looks
MANY = 20_000  # trials from which something slow is done in parts
_WHOLE = (
    "studies",
    "campaigns",
    "crew",
    "study",
    "workers",
    "episodes",
    "events",
    "runs",
    "provenance",
    "remarks",
    "devices",
)
"""What a newer piece of news replaces."""


@dataclass
class News:
    """What changed since the screen last took its news."""

    studies: list[StudyRow] | None = None  # the whole list, where it changed
    campaigns: list[CampaignRow] | None = None  # with `studies`: all of them
    crew: dict[int, list[WorkerRow]] | None = None  # with `studies`: the workers of those that have some
    study: StudyRow | None = None
    board: Board | None = None  # all trials, on opening, of many trials first a sketch; who takes it owns it
    trials: dict[int, TrialRow] = field(default_factory=dict)  # changed since
    workers: list[WorkerRow] | None = None
    episodes: list[EpisodeRow] | None = None
    curves: dict[int, list[CurvePoint]] = field(default_factory=dict)
    logs: list[LogRow] = field(default_factory=list)
    events: list[EventRow] | None = None
    runs: list[RunRow] | None = None
    provenance: dict[str, Any] | None = None
    remarks: Remarks | None = None  # what strategy `auto` takes, and what the next trials are expected to gain
    devices: tuple[Reading, ...] | None = None  # of this machine, while a worker runs on it
    error: KdnasError | None = None
    healed: bool = False  # the error before is over
    gone: bool = False  # the study was deleted

    def add(self, newer: News) -> None:
        if newer.board is not None:
            self.board, self.trials, self.logs = newer.board, {}, []
        self.trials.update(newer.trials)
        self.curves.update(newer.curves)
        self.logs.extend(newer.logs)
        for name in _WHOLE:
            value = getattr(newer, name)
            if value is not None:
                setattr(self, name, value)
        self.error = newer.error if newer.error or newer.healed else self.error
        self.healed = newer.healed if newer.error or newer.healed else self.healed
        self.gone = newer.gone or self.gone


class Feed(threading.Thread):
    """`waiting` is called in this thread whenever the basket stops being empty."""

    def __init__(self, url: str, waiting: Callable[[], None], period: float = PERIOD_S) -> None:
        super().__init__(name="feed", daemon=True)
        self.url = url
        self.period = period
        self._waiting = waiting
        self._wake = threading.Event()
        self._stopping = False
        self._mishap: tuple[str, KdnasError] | None = None  # the last fault that is none of the store's own
        self._lock = threading.Lock()
        self._basket: News | None = None
        self._wanted: tuple[str | None, int] = (None, 0)  # study name, None for the list; times asked
        self._curves_wanted: frozenset[int] = frozenset()
        self._store: Store | None = None
        self._look = _Look()
        self._probe: Probe | None = None
        self._probed_at = 0.0
        self.ticks = 0

    # ------------------------------------------------------------------ for the screens (any thread)

    def watch(self, study: str | None) -> None:
        """Look at one study from now on, or at the list of them; everything is sent anew."""
        with self._lock:
            self._wanted = (study, self._wanted[1] + 1)
            self._basket = None
        self._wake.set()

    def want_curves(self, numbers: frozenset[int]) -> None:
        if numbers != self._curves_wanted:
            self._curves_wanted = numbers
            self._wake.set()

    def look_now(self) -> None:
        """Look at once, for a change that this very screen has made."""
        self._wake.set()

    def take(self) -> News | None:
        with self._lock:
            basket, self._basket = self._basket, None
        return basket

    def stop(self) -> None:
        self._stopping = True
        self._wake.set()

    # ------------------------------------------------------------------ the thread

    def run(self) -> None:
        while not self._stopping:
            self.tick()
            self._load_ahead()
            self._wake.wait(self.period)
            self._wake.clear()
        if self._store is not None:
            self._store.close()

    def tick(self) -> None:
        """One look. Public, so that tests and benchmarks need no clock."""
        self.ticks += 1
        wanted = self._wanted
        if wanted != self._look.wanted:
            listed = self._look.studies
            known = {} if listed is None else {row.name: row for row in listed[0]}
            self._look = _Look(wanted, failed=self._look.failed, known=known)
        try:
            news = self._new()
        except Exception as fault:  # the thread must go on, whatever happens
            error = fault if isinstance(fault, KdnasError) else self._said(fault)
            self._reopen()
            news = News(error=error) if str(error) != self._look.failed else None
            self._look = _Look(wanted, failed=str(error))
        if news is not None:
            self._offer(news)

    def _said(self, fault: Exception) -> KdnasError:
        """A damaged row of the store, or else a mistake of ours, which is written down once: it comes at each look."""
        text = repr(fault)
        if self._mishap is None or self._mishap[0] != text:
            from kdnas.store.check import damage_of  # no start should pay for it

            self._mishap = text, damage_of(self.url) or mishaps.recorded(fault)
        return self._mishap[1]

    def _load_ahead(self) -> None:
        """Import what the next screen will need here, where it keeps nobody waiting."""
        if self.ticks <= len(AHEAD):
            importlib.import_module(AHEAD[self.ticks - 1])
            memory.freeze()

    def _offer(self, news: News) -> None:
        """Into the basket, unless something else is watched by now."""
        with self._lock:
            if self._wanted != self._look.wanted or self._stopping:
                return
            first = self._basket is None
            if self._basket is None:
                self._basket = News()
            self._basket.add(news)
        if first:
            self._waiting()

    def _reopen(self) -> None:
        if self._store is not None:
            self._store.close()
            self._store = None

    def _new(self) -> News | None:
        # Imported here: the first look happens after the first paint.
        from kdnas.store import campaigns, queries
        from kdnas.store.database import open_reader
        from kdnas.store.sqlite_file import NoStoreError

        if self._store is None:
            try:
                self._store = open_reader(self.url)
            except NoStoreError:
                if self._look.wanted[0] is not None:
                    raise
                first, self._look.studies = self._look.studies is None, ([], {}, [])
                return News(studies=[], crew={}, campaigns=[]) if first else None
        store, look = self._store, self._look
        version = queries.changed(store)
        now = time.monotonic()
        curves_wanted = self._curves_wanted
        devices = self._devices(now)
        if version == look.version and now - look.status_at < STATUS_S and curves_wanted == look.curves_wanted:
            return None if devices is None else News(devices=devices)
        stale = version != look.version
        healed = look.failed is not None
        news = News(healed=healed, devices=devices)
        name = look.wanted[0]
        if name is None:
            rows = queries.study_rows(store)
            crew = {row.study_id: queries.workers(store, row.study_id) for row in rows if row.heartbeat is not None}
            found = campaigns.campaign_rows(store)
            if (rows, crew, found) != look.studies or healed:
                news.studies, news.crew, news.campaigns = rows, crew, found
            look.studies = (rows, crew, found)
        else:
            self._new_of_study(queries, store, look, news, name, stale, curves_wanted)
        look.version, look.status_at, look.failed = version, now, None
        return None if news == _NOTHING else news

    def _devices(self, now: float) -> tuple[Reading, ...] | None:
        """How busy this machine is, where a worker of the study runs on it and it is time to look."""
        from kdnas.system.liveness import this_host

        study = self._look.study
        if study is None or this_host() not in study.hosts or now - self._probed_at < DEVICES_S:
            return None
        self._probed_at = now
        if self._probe is None:
            from kdnas_tui.machine import Probe

            self._probe = Probe()
        readings = self._probe.read()
        if readings == self._look.devices:
            return None
        self._look.devices = readings
        return readings

    def _new_of_study(
        self, queries: Any, store: Store, look: _Look, news: News, name: str, stale: bool, curves: frozenset[int]
    ) -> None:
        first = look.study is None
        if first and name in look.known:  # the list's row is fresh, and counting a long study takes a while
            self._offer_sketch(store, look.known[name])
        row = self._row(queries, store, look, name)
        if row is None:
            news.gone = not look.gone
            look.gone = True
            return
        if row != look.study:
            news.study = row
        if stale or first:
            if first:
                if name not in look.known:
                    self._offer_sketch(store, row)
                news.board, look.live = self._board(store, row)
                look.revision = news.board.revision
            else:
                found = queries.trial_rows(store, row.study_id, look.revision)
                news.trials = {trial.number: trial for trial in found}
                look.revision = max([look.revision, *(trial.revision for trial in found)])
                look.live |= {trial.number for trial in found if trial.state == "running"}
            logs = queries.logs(store, row.study_id, look.log, LOG_LINES)
            if logs:
                look.log = logs[-1].log_id
                news.logs = logs
            for part, read in (
                ("episodes", queries.episodes),
                ("events", queries.events),
                ("runs", queries.runs),
                ("provenance", queries.provenance),
            ):
                value = read(store, row.study_id)
                if value != look.parts.get(part):
                    look.parts[part] = value
                    setattr(news, part, value)
            self._remark(store, row, look, news)
        workers = queries.workers(store, row.study_id)
        if workers != look.parts.get("workers"):
            look.parts["workers"] = workers
            news.workers = workers
        asked = (curves - look.curves_wanted) | (curves | look.live if stale else frozenset())
        look.live -= {number for number, trial in news.trials.items() if trial.state != "running"}
        if asked:
            found_curves = queries.curves(store, row.study_id, sorted(asked))
            news.curves = {n: points for n, points in found_curves.items() if look.curves.get(n) != len(points)}
            look.curves.update({n: len(points) for n, points in found_curves.items()})
        look.curves_wanted = curves
        look.study = row

    def _remark(self, store: Store, row: StudyRow, look: _Look, news: News) -> None:
        """Ask for remarks where something changed that they go by; of many trials after one in twenty only, since they
        come from a model of all, which takes a second where there are hundreds."""
        from kdnas.store import advising

        asked = (
            row.done // (1 + row.done // 20),
            row.status,
            row.pruned,
            row.trials,
            row.alpha,
            row.beta,
            row.spec.get("constraints"),
        )
        if asked != look.parts.get("asked"):
            look.parts["asked"] = asked
            remarks = advising.remarks(store, row)
            if remarks != look.parts.get("remarks", advising.Remarks()):
                look.parts["remarks"] = news.remarks = remarks

    def _offer_sketch(self, store: Store, row: StudyRow) -> None:
        """What can be shown of a long study before all of it is read."""
        from kdnas.store.read_columns import sketch_board
        from kdnas.study.constraints import of_study

        if row.done >= MANY:
            sketch = sketch_board(store, row.study_id, row.alpha, row.beta, row.spec["reward"]["loss"], of_study(row))
            _ = sketch.standing
            self._offer(News(study=row, board=sketch))

    def _board(self, store: Store, row: StudyRow) -> tuple[Board, set[int]]:
        """All trials, ranked here rather than on the event loop, and the numbers of those that run."""
        from kdnas.store.read_columns import read_board
        from kdnas.study.constraints import of_study

        board = read_board(store, row.study_id, row.alpha, row.beta, row.spec["reward"]["loss"], of_study(row))
        live = set(board.running())
        if len(board):
            _ = board.standing
        return board, live

    def _row(self, queries: Any, store: Store, look: _Look, name: str) -> StudyRow | None:
        """The study, also under the name that somebody has given it meanwhile; None where it was deleted."""
        if look.study is None:
            found: StudyRow = queries.study_row(store, name)
            return found
        try:
            found = queries.study_of(store, look.study.study_id)
        except UsageError:
            return None
        return found


@dataclass
class _Look:
    """What the feed has seen of what it watches."""

    wanted: tuple[str | None, int] = (None, -1)
    version: int | None = None
    status_at: float = 0.0
    studies: tuple[list[StudyRow], dict[int, list[WorkerRow]], list[CampaignRow]] | None = None
    known: dict[str, StudyRow] = field(default_factory=dict)  # from the list that was looked at before
    study: StudyRow | None = None
    revision: int = -1
    live: set[int] = field(default_factory=set)  # running when last looked at
    log: int = 0
    parts: dict[str, Any] = field(default_factory=dict)
    curves: dict[int, int] = field(default_factory=dict)
    curves_wanted: frozenset[int] = frozenset()
    failed: str | None = None
    gone: bool = False
    devices: tuple[Reading, ...] | None = None


_NOTHING = News()
