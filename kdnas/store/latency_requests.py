"""Candidates that wait for a worker of the study's own device to time them, and what those answered.

They lie in the table of measured shapes, under a protocol that no measurement has. It names the study by the moment at
which it was begun, so that a copy of the table answers no other study.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from kdnas.store import changes
from kdnas.store import tables as t
from kdnas.store.database import Store
from kdnas.store.notices import News
from kdnas.store.patience import patient


@dataclass(frozen=True)
class Requests:
    """Those of one study for one device, `device` being its name in full."""

    store: Store
    study_id: int
    study: str  # a fingerprint
    device: str

    @classmethod
    def of(cls, store: Store, study_id: int, device: str) -> Requests:
        return cls(store, study_id, _study(store, study_id), device)

    def ask(self, key: str, candidate: Mapping[str, Any]) -> None:
        """A candidate, by its key in the space, is to be timed; asked again, nothing changes."""
        _write(self.store, self, "asked", key, {"candidate": dict(candidate)}, False)

    def asked(self) -> dict[str, dict[str, Any]]:
        """The candidates that nobody has answered yet, the oldest first, by their keys."""
        return _unanswered(self.store, self)

    def answer(self, key: str, found: Mapping[str, Any]) -> None:
        """What was found; a newer answer takes the place of an older one."""
        _write(self.store, self, "answered", key, found, True)

    def answered(self, key: str) -> dict[str, Any] | None:
        return _answer(self.store, self, key)

    def where(self, kind: str) -> sa.ColumnElement[bool]:
        c = t.latency.c
        return sa.and_(c.device == self.device, c.protocol == self.protocol(kind))

    def protocol(self, kind: str) -> str:
        return f"{kind} {self.study}"


@patient
def _study(store: Store, study_id: int) -> str:
    c = t.study.c
    with store.connect() as connection:
        created = connection.execute(sa.select(c.created).where(c.study_id == study_id)).scalar_one()
    return hashlib.sha256(f"{study_id} {created!r}".encode()).hexdigest()[:40]


@patient
def _write(store: Store, of: Requests, kind: str, key: str, found: Mapping[str, Any], anew: bool) -> None:
    c = t.latency.c
    here = sa.and_(of.where(kind), c.shape == key)
    with store.begin() as connection:
        changes.bump(connection, of.study_id, News.SLOT)  # whoever waits hears of it
        if connection.execute(sa.select(c.time).where(here)).first() is not None:
            if not anew:
                return
            connection.execute(sa.delete(t.latency).where(here))
        connection.execute(
            t.latency.insert().values(
                device=of.device,
                protocol=of.protocol(kind),
                shape=key,
                measured=json.dumps(dict(found)),
                time=time.time(),
            )
        )


@patient
def _unanswered(store: Store, of: Requests) -> dict[str, dict[str, Any]]:
    c = t.latency.c
    known = sa.select(c.shape).where(of.where("answered"))
    query = sa.select(c.shape, c.measured).where(of.where("asked"), c.shape.not_in(known)).order_by(c.time, c.shape)
    with store.connect() as connection:
        return {row.shape: json.loads(row.measured)["candidate"] for row in connection.execute(query)}


@patient
def _answer(store: Store, of: Requests, key: str) -> dict[str, Any] | None:
    c = t.latency.c
    query = sa.select(c.measured).where(of.where("answered"), c.shape == key)
    with store.connect() as connection:
        found = connection.execute(query).scalar_one_or_none()
    return None if found is None else dict(json.loads(found))
