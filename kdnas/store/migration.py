"""The version of our tables in a store, and how an older one is brought up to date: by Alembic, in one transaction.

`kdnas_meta` says the version, which any kdnas can read; `kdnas_alembic_version` is Alembic's own note of it, apart from
Optuna's. Optuna migrates its tables itself. Opens no store.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from kdnas.store import tables
from kdnas.study.states import AT_WORK
from kdnas.system.errors import UsageError
from kdnas.system.liveness import STALE_S

REVISIONS = Path(__file__).parent / "revisions"
VERSION_TABLE = "kdnas_alembic_version"
_KEY = "schema_version"


def version_of(connection: Connection, place: str) -> int:
    """The version of the store's tables. Raises UsageError for a newer one than ours, and for none."""
    if not sa.inspect(connection).has_table("kdnas_meta"):
        raise UsageError(f"The store {place} has lost its tables.", "Restore a copy of it.")
    query = sa.select(tables.meta.c.value).where(tables.meta.c.key == _KEY)
    found = connection.execute(query).scalar_one_or_none()
    if found is None or not re.fullmatch(r"[0-9]{1,9}", found) or int(found) > tables.SCHEMA_VERSION:
        raise UsageError(
            f"The store {place} was written by a newer kdnas (its version is {found}, "
            f"this one knows {tables.SCHEMA_VERSION}).",
            "Update kdnas.",
        )
    return int(found)


def older(place: str) -> UsageError:
    """For a store that would have to be brought up to date before it can be read."""
    return UsageError(
        f"The store {place} was written by an older kdnas, and is only read here.",
        "Bring it up to date with a command that writes, such as kdnas resume or kdnas note.",
    )


def make_tables(connection: Connection) -> None:
    """All tables of the present version, where they are missing."""
    tables.metadata.create_all(connection)
    if connection.execute(sa.select(tables.meta.c.value).where(tables.meta.c.key == _KEY)).first() is None:
        connection.execute(tables.meta.insert().values(key=_KEY, value=str(tables.SCHEMA_VERSION)))


def bring_up(connection: Connection, place: str, now: float) -> None:
    """Brings the tables to the present version, as part of a writing transaction under the creation lock. `now` is the
    time by the store's clock, in UTC seconds.

    Raises UsageError while workers are at work: they are of the older version, and would meet tables that they do not
    know.
    """
    if version_of(connection, place) == tables.SCHEMA_VERSION:
        return  # another process was faster
    w = tables.worker.c
    query = sa.select(sa.func.count()).where(w.state.in_(AT_WORK), w.heartbeat > now - STALE_S)
    if at_work := connection.execute(query).scalar_one():
        raise UsageError(
            f"The store {place} was written by an older kdnas, {at_work} worker(s) of which may still be at work.",
            "Let them end with the kdnas that they are of (kdnas stop STUDY), then update it.",
        )
    found = connection.execute(sa.select(tables.meta.c.value).where(tables.meta.c.key == _KEY)).scalar_one()
    _run_revisions(connection, found)
    connection.execute(sa.update(tables.meta).where(tables.meta.c.key == _KEY).values(value=str(tables.SCHEMA_VERSION)))


def _run_revisions(connection: Connection, found: str) -> None:
    from alembic.config import Config
    from alembic.runtime.environment import EnvironmentContext
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    scripts = ScriptDirectory(str(REVISIONS), version_locations=[str(REVISIONS)])
    now = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
    if not now.get_current_heads():  # the first time that Alembic sees this store
        now.stamp(scripts, found)

    def upgrades(revision: Any, _: object) -> Iterable[Any]:
        return scripts._upgrade_revs(str(tables.SCHEMA_VERSION), revision)

    with EnvironmentContext(Config(), scripts, fn=upgrades) as environment:
        environment.configure(connection=connection, version_table=VERSION_TABLE, transactional_ddl=True)
        environment.run_migrations()
