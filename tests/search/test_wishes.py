"""Workers hear of people's wishes without asking for them again and again: told by the server, or by the file."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kdnas.search import heartbeat
from kdnas.search.begin import begin
from kdnas.search.heartbeat import ASK_S, LISTENING_LOOK_S, Steering
from kdnas.search.worker import run_worker
from kdnas.store import changes, queries, slots, studies
from kdnas.store.database import Store, open_reader, open_store
from kdnas.store.notices import Ear, News
from kdnas.study.states import Wanted
from kdnas.system import liveness
from tests import fakes
from tests.postgres import BOTH, EmptyStore, needs_server
from tests.search.asked import Asked, Looks, long_study, steered

LONG = 60.0  # seconds; nothing here takes as long unless it is broken


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The address of a new store: of the kind that the test is for, PostgreSQL where it says nothing."""
    if getattr(request, "param", "postgres") == "sqlite":
        yield str(tmp_path / "kdnas.db")
        return
    store: EmptyStore = request.getfixturevalue("empty_store")
    with store.lent() as url:
        yield url


@pytest.fixture
def seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody asks by himself while a test runs."""
    monkeypatch.setattr(heartbeat, "LISTENING_LOOK_S", 3600.0)


@pytest.mark.parametrize("place", BOTH, indirect=True)
@pytest.mark.parametrize("wish", [Wanted.PAUSE, Wanted.STOP, Wanted.ABANDON])
def test_a_wish_is_not_heard(place: str, wish: Wanted, seldom: None) -> None:
    begin(fakes.spec(), place)
    with open_store(place) as store, open_store(place) as others:
        steering = steered(store)
        steering.start()
        try:
            listens(steering)
            changes.set_wanted(others, 1, wish)
            hears(steering, Wanted.RUN)
        finally:
            steering.end()
    assert steering.wanted == wish


def hears(steering: Steering, known: str) -> None:
    """Waits until people want something else than `known`: it may be woken before the look is over."""
    for _ in range(5):
        if steering.wanted != known or steering.wait_for_news(known, LONG):
            return
    raise AssertionError(f"people still want {known}")


def listens(steering: Steering) -> None:
    """Waits until the first look after it began to listen is over."""
    if not steering._store.is_sqlite:
        waited = threading.Event()
        while not steering.listening or steering._asked._next == 0.0:
            assert not waited.wait(0.01)


@needs_server
def test_who_listens_hears_what_is_not_meant_for_him(place: str) -> None:
    """Slots are news for those alone who wait for them, and other studies for nobody."""
    begin(fakes.spec(), place)
    begin(fakes.spec("other"), place)
    with open_store(place) as store:
        worker = studies.enter(store, 1, lock=None, device=None, task="search")
        ear = Ear(store, 1)
        try:
            slots.claim(store, 1, worker)
            slots.give_back(store, 1, 0, worker)
            changes.set_wanted(store, 2, Wanted.PAUSE)
            assert ear.wait(0.0) == set()
            ear.listen(News.SLOT)
            slots.claim(store, 1, worker)
            slots.give_back(store, 1, 0, worker)
            assert ear.wait(LONG) == {News.SLOT}
            changes.set_wanted(store, 1, Wanted.PAUSE)
            assert ear.wait(LONG) == {News.WISH}
            ear.wake()
            assert ear.wait(LONG) == set()
        finally:
            ear.close()


@needs_server
def test_an_idle_worker_asks_a_server_more_than_once_in_two_seconds(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    long_study(place)
    looks = Looks(60)
    with open_store(place) as store:
        changes.set_wanted(store, 1, Wanted.PAUSE)
        steering = steered(store)
        for module in ("kdnas.search.heartbeat.time", "kdnas.search.every.time"):
            monkeypatch.setattr(module, looks)
        over = threading.Event()

        def wait(_ear: Ear, seconds: float) -> set[News]:
            assert seconds == ASK_S
            if looks.wait(seconds):
                over.set()
            return set()

        monkeypatch.setattr(Ear, "wait", wait)
        steering._over = over
        with Asked().listening() as asked:
            steering.run()
    seconds = looks.now - 100.0
    beats = asked.count("UPDATE kdnas_worker")
    assert beats >= seconds // liveness.HEARTBEAT_S - 1
    assert asked.count("SELECT") <= 1 + seconds // LISTENING_LOOK_S
    assert len(asked.statements) <= seconds / 2 and not asked.of_trials


@needs_server
def test_a_lost_connection_is_missed(place: str, seldom: None) -> None:
    """Who no longer hears looks at once, asks as before, and listens again."""
    begin(fakes.spec(), place)
    with open_store(place) as store, open_store(place) as others:
        steering = steered(store)
        steering.start()
        try:
            listens(steering)
            first = steering._ear
            assert isinstance(first, Ear)
            cut(others, first)
            changes.set_wanted(others, 1, Wanted.PAUSE)
            hears(steering, Wanted.RUN)
            steering._listened.now()
            while steering._ear in (first, None):
                assert not threading.Event().wait(0.01)
            changes.set_wanted(others, 1, Wanted.RUN)
            hears(steering, Wanted.PAUSE)
        finally:
            steering.end()


def cut(others: Store, ear: Ear) -> None:
    """Ends the connection at the server's side."""
    with others.connect() as connection:
        connection.exec_driver_sql(f"SELECT pg_terminate_backend({ear._connection.info.backend_pid})")


@needs_server
def test_who_waits_for_the_last_slot_is_told_when_it_ends(
    place: str, monkeypatch: pytest.MonkeyPatch, seldom: None
) -> None:
    """Two workers of one process: the second has nothing to do until the first one gives up its slot."""
    begin(fakes.spec(budget={"trials": 1}), place)
    waits = threading.Event()
    codes: list[int] = []
    real = Steering.listen_to_slots

    def listen(steering: Steering) -> bool:
        new = real(steering)
        if not new:
            waits.set()
        return new

    monkeypatch.setattr(Steering, "listen_to_slots", listen)

    def second(*_: Any) -> None:
        codes.append(run_worker(place, "fake", prepare=fakes.prepare, measure=fakes.measure))

    with open_store(place) as store:
        hold = liveness.Hold()
        try:
            first = studies.enter(store, 1, lock=str(hold.path), device=None, task="search")
            slots.claim(store, 1, first)
            thread = threading.Thread(target=second)
            thread.start()
            assert waits.wait(LONG)
            slots.give_back(store, 1, 0, first)
            thread.join(LONG)
            assert codes == [0]
        finally:
            hold.release()
    with open_reader(place) as reader:
        assert queries.study_row(reader, "fake").done == 1
