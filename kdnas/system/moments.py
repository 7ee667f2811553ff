"""Moments as people write them, and as they are told: `07:30`, a date with a time, either with a zone or without.

What has no zone is meant in the machine's own. Reads no clock: whoever asks says what time it is (UTC seconds).
"""

from __future__ import annotations

import datetime
import re

from kdnas.system.errors import UsageError

FORMS = "a time such as 07:30, a date with one as in 2027-03-01 07:30, or with its zone as in 2027-03-01T07:30+01:00"
LONGEST_S = 366 * 86400.0  # a moment further away is a slip of the pen
CALENDAR_S = 0.0, 253_402_128_000.0  # from 1970 to the end of 9999, in every zone: beyond it no time was recorded

_TIME = r"(?P<hour>\d{1,2}):(?P<minute>\d\d)(?::(?P<second>\d\d)(?:\.(?P<part>\d{1,6}))?)?"
_DATE = r"(?P<year>\d{4})-(?P<month>\d\d)-(?P<day>\d\d)"
_ZONE = r"(?P<zone>Z|[+-]\d\d:\d\d)"
_MOMENT = re.compile(rf"(?:{_DATE}[ T])?{_TIME}(?: ?{_ZONE})?")


def require_form(text: str) -> None:
    """Raises UsageError for what can be no moment, whatever time it is."""
    _read(text)


def moment(text: str, now: float) -> float:
    """UTC seconds of what was written. A time without a date is the next one: today's, or tomorrow's where today's is
    over. Raises UsageError for what is no moment, has passed, is more than a year away, or does not exist because the
    clocks go forward; of a time that comes twice, as the clocks go back, the first that is still to come is meant.
    """
    date, time, zone = _read(text)
    if date is not None:
        found = _seconds(datetime.datetime.combine(date, time), zone, text, now)
        if found <= now:
            raise UsageError(f"{text} has passed.", "Give a moment that is still to come.")
        if found - now > LONGEST_S:
            raise UsageError(f"{text} is more than a year away.", "Give a nearer date.")
        return found
    today = datetime.datetime.fromtimestamp(now, zone).date()
    for days in (0, 1):
        day = today + datetime.timedelta(days=days)
        found = _seconds(datetime.datetime.combine(day, time), zone, text, now)
        if found > now:
            break
    return found


def _read(text: str) -> tuple[datetime.date | None, datetime.time, datetime.timezone | None]:
    """Date, time of day and zone. Raises UsageError."""
    match = _MOMENT.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"{text!r} is no moment.", f"Give {FORMS}.")
    part = match.groupdict()
    try:
        micro = int((part["part"] or "0").ljust(6, "0"))
        time = datetime.time(int(part["hour"]), int(part["minute"]), int(part["second"] or 0), micro)
    except ValueError:
        raise UsageError(f"{text!r} has no time of day.", "Times go from 00:00 to 23:59.") from None
    try:
        date = None if part["year"] is None else datetime.date(*(int(part[word]) for word in ("year", "month", "day")))
    except ValueError:
        raise UsageError(f"{text!r} has no date of the calendar.", f"Give {FORMS}.") from None
    return date, time, _zone(part["zone"], text)


def _zone(written: str | None, text: str) -> datetime.timezone | None:
    if written is None:
        return None
    if written == "Z":
        return datetime.UTC
    hours, minutes = int(written[1:3]), int(written[4:])
    if hours > 14 or minutes > 59:
        raise UsageError(f"{text!r} has no time zone.", "Zones go from -14:00 to +14:00.")
    ahead = datetime.timedelta(hours=hours, minutes=minutes)
    return datetime.timezone(ahead if written[0] == "+" else -ahead)


def _seconds(wall: datetime.datetime, zone: datetime.timezone | None, text: str, now: float) -> float:
    """UTC seconds of a wall clock's time. Raises UsageError where the machine's clocks skip it."""
    try:
        if zone is not None:
            return wall.replace(tzinfo=zone).timestamp()
        first, second = wall.timestamp(), wall.replace(fold=1).timestamp()
        if datetime.datetime.fromtimestamp(first) != wall:
            raise UsageError(
                f"There is no {wall:%H:%M} on {wall:%Y-%m-%d}: the clocks go forward.",
                "Give another time, or one with its zone.",
            )
    except (ValueError, OverflowError, OSError):  # beyond what the system's calendar knows
        raise UsageError(f"{text!r} is out of range.", f"Give {FORMS}.") from None
    return second if first <= now < second else first


def utc_text(seconds: float) -> str:
    """As it is stored: `2027-03-01T06:30:00Z`. What `moment` reads back, to the millisecond."""
    found = datetime.datetime.fromtimestamp(round(seconds, 3), datetime.UTC)
    return found.replace(tzinfo=None).isoformat(timespec="milliseconds").removesuffix(".000") + "Z"


def of_utc_text(text: str) -> float:
    """UTC seconds of a moment with a date and a zone. Raises UsageError."""
    date, time, zone = _read(text)
    if date is None or zone is None:
        raise UsageError(f"{text!r} is no moment with its date and zone.", "Write it as in 2027-03-01T06:30:00Z.")
    return datetime.datetime.combine(date, time, zone).timestamp()


def clock_words(seconds: float, now: float) -> str:
    """By the machine's clock, as short as it is plain: `07:30`, `07:30 tomorrow`, `2027-03-01 07:30`."""
    then, today = datetime.datetime.fromtimestamp(seconds), datetime.datetime.fromtimestamp(now).date()
    days = (then.date() - today).days
    return f"{then:%H:%M}" if days == 0 else f"{then:%H:%M} tomorrow" if days == 1 else f"{then:%Y-%m-%d %H:%M}"


def minute_text(seconds: float) -> str:
    """By the machine's clock, as `moment` reads it: `2027-03-01 07:30`."""
    return f"{datetime.datetime.fromtimestamp(seconds):%Y-%m-%d %H:%M}"


def written(seconds: float, form: str = "%Y-%m-%d %H:%M:%S", *, utc: bool = False) -> str:
    """By the machine's clock, or in UTC, in a form of `strftime`; a dash for what is beyond the calendar, as the time
    of a damaged row may be."""
    try:
        return datetime.datetime.fromtimestamp(seconds, datetime.UTC if utc else None).strftime(form)
    except (ValueError, OverflowError, OSError):
        return "–"


def full_words(seconds: float) -> str:
    """By the machine's clock with the date and the zone: `2027-03-01 07:30 UTC+01:00`."""
    then = datetime.datetime.fromtimestamp(seconds).astimezone()
    offset = then.strftime("%z")
    return f"{then:%Y-%m-%d %H:%M} UTC{offset[:3]}:{offset[3:5]}"
