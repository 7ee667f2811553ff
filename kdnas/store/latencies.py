"""Shapes whose latency has been measured already, on which device and by which protocol. Plain SQL."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from kdnas.store import tables as t
from kdnas.store.database import Store
from kdnas.store.patience import patient


@patient
def lookup(store: Store, device: str, protocol: str, shape: str) -> Mapping[str, Any] | None:
    """What `remember` was given for the same three, if it was."""
    c = t.latency.c
    with store.connect() as connection:
        found = connection.execute(
            sa.select(c.measured).where(c.device == device, c.protocol == protocol, c.shape == shape)
        ).scalar_one_or_none()
    return None if found is None else json.loads(found)


@patient
def remember(store: Store, device: str, protocol: str, shape: str, measured: Mapping[str, Any]) -> None:
    """Keeps a measurement; a newer one of the same shape takes its place."""
    c = t.latency.c
    with store.begin() as connection:
        connection.execute(sa.delete(t.latency).where(c.device == device, c.protocol == protocol, c.shape == shape))
        connection.execute(
            t.latency.insert().values(
                device=device, protocol=protocol, shape=shape, measured=json.dumps(dict(measured)), time=time.time()
            )
        )
