"""A store without studies, and a study begun in it."""

from __future__ import annotations

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
def store(address: str) -> Iterator[Store]:
    with open_store(address) as opened:
        yield opened


@pytest.fixture
def study_id(store: Store) -> int:
    return create_study(store, fakes.spec())
