"""A study is of one ground: teacher, tokenizer and data are those that it was begun with, or nobody goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import torch

from kdnas.recipes.contract import Workbench
from kdnas.search.begin import begin
from kdnas.search.recheck import recheck
from kdnas.search.set_up import Prepare
from kdnas.search.worker import run_worker
from kdnas.store import queries, repeats
from kdnas.store import tables as t
from kdnas.store.database import open_reader, open_store
from kdnas.students.distil import Telling
from kdnas.students.finalize import finalize
from kdnas.study.ground import ground_of
from kdnas.study.spec import StudySpec, from_values
from kdnas.system.errors import UsageError
from kdnas.system.progress import Progress
from tests import fakes
from tests.recipes import tiny_causal

GROUND = {"teacher_fingerprint": "t1", "tokenizer_fingerprint": "k1", "data_fingerprint": "d1"}
READ = {"source_fingerprint": "s1"}


def standing_on(**changes: Any) -> Prepare:
    class Bench(fakes.FakeBench):
        def provenance(self) -> dict[str, Any]:
            return {"teacher": "a", "data": "b", "cache": {"place": "disk"}, **READ, **GROUND, **changes}

    def prepare(spec: StudySpec, device: torch.device, on_progress: Progress) -> Workbench:
        return Bench(spec)

    return prepare


def work(path: Path, trials: int, prepare: Prepare) -> int:
    begin(fakes.spec(budget={"trials": trials}), path)
    return run_worker(str(path), "fake", prepare=prepare, measure=fakes.measure)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"teacher_fingerprint": "t2"}, r"The teacher is not the one that the study 'fake' was begun with"),
        ({"tokenizer_fingerprint": "k2"}, r"The tokenizer is not the one"),
        ({"data_fingerprint": "d2"}, r"The data are not those"),
        (dict.fromkeys(GROUND, "other"), r"The teacher, tokenizer and data are not those"),
    ],
)
def test_a_study_goes_on_after_its_ground_has_changed(path: Path, changes: dict[str, Any], said: str) -> None:
    work(path, 2, standing_on())
    with pytest.raises(UsageError, match=said):
        work(path, 4, standing_on(**changes))
    with open_reader(path) as store:
        row = queries.study_of(store, 1)
        assert (row.done, str(row.status)) == (2, "failed")
        assert ground_of(queries.provenance(store, 1)) == GROUND
    # Where the old one is back, so is the study; what else a provenance tells may differ.
    assert work(path, 4, standing_on(cache={"place": "recompute"})) == 0
    with open_reader(path) as store:
        assert queries.study_of(store, 1).done == 4


def test_a_second_worker_of_another_ground_joins(path: Path) -> None:
    tried: list[str] = []

    def join(_: Any) -> None:
        if not tried:
            tried.append("once")
            with pytest.raises(UsageError, match="The teacher is not the one"):
                run_worker(str(path), "fake", prepare=standing_on(teacher_fingerprint="t2"), measure=fakes.measure)

    class Bench(fakes.FakeBench):
        def provenance(self) -> dict[str, Any]:
            return {**READ, **GROUND}

    begin(fakes.spec(budget={"trials": 2}), path)
    assert run_worker(str(path), "fake", prepare=lambda spec, *_: Bench(spec, join), measure=fakes.measure) == 0
    assert tried == ["once"]


def test_leaders_are_rechecked_on_another_ground(path: Path) -> None:
    work(path, 2, standing_on())

    def again(prepare: Prepare) -> None:
        recheck(str(path), "fake", top=1, seeds=1, device=None, say=str, prepare=prepare, measure=fakes.measure)

    with pytest.raises(UsageError, match="The data are not those that the study 'fake' was begun with"):
        again(standing_on(data_fingerprint="d2"))
    with open_reader(path) as store:
        assert not any(repeats.seeds(store, 1, number) for number in (0, 1))
    again(standing_on())
    with open_reader(path) as store:
        assert any(repeats.seeds(store, 1, number) for number in (0, 1))


def test_a_store_of_before_the_fingerprints_is_refused_or_never_learns_them(path: Path) -> None:
    work(path, 2, standing_on())
    old = {"teacher": "a", "teacher_fingerprint": "t1", "versions": {"optuna": "4"}}
    with open_store(path) as store, store.begin() as connection:
        connection.execute(sa.update(t.study).values(provenance=json.dumps(old)))
    assert work(path, 3, standing_on()) == 0
    with open_reader(path) as store:
        assert queries.provenance(store, 1) == {**old, **READ, **GROUND}
    with pytest.raises(UsageError, match="The tokenizer is not the one"):
        work(path, 4, standing_on(tokenizer_fingerprint="k2"))


def test_data_that_an_earlier_version_read_otherwise_are_not_called_changed(path: Path) -> None:
    work(path, 2, standing_on())
    old = {"teacher_fingerprint": "t1", "data_fingerprint": "as it was read then"}
    with open_store(path) as store, store.begin() as connection:
        connection.execute(sa.update(t.study).values(provenance=json.dumps(old)))
    assert work(path, 3, standing_on()) == 0
    with open_reader(path) as store:
        assert queries.provenance(store, 1) == {**READ, **GROUND}
    with pytest.raises(UsageError, match="The data are not those"):
        work(path, 4, standing_on(data_fingerprint="d2"))


def test_real_text_and_a_real_teacher_change_under_a_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDNAS_CACHE", str(tmp_path / "cache"))
    text, teacher = tiny_causal.text_file(tmp_path / "text.txt"), tiny_causal.folder(tmp_path / "teacher")
    spec = from_values(
        {
            "name": "ground",
            "device": "cpu",
            "teacher": {"model": str(teacher)},
            "data": {"source": str(text), "length": 16, "batch_size": 8, "held_out": 0.1},
            "recipe": {"name": "causal-divergence", "top_k": 8},
            "budget": {"trials": 1, "epochs": 1},
            "latency": {"length": 16, "precision": 0.5, "max_seconds": 0.02},
        }
    )
    database = str(tmp_path / "kdnas.db")
    begin(spec, database)
    assert run_worker(database, "ground") == 0
    begin(spec, database, trials=2)
    as_it_was = text.read_bytes()
    text.write_bytes(as_it_was.replace(b"the", b"that"))
    with pytest.raises(UsageError, match="The data are not those that the study 'ground' was begun with"):
        run_worker(database, "ground")
    with pytest.raises(UsageError, match="The data are not those that the study 'ground' was begun with"):
        finalize(database, "ground", tmp_path / "out", Telling(lambda words, share: None))
    assert not (tmp_path / "out").exists()
    text.write_bytes(as_it_was)
    tiny_causal.folder(teacher, seed=5)
    with pytest.raises(UsageError, match="The teacher is not the one that the study 'ground' was begun with"):
        run_worker(database, "ground")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "kdnas.db"
