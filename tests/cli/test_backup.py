"""kdnas backup and kdnas restore."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdnas.search.begin import begin
from tests import fakes
from tests.cli.conftest import Place, Quick


@pytest.fixture
def two(place: Place) -> Path:
    begin(fakes.spec("one"), place.store)
    begin(fakes.spec("two"), place.store)
    return place.folder


def test_a_backup_is_a_store_and_comes_back(two: Path, quick: Quick) -> None:
    assert quick("backup", "one", "one.db").code == quick("backup", "--all", "all.db").code == 0
    assert "two" not in quick("studies", "--storage", "one.db").out
    assert (two / "all.db").stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in two.iterdir() if "db" in path.name)[:2] == ["all.db", "one.db"]
    assert quick("delete", "one", "--yes").code == 0
    assert "There is a study 'two'" in quick("restore", "all.db").line
    assert "one" not in quick("studies").out  # all or none
    assert quick("restore", "all.db", "one").code == 0
    assert "one" in quick("studies").out


def test_a_backup_replaces_a_file_or_leaves_half_of_one(two: Path, quick: Quick) -> None:
    (two / "there").write_text("mine")
    assert "is there already" in quick("backup", "--all", "there").line
    assert (two / "there").read_text() == "mine"
    assert "no study 'thre'" in quick("backup", "thre", "x.db").line
    assert "does not exist" in quick("backup", "one", "nowhere/x.db").line
    assert "of a study or of all" in quick("backup", "one").line
    assert "of a study or of all" in quick("backup", "--all", "one", "x.db").line
    assert not [path.name for path in two.iterdir() if path.name.startswith((".", "x", "nowhere"))]
