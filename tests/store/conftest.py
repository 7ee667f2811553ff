"""A new store, and a study begun in it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from kdnas.store.database import Store, open_store
from kdnas.store.optuna_storage import optuna_storage
from kdnas.store.studies import create_study
from tests import fakes


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "kdnas.db"


@pytest.fixture(scope="session")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store without studies: copied, since making Optuna's tables takes most of a second."""
    path = tmp_path_factory.mktemp("empty") / "kdnas.db"
    with open_store(path, create=True) as opened:
        optuna_storage(opened).engine.dispose()
    return path


@pytest.fixture
def store(path: Path, empty: Path) -> Iterator[Store]:
    shutil.copy(empty, path)
    with open_store(path) as opened:
        yield opened


@pytest.fixture
def study_id(store: Store) -> int:
    return create_study(store, fakes.spec())
