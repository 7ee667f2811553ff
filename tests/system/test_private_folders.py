"""Folders of the state are their owner's, whoever makes them first and whatever the umask."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kdnas.measuring import lock_files
from kdnas.scores import kept_scores
from kdnas.search.launch import start_workers
from kdnas.system import disk_cache
from kdnas.system.liveness import Hold
from kdnas.system.paths import cache_folder, private_folder, state_folder
from kdnas.teachers import cache_folder as teachers
from kdnas_tui import mishaps, workers


@pytest.fixture(autouse=True)
def open_umask() -> Iterator[None]:
    before = os.umask(0o000)
    yield
    os.umask(before)


MAKERS: dict[str, Callable[[], object]] = {
    "logs": lambda: start_workers("x.db", "study", 1, command=["true"])[0].process.wait(),
    "logs by the screens": lambda: workers._folder(workers.logs_folder()),
    "logs by a fault": lambda: mishaps.recorded(ValueError("x")),
    "specs": lambda: workers._folder(state_folder() / "specs"),
    "workers": lambda: Hold().release(),
    "locks of devices": lambda: lock_files.lock_file("cpu").close(),
}


@pytest.mark.parametrize("what", MAKERS)
def test_a_folder_is_open_to_others(what: str) -> None:
    MAKERS[what]()
    folders = [path for path in (state_folder(), *state_folder().rglob("*")) if path.is_dir()]
    assert len(folders) == 2
    assert [oct(path.stat().st_mode & 0o777) for path in folders] == ["0o700"] * 2


def filled() -> None:
    with disk_cache.filled(cache_folder() / "tokens" / "x") as made:
        (made / "tokens.npy").write_bytes(b"")


def written() -> None:
    with teachers.written("x", {}):
        pass


CACHES: dict[str, Callable[[], object]] = {
    "locks": lambda: disk_cache.lock_file("x").close(),
    "an entry": filled,
    "a teacher's outputs": written,
    "scores": lambda: kept_scores.kept({"x": 1}, dict),
}


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("what", CACHES)
def test_a_new_cache_is_open_to_others_or_a_shared_one_is_closed(
    what: str, there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "above" / "cache"
    monkeypatch.setenv("KDNAS_CACHE", str(cache))
    if there:
        cache.mkdir(parents=True)
    CACHES[what]()
    assert any(cache.iterdir())
    for folder in (cache, cache.parent):
        assert oct(folder.stat().st_mode & 0o777) == ("0o777" if there else "0o700")


def test_one_that_was_open_is_closed_and_one_above_it_stays(tmp_path: Path) -> None:
    (tmp_path / "state" / "logs").mkdir(parents=True, mode=0o755)
    private_folder(tmp_path / "state" / "logs")
    assert oct((tmp_path / "state" / "logs").stat().st_mode & 0o777) == "0o700"
    assert oct((tmp_path / "state").stat().st_mode & 0o777) == "0o777"
