"""A study that others lend to: what is lent stays as it was when the study began, and who may not lend is refused."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest
import torch

from kdnas.recipes.contract import Workbench
from kdnas.search.begin import begin
from kdnas.search.warm_start import notes
from kdnas.search.worker import run_worker
from kdnas.store import changes, copies, lending, queries
from kdnas.store.database import open_reader, open_store
from kdnas.store.studies import delete_study
from kdnas.study.loan import Loan
from kdnas.study.rows import Status, TrialRow
from kdnas.study.spec import StudySpec
from kdnas.system.errors import BadOptionError
from kdnas.system.progress import Progress
from tests import fakes
from tests.forks import Forked
from tests.search.test_earlier_stores import EARLIER
from tests.search.test_worker_processes import Place, place, told, until

__all__ = ["place"]  # the fixture

LENDER = fakes.spec("lender", seed=5, budget={"trials": 12, "epochs": 1})
DIMENSIONS = {d.name: d.choices for d in fakes.SPACE.dimensions}


def work(path: Path, spec: StudySpec, teacher: str = "none") -> None:
    class Bench(fakes.FakeBench):
        def provenance(self) -> dict[str, Any]:
            return {"teacher": {"fingerprint": teacher}}

    def prepare(spec: StudySpec, device: torch.device, on_progress: Progress) -> Workbench:
        return Bench(spec)

    begin(spec, path)
    assert run_worker(str(path), spec.name, prepare=prepare, measure=fakes.measure) == 0


def rows(path: Path, name: str) -> list[TrialRow]:
    with open_reader(path) as store:
        return queries.trial_rows(store, queries.study_row(store, name).study_id)


def loan(path: Path, name: str) -> Loan:
    with open_reader(path) as store:
        return lending.loan_of(store, queries.study_row(store, name).study_id)


def borrower(strategy: str = "auto", **parts: Any) -> StudySpec:
    budget = {"trials": 6, "epochs": 2, **parts.pop("budget", {})}
    return fakes.spec("borrower", strategy={"name": strategy}, budget=budget, **parts)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "kdnas.db"
    work(path, LENDER)
    return path


def test_a_study_of_the_same_teacher_is_found_and_saves_trials(path: Path, tmp_path: Path) -> None:
    work(path, borrower())
    assert str(loan(path, "borrower")) == "12 trials of lender"
    alone = tmp_path / "alone.db"
    work(alone, borrower(like="none"))
    rewards = [[r.reward or 0 for r in rows(store, "borrower")] for store in (path, alone)]
    assert rewards[0][0] > max(rewards[1][:3])
    with open_reader(path) as store:
        row = queries.study_row(store, "borrower")
        said = [line.line for line in queries.logs(store, row.study_id)]
        kinds = {event.kind: dict(event.detail) for event in queries.events(store, row.study_id)}
    assert "warm start: 12 trials of lender are lent" in said
    assert kinds["lent"] == {"by": "12 trials of lender"}  # without the trials: screens read it each second


def test_one_that_asks_the_same_question_lends_only_where_it_is_named(path: Path) -> None:
    other = {"strategy": "tpe", "seed": 7, "reward": {"alpha": -0.3}, "budget": {"epochs": 1, "trials": 2}}
    work(path, borrower(**other))
    assert not loan(path, "borrower")
    work(path, borrower(**other, like="lender").model_copy(update={"name": "named"}))
    assert str(loan(path, "named")) == "12 trials of lender"


def test_with_none_nothing_is_lent(path: Path) -> None:
    work(path, borrower(like="none"))
    assert not loan(path, "borrower")


@pytest.mark.parametrize("strategy", ["auto", "lstm"])
def test_killed_it_goes_on_just_so_whatever_becomes_of_the_lender(place: Place, tmp_path: Path, strategy: str) -> None:
    options = {"budget": {"trials": 7}}
    whole = tmp_path / "whole.db"
    work(whole, LENDER)
    work(whole, borrower(strategy, **options))

    spec = borrower(strategy, **options)
    work(place.path, LENDER)
    begin(spec, place.path)

    def fork() -> Forked:
        def go_on() -> int:
            return run_worker(str(place.path), "borrower", prepare=fakes.prepare, measure=fakes.measure)

        place.started.append(forked := Forked(go_on))
        return forked

    def done() -> list[TrialRow]:
        return [row for row in rows(place.path, "borrower") if row.state == "done"]

    worker = fork()
    until(lambda: len(done()) >= 2)
    place.hold()
    until(lambda: place.held() or len(done()) == 7)
    worker.kill()
    worker.wait()
    assert 2 <= len(done()) < 7
    with open_store(place.path) as store:
        changes.set_trials(store, queries.study_row(store, "lender").study_id, 20)
        changes.set_reward(store, queries.study_row(store, "lender").study_id, -1.0, 0.1)
        delete_study(store, "lender")
    place.let_go()
    work(place.path, fakes.spec("lender", seed=9, budget={"trials": 9, "epochs": 2}))
    assert fork().wait() == 0
    assert told(rows(place.path, "borrower")) == told(rows(whole, "borrower"))
    assert loan(place.path, "borrower").lenders == loan(whole, "borrower").lenders


def test_a_loan_goes_with_the_study_into_a_copy(path: Path, tmp_path: Path) -> None:
    work(path, borrower())
    with open_reader(path) as source, open_store(tmp_path / "copy.db", create=True) as target:
        copies.copy(source, target, ["borrower"])
    assert loan(tmp_path / "copy.db", "borrower").lenders == loan(path, "borrower").lenders


def test_lent_trials_are_weighed_by_what_the_study_asks_for_now(path: Path) -> None:
    work(path, borrower(constraints={"max_latency_ms": 2.0}))
    with open_store(path) as store:
        study_id = queries.study_row(store, "borrower").study_id
        changes.set_reward(store, study_id, -0.5, 0.5)
        lent = lending.loan_of(store, study_id)
    one = lent.trials[0]
    assert (lent.alpha, lent.beta) == (-0.5, 0.5)
    assert (lent.violations(one)["max_latency_ms"] > 0) == (10.0 * one.ratio > 2.0)


# ---------------------------------------------------------------------------- who lends


def refused(path: Path, spec: StudySpec, teacher: str = "none") -> str:
    with pytest.raises(BadOptionError) as said:
        work(path, spec, teacher)
    return str(said.value)


def test_another_teacher_is_refused_where_it_is_named_and_else_left_alone(path: Path) -> None:
    assert "by the weights' fingerprint" in refused(path, borrower(like="lender"), teacher="other")
    with open_reader(path) as store:
        row = queries.study_row(store, "borrower")
        assert row.status == Status.FAILED and "'lender' cannot lend its trials" in (row.ending or "")
    work(path, borrower(), teacher="other")  # the same name is free, since nothing was tried
    assert not loan(path, "borrower") and len(rows(path, "borrower")) == 6


def test_studies_that_time_different_things_lend_each_other_nothing(path: Path) -> None:
    causal: dict[str, Any] = {"recipe": {"name": "causal-divergence"}}
    work(path, fakes.spec("passes", budget={"trials": 7}, **causal))
    tokens = borrower(**causal, latency={"what": "token"})
    work(path, tokens)
    assert not loan(path, "borrower")
    named = tokens.model_copy(update={"name": "named", "like": "passes"})
    assert "it times another thing (latency.what is first, and this one's token)" in refused(path, named)
    work(path, borrower(**causal, reward={"alpha": -0.2}, budget={"epochs": 1}).model_copy(update={"name": "again"}))
    assert str(loan(path, "again")) == "7 trials of passes"


def test_studies_that_time_in_two_dtypes_lend_each_other_nothing(path: Path) -> None:
    half = borrower(latency={"dtype": "bfloat16"})
    named = half.model_copy(update={"name": "named", "like": "lender"})
    assert "it times in another dtype (latency.dtype is auto, and this one's bfloat16)" in refused(path, named)
    work(path, half)
    assert not loan(path, "borrower")
    work(path, half.model_copy(update={"name": "again", "budget": named.budget.model_copy(update={"epochs": 1})}))
    assert str(loan(path, "again")) == "6 trials of borrower"


@pytest.mark.parametrize(
    ("name", "why"), [("nobody", "there is no such study in this store"), ("empty", "it has no finished trials")]
)
def test_who_cannot_lend_is_refused_before_a_study_is_begun(path: Path, name: str, why: str) -> None:
    begin(fakes.spec("empty"), path)
    assert f"The study {name!r} cannot lend its trials: {why}." in refused(path, borrower(like=name))
    with open_reader(path) as store:
        assert queries.find_study(store, "borrower") is None


def test_of_a_space_that_only_overlaps_the_trials_in_common_are_lent(path: Path) -> None:
    few = {"num_hidden_layers": [1, 2, 3, 4]}
    work(path, borrower(space={"choices": few}))
    inside = [r for r in rows(path, "lender") if r.candidate["num_hidden_layers"] in few["num_hidden_layers"]]
    assert len(loan(path, "borrower").trials) == len(inside) < 12
    said = refused(
        path,
        fakes.spec("other", like="lender", strategy={"name": "auto"}, space={"choices": {"num_hidden_layers": [8]}}),
    )
    assert "of its finished trials lie in this space, and it takes 6" in said


def test_the_plan_says_who_would_lend_and_what_that_saves(path: Path) -> None:
    said = notes(borrower(), DIMENSIONS, str(path))
    assert len(said) == 1 and "Warm start: 12 trials of lender are lent." in said[0] and "in 1 evaluation" in said[0]
    assert notes(borrower(like="none"), DIMENSIONS, str(path)) == ()
    assert notes(borrower("random"), DIMENSIONS, str(path)) == ()
    assert notes(borrower(teacher={"model": "bert-base-uncased"}), DIMENSIONS, str(path)) == ()
    with pytest.raises(BadOptionError, match="its teacher is all-minilm-l6-v2, and this one's bert-base-uncased"):
        notes(borrower(like="lender", teacher={"model": "bert-base-uncased"}), DIMENSIONS, str(path))
    with pytest.raises(BadOptionError, match="there is no store yet"):
        notes(borrower(like="lender"), DIMENSIONS, str(path.with_name("other.db")))


def test_a_store_of_an_earlier_version_lends_to_a_new_study(tmp_path: Path) -> None:
    path = tmp_path / "kdnas.db"
    path.write_bytes(gzip.decompress((EARLIER / "half-finished-lstm.db.gz").read_bytes()))
    path.chmod(0o600)
    work(path, borrower())
    assert str(loan(path, "borrower")) == "8 trials of fake"
    assert not loan(path, "fake")  # begun without any, and it stays so
