"""What is left to itself is looked at first: a detached search that could not begin says so and leaves nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdnas.cli.spec_options import base_values, spec_from
from kdnas.data import shipped
from kdnas.search import launch, ready
from kdnas.search.begin import begin
from kdnas.store import queries
from kdnas.store.changes import set_wanted
from kdnas.store.database import open_reader, open_store
from kdnas.study.states import Status, Wanted
from tests.cli.conftest import Place, Quick


@pytest.fixture(autouse=True)
def no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "start_workers", lambda *given, **named: pytest.fail("a worker was started"))


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--dataset", "gone.txt"), "There is no data at 'gone.txt'"),
        (("--teacher", "./gone"), "gone"),
        (("--set", "space.choices={num_hidden_layers=[99]}"), "99"),
        (("--set", "data.text_column=nothing", "--dataset", "rows.csv"), "nothing"),
    ],
)
def test_a_detached_search_that_cannot_begin_says_so_and_leaves_no_study(
    flags: tuple[str, ...], said: str, place: Place, quick: Quick
) -> None:
    (place.folder / "rows.csv").write_text("text\n" + "the good film\n" * 400)
    done = quick("search", "--spec", str(place.spec), *flags, "--detach")
    assert done.code == 2 and said in done.line
    assert not place.store.exists()


def test_so_does_one_without_room(place: Place, quick: Quick, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ready, "SPARE_BYTES", 2**62)  # more than any disk has
    done = quick("search", "--spec", str(place.spec), "--detach")
    assert done.code == 2 and "MiB are free. Make room there, or name another folder in KDNAS_CACHE." in done.line
    assert not place.store.exists()


def test_a_study_is_not_resumed_without_its_data(place: Place, quick: Quick, shelf: Path) -> None:
    text = place.folder / "text.txt"
    text.write_text((shelf / "text.txt").read_text())
    begin(spec_from(base_values(None, place.spec, None), {"data.source": str(text)}), place.store)
    with open_store(str(place.store)) as store:
        set_wanted(store, queries.study_row(store, "tiny").study_id, Wanted.STOP)
    text.unlink()
    done = quick("resume", "tiny")
    assert done.code == 2 and "There is no data at" in done.line
    with open_reader(place.store) as store:
        assert queries.study_row(store, "tiny").status == Status.STOPPED  # as it was


def test_what_is_fetched_is_said_before(
    place: Place, quick: Quick, shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asset = next(a for a in shipped.ASSETS.values() if a.kind == "teacher")
    fetched: list[str] = []
    monkeypatch.setattr(shipped, "present", lambda name: None)
    monkeypatch.setattr(shipped, "fetch", lambda name, on_progress=None: fetched.append(name) or shelf / "teacher")
    done = quick("plan", "--spec", str(place.spec), "--teacher", asset.name)
    assert done.code == 0, done.err
    assert fetched[0] == asset.name
    assert f"{asset.name} is not on this machine yet: fetching {asset.size_mib:g} MiB" in done.err
