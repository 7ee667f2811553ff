"""Addresses of stores: none is misread, and what is secret in one stands nowhere."""

from __future__ import annotations

import pytest

from kdnas.cli import frame
from kdnas.store.addresses import shown, store_url
from kdnas.store.complaints import StoreError
from kdnas.store.database import Store, open_store
from kdnas.system.errors import UsageError
from kdnas_tui.words import shown_storage

UNDERSTOOD = [
    "postgresql://me:SECRET@127.0.0.1:1/db",
    "postgresql://me:a%40SECRET@127.0.0.1:1/db",
    "postgresql://127.0.0.1:1/db?user=me&password=SECRET",
    "postgresql://127.0.0.1:1/db?sslkey=x&sslpassword=SECRET",
    "postgres://me@127.0.0.1:1/db?password=SECRET&password=SECRET",
]
MISTYPED = [
    "postgresql://me:a@SECRET@127.0.0.1:1/db",
    "postgresql:/me:SECRET@127.0.0.1/db",
    "postgresql:me:SECRET@127.0.0.1/db",
    "postgres//me:SECRET@127.0.0.1/db",
    "postgresql;//me:SECRET@127.0.0.1/db",
    "pg:/me:SECRET@127.0.0.1/db",
    "me:SECRET@127.0.0.1/db",
    "postgresql://me:SECRET@127.0.0.1:port/db",
    "mysql://me:SECRET@127.0.0.1/db",
    "sqlite://me:SECRET@host/x",
    "sqlite://:SECRET@/",
    "sqlite:///x.db?password=SECRET",
]


@pytest.mark.parametrize("address", UNDERSTOOD)
def test_an_address_shows_its_password(address: str) -> None:
    with pytest.raises(StoreError) as caught:
        open_store(address)
    said = [str(caught.value), frame.shown(address), shown_storage(address), shown(store_url(address))]
    assert not [line for line in said if "SECRET" in line]
    assert all("127.0.0.1:1/db" in line for line in said)


@pytest.mark.parametrize("address", MISTYPED)
def test_a_mistyped_address_is_taken_for_something_else_or_repeated(address: str) -> None:
    with pytest.raises(UsageError) as caught:
        open_store(address, create=True)
    with pytest.raises(UsageError) as also:
        frame.shown(address)
    said = [str(caught.value), str(also.value), shown_storage(address)]
    assert not [line for line in said if "SECRET" in line]


def test_what_a_driver_says_of_an_address_holds_no_secret() -> None:
    url = store_url("postgresql://me:SECRET@127.0.0.1:1/db?sslpassword=HIDDEN")
    store = Store(url, None, read_only=True)  # type: ignore[arg-type]
    said = str(store.complaint(RuntimeError('missing "=" after "me:SECRET@127.0.0.1?sslpassword=HIDDEN"')))
    assert "SECRET" not in said
    assert "HIDDEN" not in said


def test_what_a_driver_repeats_fills_pages() -> None:
    url = store_url("postgresql://me:SECRET@127.0.0.1:1/db")
    store = Store(url, None, read_only=True)  # type: ignore[arg-type]
    problem = store.complaint(RuntimeError("no such mode: " + "SECRET, " * 1000)).problem
    assert len(problem) == 500 and problem.endswith("…")
    assert "no such mode: ***, ***" in problem and "SEC" not in problem


@pytest.mark.parametrize("address", ["a\0b", "sqlite:///a\0b", "sqlite:///~\0", "\ud83d/x.db"])
def test_a_path_that_no_system_takes_ends_in_a_traceback(address: str) -> None:
    with pytest.raises(UsageError, match=r"a character that no path has|is not a URL"):
        store_url(address)


def test_who_reads_a_long_address_goes_through_it_again_from_each_colon() -> None:
    """It did so for half a minute at a fifth of this; now a test of any length ends."""
    with pytest.raises(UsageError, match="is mistyped"):
        store_url("x:" * 2_000_000 + "@h")
    assert store_url("x:" * 2_000_000).get_backend_name() == "sqlite"


def test_a_sqlite_address_with_a_host_drops_it() -> None:
    with pytest.raises(UsageError, match="has a host"):
        store_url("sqlite://HOST/x")
    for given in ("~nobody-of-that-name/x", "sqlite:///~nobody-of-that-name/x"):
        with pytest.raises(UsageError, match="home folder that is not there"):
            store_url(given)
    with pytest.raises(UsageError, match="has settings: mode"):
        store_url("sqlite:///x?mode=ro")
