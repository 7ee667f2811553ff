"""What the screens say of a row that another program has damaged, and of a mistake of their own."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from pathlib import Path

import pytest

from kdnas.search.begin import begin
from kdnas.search.worker import run_worker
from kdnas.store.check import damage_of
from kdnas.study.trial_columns import Board
from kdnas.system.paths import state_folder
from kdnas_tui import feed as feeds
from kdnas_tui import words
from kdnas_tui.feed import Feed
from kdnas_tui.widgets.reward_history import RewardHistory
from kdnas_tui.widgets.timeline import Timeline
from tests import fakes
from tests.tui.widget_apps import WidgetApp, at_rest


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


def by_time() -> tuple[Timeline, RewardHistory]:
    """The plots with an axis of time."""
    timeline, history = Timeline(time.time, period=0), RewardHistory(period=0)
    history.by_time = True
    return timeline, history


@pytest.mark.parametrize("column", ["started", "ended"])
@pytest.mark.parametrize("moment", [1e300, float("inf"), -1e300, -86400.0])
async def test_a_time_of_no_calendar_ends_the_plots_or_is_left_out_without_a_word(
    feed: Feed, column: str, moment: float
) -> None:
    with contextlib.closing(sqlite3.connect(feed.url)) as rows, rows:
        rows.execute(f"UPDATE kdnas_trial SET {column} = ? WHERE number = 2", (moment,))
    board = news_of(feed)
    for plot in by_time():
        app = WidgetApp(plot)
        async with app.run_test(size=(100, 20)) as pilot:
            plot.show(board)
            plot.point_at(2)
            await at_rest(pilot)
            text = "\n".join(app.text())
            assert "1 trial of no known time" in text and ("█" in text or isinstance(plot, RewardHistory)), text
        if isinstance(plot, RewardHistory):
            assert len(plot._x) == 7 and 0 <= plot._x.min() <= plot._x.max() < 1
    assert words.duration(moment) == "–" or moment == -86400.0
    found = damage_of(feed.url)
    assert found is not None and f"in the first, {column} is {moment:g}, which is no time" in str(found)


async def test_trials_of_no_calendar_alone_are_said_to_be_none(feed: Feed) -> None:
    with contextlib.closing(sqlite3.connect(feed.url)) as rows, rows:
        rows.execute("UPDATE kdnas_trial SET started = 1e300, ended = 1e300")
    board = news_of(feed)
    for plot in by_time():
        app = WidgetApp(plot)
        async with app.run_test(size=(100, 20)) as pilot:
            plot.show(board)
            await at_rest(pilot)
            assert "8 trials of no known time." in "\n".join(app.text())


def news_of(feed: Feed) -> Board:
    feed.tick()
    news = feed.take()
    assert news is not None and news.error is None and news.board is not None
    return news.board
