"""Optuna's trials in few transactions: the same rows as Optuna's own storage writes, and nothing read twice."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import optuna
import pytest
import sqlalchemy as sa
from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import RDBStorage, get_storage
from optuna.trial import FrozenTrial, TrialState

from kdnas.search.begin import begin
from kdnas.store import slots
from kdnas.store.complaints import StoreError
from kdnas.store.database import Store, open_store
from kdnas.store.optuna_storage import optuna_storage
from kdnas.store.studies import delete_study
from kdnas.store.trial_figures import TrialFigures
from kdnas.store.trial_storage import TrialStorage
from tests import fakes
from tests.search.asked import Asked, long_study

PLACES = IntDistribution(1, 9, step=2)
KINDS = CategoricalDistribution(("gelu", "relu"))


@pytest.fixture
def store(address: str) -> Iterator[Store]:
    begin(fakes.spec(), address)
    with open_store(address) as store:
        yield store


def ours(store: Store) -> TrialStorage:
    return TrialStorage(store, optuna_storage(store))


def theirs(store: Store) -> RDBStorage:
    return optuna_storage(store)


def written(storage: Any, state: TrialState, values: list[float] | None) -> int:
    """One trial, with something of each kind."""
    trial = int(storage.create_new_trial(1))
    storage.set_trial_param(trial, "inner", 5, PLACES)
    storage.set_trial_param(trial, "act", 1, KINDS)
    storage.set_trial_user_attr(trial, "slot", 3)
    storage.set_trial_system_attr(trial, "constraints:size", -0.5)
    storage.set_trial_intermediate_value(trial, 1, 0.25)
    storage.set_trial_intermediate_value(trial, 2, float("nan"))
    storage.set_trial_system_attr(trial, "constraints:size", 0.5)  # again
    storage.set_trial_state_values(trial, state, values)
    return trial


def rows(store: Store, trial: int) -> dict[str, list[tuple[Any, ...]]]:
    """All that Optuna's tables say of a trial but its numbers and times."""
    found = {}
    with store.connect() as connection:
        tables = [name for name in sa.inspect(connection).get_table_names() if name.startswith("trial")]
        for name in tables:
            table = sa.Table(name, sa.MetaData(), autoload_with=connection)
            kept = [c for c in table.columns if not c.primary_key and c.name not in ("trial_id", "number")]
            kept = [c for c in kept if not c.name.startswith("datetime")]
            query = sa.select(*kept).where(table.c.trial_id == trial).order_by(table.primary_key.columns[0])
            found[name] = [tuple(row) for row in connection.execute(query)]
    assert len(found) == 7
    return found


@pytest.mark.parametrize(
    ("state", "values"),
    [
        (TrialState.COMPLETE, [0.5]),
        (TrialState.COMPLETE, [float("inf")]),
        (TrialState.COMPLETE, [0.25, 3.0]),
        (TrialState.PRUNED, [0.25]),
        (TrialState.FAIL, None),
    ],
)
def test_a_trial_is_written_otherwise_than_by_optuna(
    store: Store, state: TrialState, values: list[float] | None
) -> None:
    one, other = written(ours(store), state, values), written(theirs(store), state, values)
    assert rows(store, one) == rows(store, other)
    # … and read otherwise: by whoever wrote it, by another worker, by Optuna.
    mine = ours(store)
    third = written(mine, state, values)
    [expected] = [t for t in theirs(store).get_all_trials(1) if t._trial_id == third]
    for storage in (mine, ours(store)):
        [seen] = [t for t in storage.get_all_trials(1) if t._trial_id == third]
        assert same(seen) == same(expected)


def same(trial: FrozenTrial) -> tuple[Any, ...]:
    assert trial.datetime_start is not None and trial.datetime_complete is not None
    times = [moment.replace(microsecond=0) for moment in (trial.datetime_start, trial.datetime_complete)]
    known = (trial.number, trial.state, trial.values, trial.params, trial.distributions, trial.user_attrs)
    return (*known, trial.system_attrs, str(trial.intermediate_values), *times)


def test_what_has_ended_is_read_again(store: Store) -> None:
    mine, other = ours(store), ours(store)
    for _ in range(3):
        written(other, TrialState.COMPLETE, [0.5])
    running = other.create_new_trial(1)
    assert [t.number for t in mine.get_all_trials(1)] == [0, 1, 2, 3]
    own = written(mine, TrialState.COMPLETE, [0.7])
    other.set_trial_user_attr(running, "note", "late")
    with Asked().listening() as asked:
        seen = mine.get_all_trials(1, deepcopy=False)
    assert [t.number for t in seen] == [0, 1, 2, 3, 4] and seen[3].user_attrs == {"note": "late"}
    assert seen[4]._trial_id == own and seen[4].values == [0.7]
    # One statement for the trials, and of each kind one for the trial that runs elsewhere.
    assert len([one for one in asked.statements if one.startswith("SELECT")]) == 1 + 5
    other.set_trial_state_values(running, TrialState.COMPLETE, [0.9])
    assert mine.get_all_trials(1)[3].values == [0.9]
    with Asked().listening() as asked:
        assert len(mine.get_all_trials(1)) == 5
    assert asked.count("SELECT") == 1


def test_what_nobody_learns_from_stays_in_memory(store: Store) -> None:
    mine, other = ours(store), ours(store)
    written(other, TrialState.COMPLETE, [0.5])
    for _ in range(4):
        own = written(mine, TrialState.COMPLETE, [0.7])
        assert mine.get_trial(own).values == [0.7]  # as Optuna asks for it once more
        assert mine.get_all_trials(1, states=(TrialState.RUNNING,)) == []
        assert mine.known == 1
    # Whoever asks for them gets them all, those that end from then on without another look.
    assert [t.values for t in mine.get_all_trials(1)] == [[0.5]] + [[0.7]] * 4
    own = written(mine, TrialState.PRUNED, [0.9])
    running = mine.create_new_trial(1)
    with Asked().listening() as asked:
        seen = mine.get_all_trials(1, deepcopy=False, states=(TrialState.PRUNED, TrialState.RUNNING))
    assert [t._trial_id for t in seen] == [own, running] and asked.count("SELECT") == 1
    assert mine.known == 7


def test_a_trial_that_runs_elsewhere_is_missed_by_who_looks_for_running_ones(store: Store) -> None:
    mine, other = ours(store), ours(store)
    written(other, TrialState.COMPLETE, [0.5])
    running, own = other.create_new_trial(1), mine.create_new_trial(1)
    other.set_trial_param(running, "inner", 5, PLACES)
    seen = mine.get_all_trials(1, states=(TrialState.RUNNING,))
    assert [(t._trial_id, t.params) for t in seen] == [(running, {"inner": 5}), (own, {})]


def test_a_trial_that_runs_elsewhere_is_read_again_though_nobody_prunes(store: Store) -> None:
    mine, other = TrialStorage(store, optuna_storage(store), follow=False), ours(store)
    running = other.create_new_trial(1)
    assert mine.get_all_trials(1)[0].params == {}
    with other.held():
        other.set_trial_param(running, "inner", 5, PLACES)
        other.set_trial_system_attr(running, "relative_params:0", "{}")
    assert mine.get_all_trials(1)[0].params == {"inner": 5}
    other.set_trial_intermediate_value(running, 1, 0.5)
    with Asked().listening() as asked:
        [seen] = mine.get_all_trials(1)
    assert asked.count("SELECT") == 1 and not seen.intermediate_values
    other.set_trial_state_values(running, TrialState.COMPLETE, [0.9])
    [seen] = mine.get_all_trials(1)
    assert (seen.state, seen.values, seen.intermediate_values) == (TrialState.COMPLETE, [0.9], {1: 0.5})


def test_a_trial_that_somebody_else_ended_is_written_to(store: Store) -> None:
    mine = ours(store)
    trial = mine.create_new_trial(1)
    theirs(store).set_trial_state_values(trial, TrialState.FAIL)
    with pytest.raises(UpdateFinishedTrialError), mine.held():
        mine.set_trial_param(trial, "inner", 5, PLACES)
        with store.begin() as connection:
            mine.write(connection)
    assert rows(store, trial)["trial_params"] == []
    [seen] = mine.get_all_trials(1)
    assert seen.state == TrialState.FAIL and seen.params == {}
    late = mine.create_new_trial(1)
    theirs(store).set_trial_state_values(late, TrialState.FAIL)
    with pytest.raises(UpdateFinishedTrialError):
        mine.set_trial_state_values(late, TrialState.COMPLETE, [0.5])
    assert rows(store, late)["trial_values"] == []


def test_what_is_held_is_written_early_or_twice(store: Store) -> None:
    mine = ours(store)
    trial = mine.create_new_trial(1)
    with mine.held():
        mine.set_trial_param(trial, "inner", 5, PLACES)
        mine.set_trial_intermediate_value(trial, 1, 0.5)
        assert rows(store, trial)["trial_params"] == []
        for _ in range(2):  # the first answer got lost
            with store.begin() as connection:
                mine.write(connection)
        mine.written()
    assert len(rows(store, trial)["trial_params"]) == len(rows(store, trial)["trial_intermediate_values"]) == 1
    with pytest.raises(ZeroDivisionError), mine.held():
        mine.set_trial_user_attr(trial, "note", "x")
        raise ZeroDivisionError
    mine.set_trial_state_values(trial, TrialState.COMPLETE, [0.5])
    assert rows(store, trial)["trial_user_attributes"] == []


def test_whoever_asks_for_a_trial_changes_what_is_kept(store: Store) -> None:
    mine = ours(store)
    trial = mine.create_new_trial(1)
    mine.set_trial_param(trial, "inner", 5, PLACES)
    asked = mine.get_trial(trial)
    asked.params["inner"] = 7
    asked.intermediate_values[1] = 0.5
    assert mine.get_trial(trial).params == {"inner": 5} and not mine.get_trial(trial).intermediate_values


def test_other_choices_under_the_same_name_are_taken(store: Store) -> None:
    written(theirs(store), TrialState.COMPLETE, [0.5])
    mine = ours(store)
    mine.get_all_trials(1)
    trial = mine.create_new_trial(1)
    with pytest.raises(ValueError, match="CategoricalDistribution"):
        mine.set_trial_param(trial, "act", 0, CategoricalDistribution(("gelu", "silu")))


def test_two_workers_begin_trials_of_one_number(store: Store) -> None:
    one, other = ours(store), get_storage(theirs(store))
    for storage in (one, other, one, other):
        storage.create_new_trial(1)
    assert sorted(t.number for t in theirs(store).get_all_trials(1)) == [0, 1, 2, 3]


def test_a_trial_of_a_deleted_study_ends_in_a_traceback(store: Store) -> None:
    mine = ours(store)
    delete_study(store, "fake")
    with pytest.raises(StoreError, match="The study was deleted"):
        mine.create_new_trial(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def test_figures_that_did_not_change_are_read_again(address: str) -> None:
    long_study(address)
    with open_store(address) as store:
        figures = TrialFigures(store, 1, epochs=True)
        assert len(figures.read()) == len(figures.rows) == 300
        assert figures.read() == []
        with store.begin() as connection:
            connection.exec_driver_sql("UPDATE kdnas_study SET revision=5")
            columns = "slot=300, state='running', worker_id=1, trial=300"
            connection.exec_driver_sql(f"UPDATE kdnas_slot SET {columns} WHERE slot=300")
            connection.exec_driver_sql(
                "INSERT INTO kdnas_trial (study_id, number, slot, state, candidate, candidate_key, latency_ms, epoch, "
                "epochs, progress, started, revision) VALUES (1, 300, 300, 'running', '{}', '300', 2.0, 0, 1, 0, 0, 0)"
            )
        point = {"epoch": 1, "loss": 0.5, "raw_loss": 0.6, "train_loss": 0.7, "seconds": 0.1, "tokens": 10}
        slots.epoch(store, 1, 300, point, progress=0.5)
        assert figures.read() == [300]
        assert figures.epochs[300][1].loss == 0.5
