"""Episodes in the store: planned once, whatever dies, is enqueued, is added to the budget or fails."""

from __future__ import annotations

import json
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from kdnas.search import episodes
from kdnas.search.begin import begin
from kdnas.search.worker import run_worker
from kdnas.store import changes, queries, slots
from kdnas.store import tables as t
from kdnas.store.database import Store, open_reader, open_store
from kdnas.strategies import SpaceExhausted
from kdnas.study.rows import TrialRow
from kdnas.study.spec import StudySpec
from tests import fakes
from tests.search.test_worker_processes import Place, check_history, told, uninterrupted

SAMPLES = 4


def spec(trials: int = 60, **strategy: Any) -> StudySpec:
    return fakes.spec(
        strategy={"name": "lstm", "samples": SAMPLES, "pool": 60, **strategy},
        budget={"trials": trials, "epochs": 1, "attempts": 100},
    )


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "kdnas.db"


class Study:
    """A study's slots, worked through without a process or Optuna: the store's side of a search."""

    def __init__(self, path: Path, wanted: StudySpec) -> None:
        self.path, self.spec = path, wanted
        self.study_id = begin(wanted, path).study_id
        self.number = 0

    def work(self, store: Store, count: int, fail: tuple[int, ...] = ()) -> None:
        for _ in range(count):
            episodes.plan_next(store, self.study_id, self.spec, fakes.SPACE)
            claim = slots.claim(store, self.study_id, 1, planned_only=True)
            assert isinstance(claim, slots.Claim) and claim.candidate is not None
            self.finish(store, claim, claim.slot in fail)

    def finish(self, store: Store, claim: slots.Claim, failed: bool) -> None:
        assert claim.candidate is not None
        self.number += 1
        slot, candidate, key = claim.slot, claim.candidate, fakes.SPACE.key(claim.candidate)
        facts: dict[str, Any] = {"config": {}, "origin": claim.origin, "predicted": None, "seed": 0, "epochs": 1}
        assert slots.propose(store, self.study_id, slot, 1, self.number, candidate, key, **facts) is None
        if failed:
            slots.finish(store, self.study_id, slot, self.number, "failed", error="it broke")
            return
        found = {"loss": fakes.loss(candidate), "latency_ms": fakes.latency_ms(candidate), "teacher_latency_ms": 10.0}
        slots.finish(store, self.study_id, slot, self.number, "done", **found)

    def candidates(self, store: Store) -> list[tuple[int, str, str]]:
        s = t.slot.c
        query = sa.select(s.slot, s.candidate, s.origin).where(s.study_id == self.study_id).order_by(s.slot)
        with store.connect() as connection:
            return [tuple(row) for row in connection.execute(query)]  # type: ignore[misc]

    def states(self, store: Store) -> list[bytes]:
        with store.connect() as connection:
            query = sa.select(t.episode.c.state).where(t.episode.c.study_id == self.study_id)
            return list(connection.execute(query.order_by(t.episode.c.episode)).scalars())


@pytest.mark.parametrize("controller", ["ours", "paper"])
def test_stopped_after_every_trial_and_taken_up_by_new_objects(tmp_path: Path, controller: str) -> None:
    whole = Study(tmp_path / "whole.db", spec(24, controller=controller, samples=SAMPLES, pool=60))
    with open_store(whole.path) as store:
        whole.work(store, 24)
        expected, states = whole.candidates(store), whole.states(store)
    halting = Study(tmp_path / "halting.db", whole.spec)
    for _ in range(24):
        with open_store(halting.path) as store:
            halting.work(store, 1)
    with open_store(halting.path) as store:
        assert halting.candidates(store) == expected
        assert halting.states(store) == states
    assert len({candidate for _, candidate, _ in expected}) == 24


def test_an_episode_waits_for_the_one_before_it(path: Path) -> None:
    study = Study(path, spec())
    with open_store(path) as store:
        study.work(store, SAMPLES - 1)
        held = slots.claim(store, study.study_id, 2, planned_only=True)
        assert isinstance(held, slots.Claim) and held.candidate is not None
        episodes.plan_next(store, study.study_id, study.spec, fakes.SPACE)
        assert len(study.states(store)) == 1
        assert isinstance(slots.claim(store, study.study_id, 1, planned_only=True), slots.Left)
        slots.give_up(store, study.study_id, held.slot, 2, attempts=3, why="died")
        again = slots.claim(store, study.study_id, 1, planned_only=True)
        assert isinstance(again, slots.Claim) and again.candidate == held.candidate


def test_a_plan_that_a_death_undoes_is_made_again_just_the_same(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = Study(path, spec())
    with open_store(path) as store:
        study.work(store, SAMPLES)
    shutil.copy(path, tmp_path / "copy.db")
    with open_store(path) as store, monkeypatch.context() as patched:
        patched.setattr(episodes, "_fill", lambda *given: (_ for _ in ()).throw(MemoryError))
        with pytest.raises(MemoryError):
            episodes.plan_next(store, study.study_id, study.spec, fakes.SPACE)
        assert len(study.states(store)) == 1
    with open_store(path) as store, open_store(tmp_path / "copy.db") as copy:
        for each in (store, copy):
            episodes.plan_next(each, study.study_id, study.spec, fakes.SPACE)
        assert study.candidates(store) == study.candidates(copy)
        assert study.states(store) == study.states(copy)


def test_a_larger_budget_goes_on_in_the_episode_that_it_cut(tmp_path: Path) -> None:
    whole = Study(tmp_path / "whole.db", spec(20))
    with open_store(whole.path) as store:
        whole.work(store, 20)
        expected = whole.candidates(store)
    grown = Study(tmp_path / "grown.db", spec(6))
    with open_store(grown.path) as store:
        grown.work(store, 6)
        changes.set_trials(store, grown.study_id, 20)
        grown.work(store, 14)
        assert grown.candidates(store) == expected


def test_what_people_enqueue_takes_a_place_in_its_episode(path: Path) -> None:
    study = Study(path, spec(12))
    mine = fakes.SPACE.from_ordinal(7)
    with open_store(path) as store:
        with store.begin() as connection:
            connection.execute(
                sa.update(t.slot)
                .where(t.slot.c.slot == 1)
                .values(candidate=json.dumps(mine), candidate_key=fakes.SPACE.key(mine), origin="enqueued")
            )
        study.work(store, 12)
        rows = study.candidates(store)
    assert rows[1][2] == "enqueued"
    assert len({candidate for _, candidate, _ in rows}) == 12


def test_failed_candidates_teach_nothing_and_come_no_more(path: Path) -> None:
    study = Study(path, spec(16))
    with open_store(path) as store:
        study.work(store, 16, fail=(0, 5, 6, 7, 8, 9, 10, 11))
        assert len({candidate for _, candidate, _ in study.candidates(store)}) == 16
        last = queries.episodes(store, study.study_id)[-1]
    assert last.facts["lessons"] == 4  # of the 12 slots before it, 8 have failed
    assert last.previous_best is None  # of the episode before it, none


def test_a_space_smaller_than_the_budget_is_seen_whole(path: Path) -> None:
    choices = {"num_hidden_layers": (1, 2), "num_attention_heads": (1, 2), "intermediate_size": (128, 256)}
    small = spec(60).model_copy(update={"space": spec().space.model_copy(update={"choices": choices})})
    begin(small, path)
    assert run_worker(str(path), small.name, prepare=fakes.prepare, measure=fakes.measure) == 0
    with open_reader(path) as store:
        row = queries.study_row(store, small.name)
        assert row.done == 24 and "All 24 candidates" in (row.ending or "")
    with open_store(path) as store, pytest.raises(SpaceExhausted):
        episodes.plan_next(store, 1, small, fakes.FakeBench(small).space)


def test_the_screens_find_what_the_controller_foresaw(path: Path) -> None:
    begin(spec(12), path)
    run_worker(str(path), "fake", prepare=fakes.prepare, measure=fakes.measure)
    with open_reader(path) as store:
        rows: list[TrialRow] = queries.trial_rows(store, 1)
        known = queries.episodes(store, 1)
    assert [e.episode for e in known] == [0, 1, 2]
    assert {r.origin for r in rows} == {"controller", "random"}
    assert all(r.predicted is not None for r in rows if r.origin == "controller")
    for e in known[1:]:
        assert e.controller_loss is not None and e.global_best is not None and len(e.facts["choices"]) == SAMPLES


@pytest.mark.long
def test_killed_at_200_random_moments_nothing_is_lost_or_done_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = spec(60)
    expected = uninterrupted(tmp_path, chosen)
    moments, kills, round_ = random.Random(5), 0, 0
    while kills < 200:
        folder = tmp_path / f"round-{round_}"
        folder.mkdir()
        place = Place(folder)
        monkeypatch.setenv("KDNAS_FAKE", str(place.folder))
        begin(chosen, place.path)
        before: list[Any] = []
        finished = False
        killed_here = 0
        while not finished:
            worker = place.fork()
            if kills < 200:
                time.sleep(moments.uniform(0.0, 1.5))  # a moment, not a wait for anything
                worker.kill()
            finished = worker.wait() == 0
            killed_here += not finished
            kills += not finished
            now = told(place.rows())
            assert now[: len(before)] == before
            before = now
        check_history(place, chosen, killed_here)
        # Begun again is what had been begun and not finished: at most one candidate a kill.
        assert sum(place.begun().values()) <= 60 + killed_here
        assert told(place.rows()) == expected
        round_ += 1
