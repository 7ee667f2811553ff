"""Connections to a PostgreSQL server that notice when it has gone."""

from __future__ import annotations

import select
import time
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import URL, Engine
from sqlalchemy.exc import DisconnectionError

from kdnas.system.errors import UsageError

# A server that nobody can reach any more is noticed within half a minute, in the middle of a statement too.
SETTINGS: dict[str, Any] = {
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 4,
    "tcp_user_timeout": 30_000,
}
QUIET_S = 10.0  # a connection to a server that was not used for so long is tried before it is used again


def engine_of(address: URL, *, read_only: bool = False) -> Engine:
    # What is given beside the address replaces what it says itself, such as a search_path among its options.
    given = {name: value for name, value in SETTINGS.items() if name not in address.query}
    asked = address.normalized_query.get("options", ())
    options = {"options": " ".join((*asked, "-c default_transaction_read_only=on"))} if read_only else {}
    try:
        engine = sa.create_engine(address, pool_size=2, max_overflow=4, connect_args={**given, **options})
    except ImportError:
        raise UsageError(
            "PostgreSQL needs a driver that is not installed.", "Run `pip install 'kdnas[postgres]'`."
        ) from None

    @sa.event.listens_for(engine, "checkin")
    def _used(_connection: Any, record: Any) -> None:
        record.info["used"] = time.monotonic()

    @sa.event.listens_for(engine, "checkout")
    def _try_first(connection: Any, record: Any, _proxy: object) -> None:
        # To ask the server before each use takes as long as what it is used for. One that has gone has closed its side,
        # which costs no message to see.
        used = record.info.get("used")
        try:
            if used is not None and (time.monotonic() - used > QUIET_S or _has_spoken(connection)):
                engine.dialect.do_ping(connection)
        except engine.dialect.loaded_dbapi.Error as error:
            raise DisconnectionError from error

    return engine


def _has_spoken(connection: Any) -> bool:
    """Whether the server sent something that nobody asked for, such as the end of the connection."""
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))
