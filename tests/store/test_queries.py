"""What the store tells: true states, only what is new, figures under the present α/β."""

from __future__ import annotations

import json
import os
import time
from typing import Any

import pytest
import sqlalchemy as sa

from kdnas.store import changes, queries, repeats, slots, studies
from kdnas.store import tables as t
from kdnas.store.complaints import StoreError
from kdnas.store.database import Store
from kdnas.store.studies import create_study
from kdnas.study.reward import reward
from kdnas.study.rows import Status
from kdnas.system import liveness
from kdnas.system.errors import UsageError
from tests import fakes


def worker(store: Store, study_id: int, state: str = "running", *, lock: str | None = None, **columns: Any) -> int:
    with store.begin() as connection:
        values = {
            "host": liveness.this_host(),
            "pid": 1,
            "lock": lock,
            "state": state,
            "task": "search",
            "started": 0.0,
            "heartbeat": 0.0,
            **columns,
        }
        return connection.execute(
            t.worker.insert().values(study_id=study_id, **values).returning(t.worker.c.worker_id)
        ).scalar_one()


def status(store: Store) -> Status:
    return queries.study_row(store, "fake").status


def trial(store: Store, study_id: int, worker_id: int, number: int, ordinal: int, **columns: Any) -> int:
    """A trial that a worker has begun; finished where `columns` say how."""
    claimed = slots.claim(store, study_id, worker_id)
    assert isinstance(claimed, slots.Claim)
    candidate = fakes.SPACE.from_ordinal(ordinal)
    clash = slots.propose(
        store,
        study_id,
        claimed.slot,
        worker_id,
        number,
        candidate,
        fakes.SPACE.key(candidate),
        config={},
        origin="strategy",
        predicted=None,
        seed=1,
        epochs=2,
    )
    assert clash is None
    if columns:
        state = columns.pop("state", "done")
        slots.finish(store, study_id, claimed.slot, number, state, **columns)
    return claimed.slot


FIGURES = {"loss": 0.3, "raw_loss": 0.6, "latency_ms": 2.0, "teacher_latency_ms": 10.0, "alpha": -0.06, "beta": 0.6}


def figures(**others: float) -> dict[str, float]:
    values = {**FIGURES, **others}
    rewarded = reward(
        values["loss"], values["latency_ms"], values["teacher_latency_ms"], values["alpha"], values["beta"]
    )
    return {**values, "reward": rewarded}


# ---------------------------------------------------------------------------- status


def test_a_study_without_workers_is_new_and_follows_what_is_wanted(store: Store, study_id: int) -> None:
    assert status(store) == Status.NEW
    changes.set_wanted(store, study_id, "pause")
    assert status(store) == Status.PAUSED
    changes.set_wanted(store, study_id, "stop")
    assert status(store) == Status.STOPPED


def test_status_while_a_worker_holds_its_lock_and_after(store: Store, study_id: int) -> None:
    hold = liveness.Hold()
    worker_id = worker(store, study_id, lock=str(hold.path))
    assert status(store) == Status.RUNNING
    changes.set_wanted(store, study_id, "pause")
    assert status(store) == Status.PAUSING
    studies.beat(store, study_id, worker_id, state="paused", doing=None, device=None, news=True)
    assert status(store) == Status.PAUSED
    changes.set_wanted(store, study_id, "stop")
    assert status(store) == Status.STOPPING
    hold._file, file = -1, hold._file
    os.close(file)  # what the kernel does on death: the lock goes, the file stays
    assert status(store) == Status.DEAD
    assert [w.state for w in queries.workers(store, study_id)] == ["dead"]
    studies.leave(store, study_id, worker_id, device=None, error=None)
    assert status(store) == Status.STOPPED
    hold.path.unlink()


def test_a_heartbeat_alone_is_no_revision_of_the_study_and_one_with_news_is(store: Store, study_id: int) -> None:
    worker_id = worker(store, study_id)
    with store.begin() as connection:
        connection.execute(t.worker.update().values(heartbeat=1.0))
    before = queries.study_row(store, "fake").revision
    studies.beat(store, study_id, worker_id, state="running", doing="trial 3", device="cpu", news=False)
    (row,) = queries.workers(store, study_id)
    assert row.heartbeat == pytest.approx(time.time(), abs=60) and row.doing == "trial 3"
    assert queries.study_row(store, "fake").revision == before
    studies.beat(store, study_id, worker_id, state="paused", doing="trial 3", device="cpu", news=True)
    assert queries.study_row(store, "fake").revision == before + 1


def test_a_heartbeat_of_a_deleted_study_says_so(store: Store, study_id: int) -> None:
    worker_id = worker(store, study_id)
    studies.leave(store, study_id, worker_id, device=None, error=None)
    studies.delete_study(store, "fake")
    with pytest.raises(StoreError, match="The study was deleted"):
        studies.beat(store, study_id, worker_id, state="running", doing=None, device=None, news=False)


def test_a_worker_that_failed_says_why(store: Store, study_id: int) -> None:
    worker_id = worker(store, study_id)
    studies.leave(store, study_id, worker_id, device=None, error="The teacher is gone.")
    row = queries.study_row(store, "fake")
    assert (row.status, row.ending) == (Status.FAILED, "The teacher is gone.")
    assert queries.workers(store, study_id)[0].error == "The teacher is gone."


def test_a_worker_on_another_host_lives_by_its_heartbeat(store: Store, study_id: int) -> None:
    silent = worker(store, study_id, host="elsewhere", lock="/x", heartbeat=time.time() - liveness.STALE_S - 1)
    assert status(store) == Status.DEAD
    worker(store, study_id, host="elsewhere", lock="/x", heartbeat=time.time())
    row = queries.study_row(store, "fake")
    assert (row.status, row.workers, row.hosts) == (Status.RUNNING, 1, ("elsewhere",))
    assert [w.alive for w in queries.workers(store, study_id)] == [False, True]
    assert queries.workers(store, study_id)[0].worker_id == silent


def test_a_recheck_does_not_make_a_study_run(store: Store, study_id: int) -> None:
    worker(store, study_id, task="recheck", host="elsewhere", heartbeat=time.time())
    assert status(store) == Status.NEW


def test_the_last_worker_decides_and_a_finished_study_is_finished(store: Store, study_id: int) -> None:
    worker(store, study_id, "failed", ended=5.0)
    worker(store, study_id, "ended", ended=9.0)
    assert status(store) == Status.STOPPED
    with store.begin() as connection:
        connection.execute(sa.update(t.study).values(finished=1.0, ending="spent"))
    assert status(store) == Status.FINISHED


# ---------------------------------------------------------------------------- trials


def test_only_what_changed_is_told_again(store: Store, study_id: int) -> None:
    worker_id = worker(store, study_id)
    for number in range(3):
        trial(store, study_id, worker_id, number, number, **figures())
    rows = queries.trial_rows(store, study_id)
    assert [row.number for row in rows] == [0, 1, 2]
    seen = queries.study_row(store, "fake").revision
    assert queries.trial_rows(store, study_id, seen) == []
    changes.set_remark(store, study_id, 1, marked=True, tags=["good", "small"], note="try it")
    [row] = queries.trial_rows(store, study_id, seen)
    assert (row.number, row.marked, row.tags, row.note) == (1, True, ("good", "small"), "try it")
    seen = row.revision
    changes.set_remark(store, study_id, 1, note="tried")
    [row] = queries.trial_rows(store, study_id, seen)
    assert (row.marked, row.tags, row.note) == (True, ("good", "small"), "tried")
    repeats.add(store, study_id, 2, 77, loss=0.5, raw_loss=1.0, latency_ms=2.0, teacher_latency_ms=10.0)
    [row] = queries.trial_rows(store, study_id, row.revision)
    assert (row.number, row.repeats, row.mean_loss, row.mean_raw_loss) == (2, 1, 0.4, 0.8)
    assert row.loss_spread == pytest.approx(0.2 / 2**0.5)
    assert row.speedup == 5.0


def test_curves_come_in_order_and_only_those_asked_for(store: Store, study_id: int) -> None:
    worker_id = worker(store, study_id)
    point = {"raw_loss": 1.0, "train_loss": 1.1, "seconds": 0.5, "tokens": 10}
    for number in range(2):
        trial(store, study_id, worker_id, number, number)
        for epoch in (1, 2):
            slots.epoch(store, study_id, number, {"epoch": epoch, "loss": 1 / epoch, **point}, progress=0.5)
    found = queries.curves(store, study_id, [1, 7])
    assert {number: [p.loss for p in points] for number, points in found.items()} == {1: [1.0, 0.5], 7: []}
    assert queries.trial_rows(store, study_id)[1].epoch == 2


def test_counts_and_best(store: Store, study_id: int) -> None:
    hold = liveness.Hold()
    worker_id = worker(store, study_id, lock=str(hold.path))
    trial(store, study_id, worker_id, 0, 0, **figures())
    trial(store, study_id, worker_id, 1, 1, **figures(loss=0.2))
    trial(store, study_id, worker_id, 2, 2, state="pruned", **figures(loss=0.1))
    trial(store, study_id, worker_id, 3, 3, state="failed", error="it burnt")
    trial(store, study_id, worker_id, 4, 4)
    row = queries.study_row(store, "fake")
    assert (row.done, row.pruned, row.failed, row.running, row.trials) == (4, 1, 1, 1, 8)
    assert (row.best_number, row.best_reward) == (1, figures(loss=0.2)["reward"])
    assert row.eta_s is not None and 0 <= row.eta_s < 60  # they took no time
    hold.release()
    row = queries.study_row(store, "fake")
    assert (row.running, row.workers) == (0, 0)  # nobody is at it any more


def test_the_best_is_the_best_under_the_present_reward_and_by_the_mean(store: Store, study_id: int) -> None:
    worker_id = worker(store, study_id)
    trial(store, study_id, worker_id, 0, 0, **figures(loss=0.2, latency_ms=8.0))
    trial(store, study_id, worker_id, 1, 1, **figures(loss=0.22, latency_ms=1.0))
    assert queries.study_row(store, "fake").best_number == 1
    changes.set_reward(store, study_id, 0.0, 0.6)
    row = queries.study_row(store, "fake")
    assert (row.best_number, row.best_reward, row.alpha) == (0, 0.8, 0.0)
    repeats.add(store, study_id, 0, 5, loss=0.6, raw_loss=1.2, latency_ms=8.0, teacher_latency_ms=10.0)
    assert queries.study_row(store, "fake").best_number == 1


def test_an_unknown_study_names_the_nearest(store: Store, study_id: int) -> None:
    with pytest.raises(UsageError, match=r"There is no study 'fakke' .* Did you mean 'fake'"):
        queries.study_row(store, "fakke")


def test_logs_are_the_last_lines_oldest_first(store: Store, study_id: int) -> None:
    for n in range(5):
        changes.add_log(store, study_id, "info", f"line {n}\n")
    assert [row.line for row in queries.logs(store, study_id, limit=2)] == ["line 3", "line 4"]
    third = queries.logs(store, study_id)[2].log_id
    assert [row.line for row in queries.logs(store, study_id, after=third)] == ["line 3", "line 4"]


def test_studies_are_told_apart(store: Store, study_id: int) -> None:
    other = create_study(store, fakes.spec("other", budget={"trials": 3}))
    trial(store, other, worker(store, other), 0, 0, **figures())
    changes.set_wanted(store, study_id, "pause")
    rows = {row.name: row for row in queries.study_rows(store)}
    assert (rows["fake"].done, rows["other"].done) == (0, 1)
    assert (rows["fake"].best_number, rows["other"].best_number) == (None, 0)
    assert next(iter(rows)) == "fake"  # it changed last
    assert json.loads(json.dumps(rows["fake"].spec))["name"] == "fake"
