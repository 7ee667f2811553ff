"""A store's address: read, refused where it is mistyped, and shown without what it keeps secret. Opens nothing."""

from __future__ import annotations

import os
import re
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError

from kdnas.system.errors import UsageError

HIDDEN = "***"
_QUOTED = "%2A%2A%2A"  # the same where a URL quotes it
_SECRET = re.compile("passw|secret|token", re.IGNORECASE)  # in the name of a part of the address after `?`
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/|(postgres(ql)?|sqlite|mysql|mariadb)(\+\w+)?(:|//)", re.IGNORECASE)
_USER = re.compile("(^|//)[^/:]*:[^/]*@")  # `user:password@host`, the scheme forgotten or mistyped


def store_url(given: str | Path) -> URL:
    """A database's address from a URL or the path of a SQLite file. Raises UsageError for what kdnas cannot use; no
    message repeats an address that was not understood, since it may hold a password."""
    text = str(given)
    if "://" not in text:
        if isinstance(given, str) and (_SCHEME.match(text) or _USER.search(text)):
            raise UsageError(
                "The storage's address is mistyped.",
                "Give sqlite:///PATH or postgresql://USER@HOST/DATABASE; a path that looks like this begins with ./",
            )
        return _file(text)
    try:
        text.encode()  # a shell passes bytes on that are no text
        url = sa.make_url(text)
    except (ArgumentError, ValueError):
        raise UsageError(
            "The storage's address is not a URL.", "Give sqlite:///PATH or postgresql://USER@HOST/DATABASE."
        ) from None
    backend = url.drivername.split("+")[0]
    if backend == "sqlite":
        return _sqlite(url)
    if "@" in f"{url.username}{url.host}":
        raise UsageError(
            "The user or the password of the storage's address has an @ in it.", "Write %40 for it, and %2F for a /."
        )
    if "@" in (url.database or ""):
        raise UsageError(
            "The storage's address has an @ behind its host.", "Give postgresql://USER@HOST/DATABASE, with two slashes."
        )
    if backend in ("postgresql", "postgres"):
        return url.set(drivername="postgresql+psycopg")
    raise UsageError(f"kdnas cannot keep its store in {backend!r}.", "Give a sqlite:/// or postgresql:// address.")


def _sqlite(url: URL) -> URL:
    if url.host or url.username or url.port:
        raise UsageError(
            "The storage's address has a host, which SQLite knows none of.",
            "Give sqlite:///PATH, with three slashes, and four for a path from the root.",
        )
    if not url.database or url.database == ":memory:":
        raise UsageError("The storage's address names no file: workers could not share it.", "Give sqlite:///PATH.")
    if url.query:
        raise UsageError(
            f"The storage's address has settings: {', '.join(sorted(url.query))}.",
            "Leave off what comes after the question mark; kdnas has its own.",
        )
    return _file(url.database)


def _file(given: str) -> URL:
    try:
        os.fsencode(given)
        if "\0" in given:
            raise ValueError
        path = Path(given).expanduser().absolute()
    except RuntimeError:  # somebody who is not known here
        raise UsageError("The storage's address is in a home folder that is not there.", "Give a path.") from None
    except ValueError:
        raise UsageError("The storage's address has a character that no path has.", "Give a path.") from None
    return URL.create("sqlite", database=str(path))


def shown(url: URL) -> str:
    """The address as it may stand anywhere: a file's path, or the URL without what is secret in it."""
    if url.get_backend_name() == "sqlite":
        return str(url.database)
    hidden = {name: HIDDEN for name in url.query if _SECRET.search(name)}
    return url.update_query_dict(hidden).render_as_string(hide_password=True).replace(_QUOTED, HIDDEN)


def secrets(url: URL) -> frozenset[str]:
    """What of the address may stand nowhere."""
    values = [value for name, value in url.normalized_query.items() if _SECRET.search(name)]
    return frozenset(word for word in [url.password or "", *(word for value in values for word in value)] if word)


def without(text: str, hidden: frozenset[str]) -> str:
    """What a library said, with no secret of the address in it."""
    for word in sorted(hidden, key=len, reverse=True):
        text = text.replace(word, HIDDEN)
    return text


def whole(given: str) -> str:
    """An address as it was given; one as `shown` shows it stands for that in KDNAS_STORAGE, which has what is hidden.
    Raises UsageError where KDNAS_STORAGE has another one."""
    if "://" not in given or HIDDEN not in secrets(store_url(given)):
        return given
    known = os.environ.get("KDNAS_STORAGE", "")
    if "://" in known:
        url = store_url(known)
        if secrets(url) and shown(url) == shown(store_url(given)):
            return known
    raise UsageError(
        f"The storage's address hides its password: {HIDDEN} is none.",
        "Put the password into ~/.pgpass and leave it off, or give the whole address in KDNAS_STORAGE.",
    )
