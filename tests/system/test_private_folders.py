"""Folders of the state are their owner's, whoever makes them first and whatever the umask."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kdnas.search.launch import start_workers
from kdnas.system.liveness import Hold
from kdnas.system.paths import private_folder, state_folder
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
}


@pytest.mark.parametrize("what", MAKERS)
def test_a_folder_is_open_to_others(what: str) -> None:
    MAKERS[what]()
    folders = [path for path in (state_folder(), *state_folder().rglob("*")) if path.is_dir()]
    assert len(folders) == 2
    assert [oct(path.stat().st_mode & 0o777) for path in folders] == ["0o700"] * 2


def test_one_that_was_open_is_closed_and_one_above_it_stays(tmp_path: Path) -> None:
    (tmp_path / "state" / "logs").mkdir(parents=True, mode=0o755)
    private_folder(tmp_path / "state" / "logs")
    assert oct((tmp_path / "state" / "logs").stat().st_mode & 0o777) == "0o700"
    assert oct((tmp_path / "state").stat().st_mode & 0o777) == "0o777"
