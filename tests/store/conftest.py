"""A new store, and a study begun in it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from kdnas.store.database import Store, open_store
from kdnas.store.studies import create_study
from tests import fakes


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "kdnas.db"


@pytest.fixture
def store(path: Path, empty: Path) -> Iterator[Store]:
    shutil.copy(empty, path)
    with open_store(path) as opened:
        yield opened


@pytest.fixture
def study_id(store: Store) -> int:
    return create_study(store, fakes.spec())
