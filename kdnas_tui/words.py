"""What the screens write: durations, sizes, counts, names and places. Pure text; knows no widget."""

from __future__ import annotations

from kdnas.system.moments import CALENDAR_S


def duration(seconds: float | None) -> str:
    """`45s`, `12m`, `3h12`, `2d04h`; a dash for what lies between no two times of the calendar."""
    if seconds is None or not abs(seconds) < CALENDAR_S[1]:
        return "–"
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}"
    return f"{whole // 86400}d{whole % 86400 // 3600:02d}h"


def span(low: float, high: float) -> str:
    """`1h05–1h40`; one time where both say the same."""
    first, last = duration(low), duration(high)
    return first if first == last else f"{first}–{last}"


def ago(now: float, moment: float | None) -> str:
    return "–" if moment is None else duration(now - moment)


def count(number: float | None) -> str:
    """`812`, `14.2k`, `14.2M`, `1.35B`, three digits."""
    if number is None:
        return "–"
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            value = number / size
            return f"{value:.{2 if abs(value) < 10 else 1 if abs(value) < 100 else 0}f}{letter}"
    return f"{number:g}"


def mib(amount: float | None) -> str:
    """MiB as `88 MiB` or `1.4 GiB`."""
    if amount is None:
        return "–"
    return f"{amount:.0f} MiB" if amount < 1000 else f"{amount / 1024:.1f} GiB"


def figure(value: float | None, digits: int = 3) -> str:
    """A number with a fixed number of decimals, or a dash."""
    return "–" if value is None else f"{value:.{digits}f}"


def milliseconds(value: float | None) -> str:
    """Three significant digits."""
    if value is None:
        return "–"
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f}"


def plural(number: int, one: str, many: str = "") -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def signed(value: float) -> str:
    """A number with a real minus sign, as α is written."""
    return f"{value:g}".replace("-", "−")


def short(name: object) -> str:
    """The last part of a path or hub id."""
    return str(name or "–").rstrip("/").rsplit("/", 1)[-1]


def shown_storage(url: str) -> str:
    """The store's place without what is secret in it."""
    if url.startswith("sqlite:///") and "?" not in url:
        return url.removeprefix("sqlite:///")
    from kdnas.store import addresses  # not needed for the first paint
    from kdnas.system.errors import UsageError

    try:
        address = addresses.store_url(url)
        return addresses.shown(address) if "://" in url else url
    except UsageError as error:  # said again where it is opened
        return error.problem


def free_name(name: str, taken: set[str]) -> str:
    """`name-2`, `name-3`, … the first that is free."""
    stem, _, last = name.rpartition("-")
    base = stem if stem and last.isdigit() else name
    number = 2
    while f"{base}-{number}" in taken:
        number += 1
    return f"{base}-{number}"
