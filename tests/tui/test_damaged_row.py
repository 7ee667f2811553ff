"""What the screens say of a row that another program has damaged, and of a mistake of their own."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest

from kdnas.search.begin import begin
from kdnas.search.worker import run_worker
from kdnas.system.paths import state_folder
from kdnas_tui import feed as feeds
from kdnas_tui.feed import Feed
from tests import fakes


@pytest.fixture
def feed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Feed:
    monkeypatch.setenv("KDNAS_STATE", str(tmp_path / "state"))
    place = tmp_path / "kdnas.db"
    begin(fakes.spec(), place)
    run_worker(str(place), "fake", prepare=fakes.prepare, measure=fakes.measure)
    found = Feed(str(place), lambda: None)
    found.watch("fake")
    return found


def test_a_damaged_row_is_called_a_mistake_of_ours(feed: Feed) -> None:
    with contextlib.closing(sqlite3.connect(feed.url)) as rows, rows:
        rows.execute("UPDATE kdnas_trial SET loss = 'low' WHERE number = 2")
    feed.tick()
    news = feed.take()
    assert news is not None and "row(s) of kdnas_trial are damaged: in the first, loss is 'low'" in str(news.error)
    assert not (state_folder() / "logs" / "kdnas-tui.log").exists()


def test_one_mistake_fills_the_disk_with_its_traceback(feed: Feed, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(self: Feed) -> None:
        raise ValueError("a mistake")

    monkeypatch.setattr(feeds.Feed, "_new", fails)
    for _ in range(20):
        feed.tick()
    news = feed.take()
    assert news is not None and "kdnas-tui made a mistake: ValueError: a mistake." in str(news.error)
    assert (state_folder() / "logs" / "kdnas-tui.log").read_text().count("Traceback") == 1
