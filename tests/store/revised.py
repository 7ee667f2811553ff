"""A version of our tables that there is not yet, to see a store brought up to it: a column and a table more."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import sqlalchemy as sa

from kdnas.store import migration, tables
from kdnas.store.database import Store

OURS = migration.REVISIONS
LAST = tables.SCHEMA_VERSION
NEXT = LAST + 1
REVISION = """
import sqlalchemy as sa
from alembic import op

revision = "{next}"
down_revision = "{last}"


def upgrade() -> None:
    op.add_column("kdnas_worker", sa.Column("rack", sa.String(20)))
    op.create_table("kdnas_rack", sa.Column("name", sa.String(20), primary_key=True))
    op.execute("UPDATE kdnas_worker SET rack = 'first'")
    {then}
"""


def next_version(folder: Path, patch: pytest.MonkeyPatch, then: str = "") -> None:
    """From here on this kdnas is of the version NEXT. `then` is the last statement of its revision."""
    revisions = folder / "revisions"
    shutil.rmtree(revisions, ignore_errors=True)
    shutil.copytree(OURS, revisions, ignore=shutil.ignore_patterns("__pycache__"))
    made = REVISION.format(then=then, next=NEXT, last=LAST)
    (revisions / f"version_{NEXT}.py").write_text(made)
    patch.setattr(migration, "REVISIONS", revisions)
    patch.setattr(tables, "SCHEMA_VERSION", NEXT)
    patch.setattr(tables, "READABLE_SINCE", NEXT)


def version_of(store: Store) -> tuple[str, bool, bool]:
    """What the store says, and whether it has the column and the table of NEXT."""
    with store.connect() as connection:
        query = sa.select(tables.meta.c.value).where(tables.meta.c.key == "schema_version")
        look = sa.inspect(connection)
        columns = {column["name"] for column in look.get_columns("kdnas_worker")}
        return connection.execute(query).scalar_one(), "rack" in columns, look.has_table("kdnas_rack")
