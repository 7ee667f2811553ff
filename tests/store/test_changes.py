"""What people change: it is bounded, recorded, and leaves finished things alone."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from kdnas.store import changes, queries, slots, studies
from kdnas.store import tables as t
from kdnas.store.database import Store
from kdnas.store.optuna_storage import optuna_storage
from kdnas.store.studies import create_study, delete_study
from kdnas.system.errors import BadOptionError, UsageError
from tests import fakes
from tests.store.test_queries import figures, trial, worker


def slot_states(store: Store, study_id: int) -> list[str]:
    with store.connect() as connection:
        query = sa.select(t.slot.c.state).where(t.slot.c.study_id == study_id).order_by(t.slot.c.slot)
        return list(connection.execute(query).scalars())


def test_the_budget_grows_and_shrinks_by_free_slots_only(store: Store, study_id: int) -> None:
    worker_id = worker(store, study_id)
    for number in range(3):
        trial(store, study_id, worker_id, number, number, **figures())
    changes.set_trials(store, study_id, 10)
    assert len(slot_states(store, study_id)) == 10
    changes.set_trials(store, study_id, 3)
    assert slot_states(store, study_id) == ["done"] * 3
    with pytest.raises(BadOptionError, match=r"cannot be 2: 3 trials are .* planned. Give at least 3"):
        changes.set_trials(store, study_id, 2)
    with pytest.raises(BadOptionError, match="out of range"):
        changes.set_trials(store, study_id, 0)
    assert [e.kind for e in queries.events(store, study_id)] == ["created", "budget", "budget"]


def test_raising_the_budget_opens_a_finished_study(store: Store) -> None:
    study_id = create_study(store, fakes.spec(budget={"trials": 1}))
    trial(store, study_id, worker(store, study_id), 0, 0, **figures())
    assert queries.study_row(store, "fake").ending == "The budget of 1 trial is spent."
    changes.set_trials(store, study_id, 2)
    row = queries.study_row(store, "fake")
    assert (row.ending, row.status) != (None, "finished")
    assert isinstance(slots.claim(store, study_id, 1), slots.Claim)


@pytest.mark.parametrize(
    ("alpha", "beta", "field"),
    [
        (0.1, 0.6, "reward.alpha"),
        (float("nan"), 0.6, "reward.alpha"),
        (-0.1, 0.0, "reward.beta"),
        (-3, 1, "reward.alpha"),
    ],
)
def test_a_reward_out_of_range_changes_nothing(
    store: Store, study_id: int, alpha: float, beta: float, field: str
) -> None:
    with pytest.raises(BadOptionError) as caught:
        changes.set_reward(store, study_id, alpha, beta)
    assert caught.value.field == field
    assert queries.study_row(store, "fake").alpha == -0.06


def test_another_reward_is_recorded_once(store: Store, study_id: int) -> None:
    changes.set_reward(store, study_id, -0.3, 0.6)
    changes.set_reward(store, study_id, -0.3, 0.6)
    [event] = [e for e in queries.events(store, study_id) if e.kind == "reward"]
    assert event.detail == {"from": {"alpha": -0.06, "beta": 0.6}, "to": {"alpha": -0.3, "beta": 0.6}}


def test_a_name_changes_in_both_tables_and_must_be_free(store: Store, study_id: int) -> None:
    create_study(store, fakes.spec("other"))
    changes.rename(store, study_id, "better")
    assert optuna_storage(store).get_study_name_from_id(study_id) == "better"
    assert queries.study_row(store, "better").spec["name"] == "better"
    assert create_study(store, fakes.spec("better")) == study_id
    with pytest.raises(UsageError, match="There is a study 'other' already"):
        changes.rename(store, study_id, "other")
    with pytest.raises(BadOptionError, match="does not fit"):
        changes.rename(store, study_id, "no spaces please")
    assert queries.study_row(store, "better").study_id == study_id


def test_remarks_need_a_trial_and_single_words(store: Store, study_id: int) -> None:
    with pytest.raises(UsageError, match="no trial 4"):
        changes.set_remark(store, study_id, 4, marked=True)
    with pytest.raises(BadOptionError, match="'two words' is not one word"):
        changes.set_remark(store, study_id, 4, tags=["two words"])


def test_the_same_name_with_another_spec_shows_the_difference(store: Store, study_id: int) -> None:
    assert create_study(store, fakes.spec()) == study_id
    # What a begun study may change is no difference.
    assert create_study(store, fakes.spec(budget={"trials": 99}, reward={"alpha": -0.5}, device="auto")) == study_id
    with pytest.raises(UsageError) as caught:
        create_study(store, fakes.spec(seed=5, budget={"epochs": 3}))
    assert "budget.epochs is 2, asked for 3; seed is 0, asked for 5" in str(caught.value)
    assert "another name" in caught.value.hint


def test_two_objectives_are_told_to_optuna(store: Store) -> None:
    study_id = create_study(store, fakes.spec("front", strategy={"name": "nsga2"}))
    assert [d.name for d in optuna_storage(store).get_study_directions(study_id)] == ["MINIMIZE", "MINIMIZE"]


def test_a_death_between_optunas_rows_and_ours_is_mended(store: Store) -> None:
    from kdnas.store.optuna_storage import directions

    left = optuna_storage(store).create_new_study(directions(fakes.spec()), "fake")
    assert create_study(store, fakes.spec()) == left
    # Left by a spec of the other kind: it is begun anew.
    optuna_storage(store).create_new_study(directions(fakes.spec()), "front")
    study_id = create_study(store, fakes.spec("front", strategy={"name": "nsga2"}))
    assert len(optuna_storage(store).get_study_directions(study_id)) == 2


def test_deleting_leaves_no_row_in_either_side(store: Store, study_id: int) -> None:
    worker_id = worker(store, study_id)
    trial(store, study_id, worker_id, 0, 0, **figures())
    changes.set_remark(store, study_id, 0, marked=True)
    changes.add_log(store, study_id, "info", "hello", worker_id)
    studies.leave(store, study_id, worker_id, device=None, error=None)
    other = create_study(store, fakes.spec("other"))
    delete_study(store, "fake")
    with store.connect() as connection:
        for table in t.metadata.sorted_tables:
            if "study_id" in table.c:
                assert set(connection.execute(sa.select(table.c.study_id)).scalars()) <= {other}, table.name
    assert [row.name for row in queries.study_rows(store)] == ["other"]
    with pytest.raises(KeyError):
        optuna_storage(store).get_study_id_from_name("fake")


def test_a_running_study_is_not_deleted(store: Store, study_id: int) -> None:
    import time

    worker(store, study_id, host="elsewhere", heartbeat=time.time())
    with pytest.raises(UsageError, match=r"has 1 running worker. Stop it first"):
        delete_study(store, "fake")
    assert queries.study_row(store, "fake").workers == 1
