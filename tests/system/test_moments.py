"""Moments as people write them: the next half past seven, by clocks that go forward and back."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdnas.system import moments
from kdnas.system.errors import UsageError

BERLIN = "CET-1CEST,M3.5.0,M10.5.0/3"  # with its rules, so that no list of zones need be installed
NEPAL = "NPT-5:45"


@pytest.fixture
def zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Puts the machine into a time zone."""

    def use(name: str) -> None:
        monkeypatch.setenv("TZ", name)
        time.tzset()

    yield use
    monkeypatch.undo()
    time.tzset()


def utc(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def at(text: str, now: str) -> str:
    return datetime.fromtimestamp(moments.moment(text, utc(now)), UTC).strftime("%Y-%m-%d %H:%M")


def test_a_time_is_the_next_one(zone: Callable[[str], None]) -> None:
    zone(BERLIN)
    assert at("23:30", "2026-11-27 20:00") == "2026-11-27 22:30"
    assert at("07:30", "2026-11-27 20:00") == "2026-11-28 06:30"  # tomorrow: today's is over
    assert at("7:30", "2026-11-27 06:30") == "2026-11-28 06:30"  # and so it is at the very moment
    assert at("07:30", "2026-12-31 20:00") == "2027-01-01 06:30"
    zone(NEPAL)
    assert at("07:30", "2026-11-27 01:00") == "2026-11-27 01:45"
    assert at("00:00", "2026-11-27 01:00") == "2026-11-27 18:15"


def test_a_date_and_a_zone_are_taken_as_they_are(zone: Callable[[str], None]) -> None:
    zone(BERLIN)
    now = "2026-11-27 20:00"
    assert at("2026-11-29 07:30", now) == at("2026-11-29T07:30:00", now) == "2026-11-29 06:30"
    assert at("2026-11-29T07:30Z", now) == at("2026-11-29 07:30 +00:00", now) == "2026-11-29 07:30"
    assert at("2026-11-29T07:30-05:30", now) == "2026-11-29 13:00"
    assert at("07:30Z", now) == "2026-11-28 07:30" and at("23:00+02:00", now) == "2026-11-27 21:00"


def test_a_night_in_which_the_clocks_change_is_an_hour_shorter_or_longer(zone: Callable[[str], None]) -> None:
    zone(BERLIN)
    assert at("07:30", "2027-03-27 22:00") == "2027-03-28 05:30"  # from 23:00 on, seven hours and a half
    assert at("07:30", "2026-10-24 21:00") == "2026-10-25 06:30"  # from 23:00 on, nine and a half


def test_a_time_that_the_clocks_skip_is_refused(zone: Callable[[str], None]) -> None:
    zone(BERLIN)
    for text in ("02:30", "2027-03-28 02:30"):
        with pytest.raises(UsageError, match=r"There is no 02:30 on 2027-03-28: the clocks go forward\."):
            moments.moment(text, utc("2027-03-27 22:00"))
    assert at("2027-03-28T02:30+01:00", "2027-03-27 22:00") == "2027-03-28 01:30"
    assert at("03:00", "2027-03-27 22:00") == "2027-03-28 01:00"


def test_of_a_time_that_comes_twice_the_first_to_come_is_meant(zone: Callable[[str], None]) -> None:
    zone(BERLIN)
    assert at("02:30", "2026-10-24 22:00") == "2026-10-25 00:30"
    assert at("02:30", "2026-10-25 00:30") == "2026-10-25 01:30"  # the first has just passed
    assert at("2026-10-25 02:30", "2026-10-25 01:00") == "2026-10-25 01:30"
    assert at("02:30", "2026-10-25 01:30") == "2026-10-26 01:30"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("25:00", "'25:00' has no time of day. Times go from 00:00 to 23:59."),
        ("12:60", "has no time of day"),
        ("24:00", "has no time of day"),
        ("yesterday", "'yesterday' is no moment. Give a time such as 07:30"),
        ("", "is no moment"),
        ("730", "is no moment"),
        ("07:30 pm", "is no moment"),
        ("2026-11-28", "is no moment"),
        ("28.11.2026 07:30", "is no moment"),
        ("2026-13-01 07:30", "has no date of the calendar"),
        ("2027-02-29 07:30", "has no date of the calendar"),
        ("07:30+25:00", "has no time zone"),
        ("2026-11-26 07:30", "2026-11-26 07:30 has passed. Give a moment that is still to come."),
        ("2026-11-27T20:00Z", "has passed"),
        ("2031-01-01 07:30", "is more than a year away"),
        ("0001-01-01 00:00", "0001"),
        ("9999-12-31 23:59", "9999"),
    ],
)
def test_what_is_no_moment_to_come_is_refused(zone: Callable[[str], None], text: str, said: str) -> None:
    zone(BERLIN)
    with pytest.raises(UsageError) as refused:
        moments.moment(text, utc("2026-11-27 20:00"))
    assert said in str(refused.value) and "\n" not in str(refused.value)


@given(st.text(alphabet="0123456789:-+TZ .", max_size=24))
def test_whatever_is_typed_is_a_moment_to_come_or_refused(text: str) -> None:
    now = 1_790_000_000.0
    try:
        found = moments.moment(text, now)
    except UsageError:
        return
    assert now < found <= now + moments.LONGEST_S


@given(st.floats(min_value=0, max_value=4e9))
def test_what_is_stored_is_read_back(seconds: float) -> None:
    assert abs(moments.of_utc_text(moments.utc_text(seconds)) - seconds) <= 0.0006


def test_moments_are_told_by_the_machines_clock(zone: Callable[[str], None]) -> None:
    zone(BERLIN)
    assert moments.utc_text(utc("2026-11-28 06:30")) == "2026-11-28T06:30:00Z"
    now = utc("2026-11-27 20:00")
    told = [
        moments.clock_words(utc(text), now) for text in ("2026-11-27 22:00", "2026-11-28 06:30", "2026-12-24 17:00")
    ]
    assert told == ["23:00", "07:30 tomorrow", "2026-12-24 18:00"]
    assert moments.full_words(utc("2026-07-01 06:30")) == "2026-07-01 08:30 UTC+02:00"


@pytest.mark.parametrize("seconds", [1e300, -1e300, float("inf"), float("nan"), 1e15])
def test_a_time_beyond_the_calendar_ends_whoever_writes_it(seconds: float) -> None:
    assert moments.written(seconds) == "–" == moments.written(seconds, utc=True)
    assert moments.written(0.0, utc=True) == "1970-01-01 00:00:00"
