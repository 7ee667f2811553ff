"""What kdnas doctor --store finds in stores that are whole, left half done, or damaged."""

from __future__ import annotations

import gzip
import shutil
import sqlite3
from pathlib import Path

import pytest

from kdnas.search.begin import begin
from kdnas.search.worker import run_worker
from kdnas.store import queries
from kdnas.store.check import check
from kdnas.store.copies import copy
from kdnas.store.database import open_reader, open_store
from kdnas.system.errors import UsageError
from tests import fakes
from tests.search.test_earlier_stores import EARLIER


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ran") / "kdnas.db"
    begin(fakes.spec(budget={"trials": 3, "epochs": 1}), path)
    assert run_worker(str(path), "fake", prepare=fakes.prepare, measure=fakes.measure) == 0
    return path


@pytest.fixture
def filled(ran: Path, address: str) -> str:
    with open_reader(ran) as source, open_store(address) as target:
        copy(source, target)
    return address


def found(place: str | Path) -> list[tuple[str, str]]:
    with open_reader(place) as store:
        return [(one.state, one.what) for one in check(store)]


def damaged(place: str, change: str) -> None:
    """As another program would, which keeps to no keys of a file."""
    if "://" in place:
        with open_store(place) as store, store.begin() as connection:
            connection.exec_driver_sql(f"{change} CASCADE" if change.startswith("DROP") else change)
        return
    with sqlite3.connect(place) as connection:
        connection.execute(change)
    connection.close()


def test_a_whole_store(filled: str) -> None:
    of_the_file = [] if "://" in filled else [("whole", f"{filled}, every page and key")]
    assert found(filled) == [*of_the_file, ("whole", "fake: 3 of 3 trials, finished")]


@pytest.mark.parametrize(
    ("change", "state", "what"),
    [
        ("UPDATE kdnas_study SET beta = 5e-324", "damaged", "fake: α -0.06 and β 4.94066e-324 are out of bounds"),
        ("UPDATE kdnas_study SET spec = '{'", "damaged", "fake: its spec cannot be read"),
        (
            "UPDATE kdnas_trial SET candidate = '[]' WHERE number > 0",
            "damaged",
            "2 row(s) of kdnas_trial are damaged: in the first, candidate is no JSON object",
        ),
        ("DELETE FROM kdnas_slot WHERE slot = 2", "damaged", "fake: 2 slots for a budget of 3"),
        ("DELETE FROM kdnas_trial WHERE number = 1", "damaged", "fake: slots whose trials say something else: 1"),
        (
            "UPDATE kdnas_slot SET state = 'running' WHERE slot = 0",
            "unfinished",
            "fake: 1 trials whose worker has died",
        ),
        ("UPDATE trials SET state = 'RUNNING' WHERE number = 2", "unfinished", "fake: Optuna does not know yet how 1"),
        ("UPDATE trials SET state = 'FAIL' WHERE number = 2", "damaged", "fake: Optuna says otherwise of trials [2]"),
        ("UPDATE studies SET study_name = 'x'", "damaged", "fake: Optuna's tables do not know it"),
        ("DROP TABLE trials", "damaged", "fake: Optuna's tables are gone"),
        ("DROP TABLE kdnas_log", "damaged", "tables are missing: kdnas_log"),
    ],
)
def test_a_store_that_is_not(change: str, state: str, what: str, filled: str) -> None:
    damaged(filled, change)
    assert [said for kind, said in found(filled) if kind == state and said.startswith(what)]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ("UPDATE kdnas_study SET alpha = 'x'", "kdnas_study are damaged: in the first, alpha is 'x'"),
        ("UPDATE kdnas_trial SET loss = x'00'", r"kdnas_trial are damaged: in the first, loss is b'\x00'"),
        ("UPDATE kdnas_event SET detail = '{'", "kdnas_event are damaged: in the first, detail is no JSON object"),
    ],
)
def test_a_value_that_no_such_column_holds_is_passed_over_or_copied(
    change: str, what: str, ran: Path, tmp_path: Path
) -> None:
    """Of a file: a server takes no such value."""
    path, other = shutil.copy(ran, tmp_path / "kdnas.db"), tmp_path / "other.db"
    damaged(str(path), change)
    assert [said for kind, said in found(path) if kind == "damaged" and said.endswith(what)]
    with open_reader(path) as source, open_store(other, create=True) as target:
        with pytest.raises(UsageError, match="is damaged: in a row of kdnas_"):
            copy(source, target)
        assert queries.study_rows(target) == []


def test_tables_that_a_store_cannot_have_yet_are_missed(tmp_path: Path) -> None:
    path = tmp_path / "kdnas.db"
    path.write_bytes(gzip.decompress((EARLIER / "half-finished-lstm.db.gz").read_bytes()))
    said = found(path)
    assert ("unfinished", "its tables are of version 1") in said
    assert not [what for state, what in said if state == "damaged"]


def test_rows_of_no_study(ran: Path, tmp_path: Path) -> None:
    """A server's keys are always kept to; a file's only by programs that ask for it."""
    path = Path(shutil.copy(ran, tmp_path / "kdnas.db"))
    damaged(str(path), "DELETE FROM kdnas_study")
    assert found(path)[0][0] == "damaged"


def test_a_page_overwritten(ran: Path, tmp_path: Path) -> None:
    path = tmp_path / "kdnas.db"
    shutil.copy(ran, path)
    with sqlite3.connect(path) as connection:
        query = "SELECT rootpage FROM sqlite_master WHERE name = 'kdnas_trial_revision'"
        root = connection.execute(query).fetchone()[0]
        size = connection.execute("PRAGMA page_size").fetchone()[0]
    connection.close()
    with path.open("r+b") as file:
        file.seek((root - 1) * size + 3)
        file.write(b"\x00\x00\x00")
    assert found(path)[0][0] == "damaged"
