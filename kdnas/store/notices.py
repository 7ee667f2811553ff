"""Who waits for a study's news is told of it, where the store is PostgreSQL: by NOTIFY, with the transaction.

A file needs none of this: whether it has changed costs a local call. What the news is says the store; a notice says
only that there is some. One that gets lost is made good by those who look now and then.
"""

from __future__ import annotations

import contextlib
import os
import selectors
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from kdnas.store.database import Store


class News(StrEnum):
    """What has changed."""

    WISH = "wish"  # what people want: for every worker
    SLOT = "slot"  # a slot ended, or became free: for workers that wait


def channel(study_id: int, news: News) -> str:
    return f"kdnas_{study_id}_{news}"


def notify(connection: Connection, study_id: int, news: News) -> None:
    """Tells those who listen, once the transaction is committed."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_notify(channel(study_id, news), "")))


class Ear:
    """One connection of its own that hears of a study's news, for one thread."""

    def __init__(self, store: Store, study_id: int) -> None:
        """Raises StoreError where the server does not answer."""
        self._study_id = study_id
        self._store = store
        with store.explained():
            made = store.engine.raw_connection()
            connection: Any = made.driver_connection
            made.detach()
            connection.autocommit = True
        self._connection = connection
        self._woken, self._wake = os.pipe()
        os.set_blocking(self._woken, False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._connection.fileno(), selectors.EVENT_READ)
        self._selector.register(self._woken, selectors.EVENT_READ)
        self.listen(News.WISH)

    def listen(self, news: News) -> None:
        with self._store.explained():
            self._connection.execute(f"LISTEN {channel(self._study_id, news)}")

    def wait(self, seconds: float) -> set[News]:
        """The news that came within so many seconds, or until `wake`. Raises StoreError where the connection is
        lost."""
        ready = {key.fd for key, _ in self._selector.select(seconds)}
        if self._woken in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self._woken, 64)
        if ready <= {self._woken}:
            return set()
        with self._store.explained():
            heard = {notice.channel for notice in self._connection.notifies(timeout=0)}
        return {news for news in News if channel(self._study_id, news) in heard}

    def wake(self) -> None:
        """Ends a wait, from another thread."""
        os.write(self._wake, b"x")

    def close(self) -> None:
        self._selector.close()
        with contextlib.suppress(Exception):  # of a connection that is lost nobody needs to hear
            self._connection.close()
        os.close(self._woken)
        os.close(self._wake)
