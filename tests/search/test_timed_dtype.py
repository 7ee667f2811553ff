"""A study whose models cannot be timed in its dtype: refused before it begins, and asked only of who measures."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import pytest
import torch

from kdnas.measuring import devices, passes
from kdnas.measuring.passes import DtypeError, Once
from kdnas.recipes.contract import Workbench
from kdnas.search import joining
from kdnas.search.begin import begin
from kdnas.search.candidate import Timed
from kdnas.search.recheck import recheck
from kdnas.search.set_up import Prepare
from kdnas.search.worker import run_worker
from kdnas.store import queries, repeats
from kdnas.store.database import open_reader, open_store
from kdnas.students.distil import Job, Telling, distil
from kdnas.study.rows import Status
from kdnas.study.space import Candidate
from kdnas.study.spec import StudySpec
from kdnas.system.errors import KdnasError, UsageError
from kdnas.system.progress import Progress
from kdnas.training.contract import Student
from tests import fakes

HALF = {"dtype": "bfloat16"}
WHY = 'cannot be timed in bfloat16 on cpu: "a_kernel" not implemented.'


class Bench(fakes.FakeBench):
    """Whose teacher, or whose students, have no kernels."""

    def __init__(self, spec: StudySpec, whose: str) -> None:
        super().__init__(spec)
        self.whose = whose

    def timed(self, student: Student | None) -> Once:
        if (student is None) == (self.whose == "teacher"):
            raise DtypeError(f"BertModel {WHY}", "Take another latency.dtype, or auto.")
        return super().timed(student)


def bench_of(whose: str) -> Prepare:
    def prepare(spec: StudySpec, device: torch.device, on_progress: Progress) -> Workbench:
        return Bench(spec, whose)

    return prepare


def work(path: Path, whose: str) -> int:
    def measure(bench: Workbench, student: Student, candidate: Candidate) -> Timed:
        bench.timed(student)
        return fakes.measure(bench, student, candidate)

    return run_worker(str(path), "fake", prepare=bench_of(whose), measure=measure)


def test_a_teacher_that_cannot_be_timed_is_refused_and_its_study_may_be_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "kdnas.db"
    begin(fakes.spec(latency=HALF), path)
    with pytest.raises(UsageError) as caught:
        work(path, "teacher")
    assert str(caught.value) == f"The teacher: BertModel {WHY} Take another latency.dtype, or auto."
    with open_reader(path) as store:
        row = queries.study_row(store, "fake")
        assert row.status is Status.FAILED and row.space_size is None and not queries.trial_rows(store, 1)
    again = begin(fakes.spec(), path)
    assert not again.resumed
    assert work(path, "teacher") == 0  # without a dtype nothing is tried


def test_a_student_that_cannot_be_timed_fails_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "_frozen", WeakKeyDictionary())  # copies of other tests' teachers, which would be told
    path = tmp_path / "kdnas.db"
    begin(fakes.spec(latency=HALF, budget={"trials": 2}), path)
    with pytest.raises(KdnasError, match="All 2 trials failed, the last one so: BertModel cannot be timed in bfloat16"):
        work(path, "students")
    with open_reader(path) as store:
        rows = queries.trial_rows(store, 1)
        assert [row.state for row in rows] == ["failed"] * 2 and all(row.latency_ms is None for row in rows)
        said = [line.line for line in queries.logs(store, 1)]
    assert "teacher and students are timed in bfloat16" in said


@pytest.mark.parametrize(("how", "there"), [(None, False), ("leave", False), ("mix", True)])
def test_who_leaves_latency_to_others_is_not_asked(tmp_path: Path, how: str | None, there: bool) -> None:
    path = tmp_path / "kdnas.db"
    begin(fakes.spec(budget={"trials": 1}), path)
    device = devices.device_name(torch.device("cpu"))
    with open_store(path) as store:
        assert joining.measures(store, 1, "cpu: Another")  # the first
    assert run_worker(str(path), "fake", prepare=fakes.prepare, measure=fakes.measure) == 0
    with open_store(path) as store:
        if how is not None:
            joining.allow_unlike(store, 1, how)
        assert joining.measures(store, 1, device) and joining.measures(store, 1, "cpu: Another") is there


def test_leaders_are_not_evaluated_again_where_their_teacher_cannot_be_timed(tmp_path: Path) -> None:
    path = tmp_path / "kdnas.db"
    begin(fakes.spec(latency=HALF, budget={"trials": 2}), path)
    assert run_worker(str(path), "fake", prepare=fakes.prepare, measure=fakes.measure) == 0
    asked: dict[str, Any] = {"top": 1, "seeds": 1, "device": "cpu", "say": lambda line: None, "measure": fakes.measure}
    with pytest.raises(UsageError, match="The teacher: BertModel cannot be timed in bfloat16"):
        recheck(str(path), "fake", prepare=bench_of("teacher"), **asked)
    with open_store(path) as store:
        assert not repeats.seeds(store, 1, 0) and not repeats.seeds(store, 1, 1)
    again = recheck(str(path), "fake", prepare=fakes.prepare, **asked)
    assert again[0].row.repeats == 1


def test_no_student_is_distilled_that_cannot_be_timed(tmp_path: Path) -> None:
    job = Job(fakes.spec(latency=HALF), fakes.SPACE.from_ordinal(0))
    bench, begun = bench_of("teacher"), Telling(lambda words, share: None, lambda epoch: pytest.fail("it was trained"))
    with pytest.raises(UsageError, match="The teacher: BertModel cannot be timed in bfloat16"):
        distil(job, tmp_path / "student", begun, device="cpu", prepare=bench)
    assert not (tmp_path / "student").exists()


def test_a_study_keeps_the_dtype_that_it_was_begun_with(tmp_path: Path) -> None:
    path = tmp_path / "kdnas.db"
    begin(fakes.spec(), path)
    assert run_worker(str(path), "fake", prepare=fakes.prepare, measure=fakes.measure) == 0
    with pytest.raises(UsageError, match=r"latency\.dtype"):
        begin(fakes.spec(latency=HALF), path)
