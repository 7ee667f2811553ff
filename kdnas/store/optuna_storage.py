"""Optuna's view of the same database: its storage with our connection settings, its errors as ours.

This and trial_storage.py alone know how Optuna keeps its tables; what our own tables hold they neither read nor write.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import optuna
import sqlalchemy as sa
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, RDBStorage
from optuna.study import StudyDirection
from sqlalchemy.engine import Connection

from kdnas.store import postgres_engine, sqlite_file
from kdnas.store.database import Store, creation_lock
from kdnas.store.patience import persist
from kdnas.study.spec import StudySpec
from kdnas.system import interrupts

CONSTRAINT = "constraints:"  # what Optuna puts before a constraint's name, among a trial's system attributes


@contextlib.contextmanager
def explained(store: Store) -> Iterator[None]:
    """What Optuna's storage complains of inside becomes a StoreError with the hint."""
    try:
        with store.explained():
            yield
    except StorageInternalError as error:
        raise store.complaint(error) from error
    except RuntimeError as error:
        # Its version check raises bare RuntimeErrors.
        if "table schema" in str(error) or "storage upgrade" in str(error):
            raise store.complaint(error) from error
        raise
    except AssertionError as error:
        if "Should not reach" in str(error):
            raise store.complaint(error) from error
        raise


@contextlib.contextmanager
def hushed(level: int = optuna.logging.WARNING) -> Iterator[None]:
    """Inside, Optuna says nothing below `level`; afterwards it does as the program around it wants."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(level)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


def optuna_storage(store: Store) -> RDBStorage:
    """Optuna's storage in this store, its tables made where they are missing."""
    with explained(store):
        if not _has_tables(store):
            with creation_lock(store):
                if not _has_tables(store):
                    _open(store, make_tables=True).engine.dispose()
        return _open(store, make_tables=False)


def put_away(storage: RDBStorage) -> None:
    """Closes its connections: SQLite's last one brings the log into the file."""
    storage.remove_session()
    storage.engine.dispose()


def delete_rows(connection: Connection, name: str) -> None:
    """What Optuna keeps of a study, as part of a transaction; tables that are not there hold nothing."""
    look = sa.inspect(connection)
    columns = {table: {c["name"] for c in look.get_columns(table)} for table in look.get_table_names()}
    theirs = {table: has for table, has in columns.items() if not table.startswith("kdnas_")}
    if "studies" not in theirs:
        return
    study = "study_id IN (SELECT study_id FROM studies WHERE study_name = :name)"
    first = [table for table, has in theirs.items() if "trial_id" in has and table != "trials"]
    then = [table for table, has in theirs.items() if "study_id" in has and table not in ("studies", *first)]
    for table in first:
        if "trials" in theirs:
            trials = f"SELECT trial_id FROM trials WHERE {study}"
            connection.execute(sa.text(f"DELETE FROM {table} WHERE trial_id IN ({trials})"), {"name": name})
    for table in then:
        connection.execute(sa.text(f"DELETE FROM {table} WHERE {study}"), {"name": name})
    connection.execute(sa.text("DELETE FROM studies WHERE study_name = :name"), {"name": name})


def describe(study: optuna.Study, spec: StudySpec, alpha: float, beta: float) -> None:
    """What Optuna's own tools show of a study: names for its objectives, and what it is a search of."""
    names = ["loss", "latency_ms"] if spec.two_objectives else ["reward"]
    known = {
        "teacher": spec.teacher.model,
        "data": spec.data.source,
        "recipe": spec.recipe.name,
        "strategy": spec.strategy.name,
        "alpha": alpha,
        "beta": beta,
    }
    if study.metric_names != names:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.set_metric_names(names)
    there = study.user_attrs
    for name, value in known.items():  # each is a transaction
        if there.get(name) != value:
            study.set_user_attr(name, value)


class Patient:
    """An Optuna storage whose every call, each one transaction, is tried until the store is back and is not interrupted
    in its midst; what it complains of becomes a StoreError."""

    def __init__(self, store: Store, storage: BaseStorage) -> None:
        self._store = store
        self._storage = storage

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._storage, name)
        if not callable(found):
            return found

        def call(*given: Any, **named: Any) -> Any:
            def once() -> Any:
                with explained(self._store), interrupts.deferred():
                    return found(*given, **named)

            return persist(self._store, once)

        return call


def directions(spec: StudySpec) -> list[StudyDirection]:
    """The reward upwards; or loss and latency downwards, where the strategy searches the Pareto front."""
    if spec.two_objectives:
        return [StudyDirection.MINIMIZE, StudyDirection.MINIMIZE]
    return [StudyDirection.MAXIMIZE]


def _has_tables(store: Store) -> bool:
    with store.connect() as connection:
        # The last thing that Optuna writes when it makes its tables.
        if not sa.inspect(connection).has_table("alembic_version"):
            return False
        return connection.execute(sa.text("SELECT count(*) FROM alembic_version")).scalar_one() > 0


def _open(store: Store, *, make_tables: bool) -> RDBStorage:
    # Optuna runs the address through str.format, so braces are doubled.
    url = store.url.replace("{", "{{").replace("}", "}}")
    settings: dict[str, object]
    if store.is_sqlite:
        settings = {
            "connect_args": {"timeout": sqlite_file.BUSY_S},
            "pool_events": [(sqlite_file.on_connect, "connect")],
        }
    else:
        settings = {"pool_pre_ping": True, "pool_size": 1, "max_overflow": 2, "connect_args": postgres_engine.SETTINGS}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return RDBStorage(url, engine_kwargs=settings, skip_table_creation=not make_tables)
