"""What a deleted or replaced store leaves beside its file, while somebody still uses it or not."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kdnas.search.begin import begin
from kdnas.store import changes, queries
from kdnas.store.database import open_reader, open_store
from kdnas.system.errors import UsageError
from tests import fakes


@pytest.fixture
def user(path: Path, empty: Path) -> Iterator[Callable[[], int]]:
    """A process that has the store open, and ends when it is called."""
    shutil.copy(empty, path)
    begin(fakes.spec(), path)
    ready, go = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        with open_store(path) as store:
            changes.add_log(store, 1, "info", "here")
            os.write(ready[1], b"x")
            os.close(go[1])
            os.read(go[0], 1)
            os._exit(0)
    os.read(ready[0], 1)
    ended: list[int] = []

    def end() -> int:
        if not ended:
            os.close(go[1])
            ended.append(os.waitpid(pid, 0)[1])
        return pid

    yield end
    end()


def test_a_new_study_where_the_old_file_was_deleted_under_its_worker(user: Callable[[], int], path: Path) -> None:
    path.unlink()
    with pytest.raises(UsageError) as refused:
        begin(fakes.spec("new"), path)
    assert "was deleted or replaced while it was in use: process" in str(refused.value)
    assert "disk" not in str(refused.value)
    assert not path.exists()
    # Its log is of no use without it, but it is not ours to throw away.
    user()
    with pytest.raises(UsageError, match="is the log of a store that is no longer beside it"):
        begin(fakes.spec("new"), path)
    assert not path.exists()
    Path(f"{path}-wal").unlink()
    begin(fakes.spec("new"), path)
    with open_reader(path) as store:
        assert [row.name for row in queries.study_rows(store)] == ["new"]


def test_a_file_put_in_the_place_of_one_in_use_is_not_opened(
    user: Callable[[], int], path: Path, empty: Path, tmp_path: Path
) -> None:
    shutil.copy(empty, tmp_path / "other.db")
    (tmp_path / "other.db").replace(path)
    with pytest.raises(UsageError, match="still writes to the old one"):
        open_store(path)


def test_a_store_in_use_is_opened(user: Callable[[], int], path: Path) -> None:
    with open_store(path) as store:
        assert len(queries.study_rows(store)) == 1


def test_a_store_that_cannot_be_made_leaves_no_empty_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:

    def full(path: Path) -> None:
        raise UsageError("The disk is full.")

    monkeypatch.setattr("kdnas.store.sqlite_file.fill_new_file", full)
    with pytest.raises(UsageError, match="full"):
        open_store(path, create=True)
    assert not path.exists()
