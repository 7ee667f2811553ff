"""A budget of slots: never overshot, no candidate twice, nothing lost with a worker."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy as sa
from optuna.trial import FrozenTrial, TrialState

from kdnas.store import changes, queries, recovery, slots, studies, study_end
from kdnas.store import tables as t
from kdnas.store.database import Store, open_store
from kdnas.store.optuna_storage import optuna_storage
from kdnas.store.slot_keys import SlotKeys
from kdnas.store.studies import create_study
from kdnas.study.spec import StudySpec
from kdnas.system import liveness
from tests import fakes
from tests.store.test_changes import slot_states
from tests.store.test_queries import figures, trial, worker


def optunas(store: Store, name: str = "fake") -> optuna.Study:
    return optuna.load_study(study_name=name, storage=optuna_storage(store))


def states(store: Store, study_id: int) -> dict[int, str]:
    return {row.number: row.state for row in queries.trial_rows(store, study_id)}


def close(store: Store, study_id: int, spec: StudySpec | None = None) -> list[int]:
    return recovery.close(store, optunas(store), study_id, spec or fakes.spec())


def test_each_slot_is_claimed_once_however_many_try(store: Store) -> None:
    study_id = create_study(store, fakes.spec(budget={"trials": 40}))

    def claim_all(first: int) -> list[int]:
        mine: list[int] = []
        with open_store(store.url) as own:
            # Each time as another worker: one that holds a slot without a trial gets that one again.
            while isinstance(claimed := slots.claim(own, study_id, first + 4 * len(mine)), slots.Claim):
                mine.append(claimed.slot)
        return mine

    with ThreadPoolExecutor(4) as pool:
        claimed = [slot for mine in pool.map(claim_all, range(4)) for slot in mine]
    assert sorted(claimed) == list(range(40))


def test_who_holds_a_slot_without_a_trial_gets_it_again(store: Store, study_id: int) -> None:
    """The answer to a claim may be lost on its way; no slot may be left behind for that."""
    first, again = slots.claim(store, study_id, 1), slots.claim(store, study_id, 1)
    assert isinstance(first, slots.Claim) and first == again
    other = slots.claim(store, study_id, 2)
    assert isinstance(other, slots.Claim) and other.slot != first.slot


def test_what_was_read_before_hides_a_candidate_or_a_free_slot(store: Store, study_id: int) -> None:
    keys = SlotKeys()
    for number, ordinal in enumerate((5, 6, 7)):
        claimed = slots.claim(store, study_id, 9, keys=keys)
        assert isinstance(claimed, slots.Claim) and claimed.slot == number
        assert claimed.taken == slots.claim(store, study_id, 9).taken == {str(5 + each) for each in range(number)}
        slots.give_back(store, study_id, claimed.slot, 9)
        trial(store, study_id, 1, number, ordinal, **(figures() if number != 1 else {}))
    assert keys.below == 1  # the first has ended, the second runs on
    last = slots.claim(store, study_id, 9, keys=keys)
    assert isinstance(last, slots.Claim) and (last.slot, last.taken) == (3, {"5", "6", "7"})
    slots.give_up(store, study_id, 1, 1, attempts=3, why="it died")
    lost = slots.claim(store, study_id, 8, keys=keys)
    assert isinstance(lost, slots.Claim) and (lost.slot, lost.taken) == (1, {"5", "7"})
    assert lost.candidate == fakes.SPACE.from_ordinal(6)


def test_keys_that_lie_together_or_far_apart_are_lost(store: Store) -> None:
    """Kept as bits: places 63, 64 and 65, a huge one, the same twice, and what a damaged row may hold."""
    study_id = create_study(store, fakes.spec(budget={"trials": 12}))
    held = ["0", "63", "64", "65", "128", "4095", str(10**39 + 7), "x", "07", "٣", ""]
    with store.begin() as connection:
        for slot, key in enumerate(held):
            mine = sa.and_(t.slot.c.study_id == study_id, t.slot.c.slot == slot)
            connection.execute(sa.update(t.slot).where(mine).values(candidate_key=key, state="done"))
    keys = SlotKeys()
    claimed = slots.claim(store, study_id, 1, keys=keys)
    assert isinstance(claimed, slots.Claim) and claimed.slot == keys.below == len(held)
    sound = held[:7]
    assert set(claimed.taken) == set(sound) and len(claimed.taken) == len(sound)
    assert all(key in claimed.taken for key in sound)
    assert not any(key in claimed.taken for key in ("1", "62", "66", "127", "x", "07", "٣", ""))


def test_a_look_costs_no_more_where_more_slots_are_free(tmp_path: Path) -> None:
    def instructions(budget: int) -> int:
        """Of SQLite's virtual machine, in hundreds, for the first look at such a study."""
        counted = 0

        def count() -> int:
            nonlocal counted
            counted += 1
            return 0

        with open_store(str(tmp_path / f"{budget}.db"), create=True) as store:
            study_id = create_study(store, fakes.spec(budget={"trials": budget}))
            slots.claim(store, study_id, 1)
            with store.connect() as connection:
                driver: Any = connection.connection.driver_connection
                driver.set_progress_handler(count, 100)
                SlotKeys().look(connection, study_id)
                driver.set_progress_handler(None, 100)
        return counted

    assert instructions(20_000) <= instructions(2_000)


def test_nothing_is_claimed_while_people_want_no_new_trial(store: Store, study_id: int) -> None:
    for wanted in ("pause", "stop", "abandon"):
        changes.set_wanted(store, study_id, wanted)
        assert slots.claim(store, study_id, 1) == slots.Left(wanted, free=8, running=0)
    changes.set_wanted(store, study_id, "run")
    assert isinstance(slots.claim(store, study_id, 1), slots.Claim)


def test_a_candidate_belongs_to_one_slot(store: Store, study_id: int) -> None:
    trial(store, study_id, 1, 0, 5, **figures())
    trial(store, study_id, 1, 1, 6)
    claimed = slots.claim(store, study_id, 2)
    assert isinstance(claimed, slots.Claim)
    assert claimed.taken == {"5", "6"}

    def propose(ordinal: int) -> slots.Clash | None:
        candidate = fakes.SPACE.from_ordinal(ordinal)
        return slots.propose(
            store,
            study_id,
            claimed.slot,
            2,
            2,
            candidate,
            str(ordinal),
            config={},
            origin="strategy",
            predicted=None,
            seed=1,
            epochs=2,
        )

    assert propose(5) == slots.Clash(0, 0, "done")
    assert propose(6) == slots.Clash(1, 1, "running")
    assert states(store, study_id) == {0: "done", 1: "running"}
    assert propose(7) is None


def test_a_reused_result_costs_no_budget(store: Store, study_id: int) -> None:
    trial(store, study_id, 1, 0, 5, **figures(loss=0.25))
    claimed = slots.claim(store, study_id, 1)
    assert isinstance(claimed, slots.Claim)
    values = slots.reuse(store, study_id, claimed.slot, 1, 1, 0)
    assert values["loss"] == 0.25
    row = queries.trial_rows(store, study_id)[1]
    assert (row.state, row.reused_from, row.loss, row.slot) == ("reused", 0, 0.25, claimed.slot)
    study = queries.study_row(store, "fake")
    assert (study.done, study.reused) == (1, 1)
    assert slot_states(store, study_id)[claimed.slot] == "running"


def test_a_dead_workers_trial_is_lost_and_its_candidate_kept_for_the_slot(store: Store, study_id: int) -> None:
    study = optunas(store)
    number = study.ask().number
    slot = trial(store, study_id, worker(store, study_id), number, 5)
    assert close(store, study_id) == [number]
    assert states(store, study_id) == {number: "lost"}
    assert study.trials[number].state == TrialState.FAIL
    assert [w.state for w in queries.workers(store, study_id)] == ["dead"]
    again = slots.claim(store, study_id, 99)
    assert isinstance(again, slots.Claim)
    assert (again.slot, again.candidate) == (slot, fakes.SPACE.from_ordinal(5))
    assert close(store, study_id) == []


def test_a_candidate_that_kills_workers_fails_in_the_end(store: Store, study_id: int) -> None:
    spec = fakes.spec(budget={"attempts": 2})
    study = optunas(store)
    for _ in range(2):
        number = study.ask().number
        slot = trial(store, study_id, worker(store, study_id), number, 5)
        close(store, study_id, spec)
    assert slot_states(store, study_id)[slot] == "failed"
    assert states(store, study_id) == {0: "lost", 1: "failed"}
    assert queries.trial_rows(store, study_id)[1].error == "its worker died in each of 2 attempts"


def test_leaving_on_purpose_counts_as_no_attempt(store: Store, study_id: int) -> None:
    for number in range(5):
        slot = trial(store, study_id, 1, number, 5)
        slots.give_up(store, study_id, slot, 1, attempts=None, why="stopped")
    with store.connect() as connection:
        assert connection.execute(sa.select(t.slot.c.attempts).where(t.slot.c.slot == slot)).scalar_one() == 0


def test_a_result_that_optuna_was_never_told_is_told_it(store: Store, study_id: int) -> None:
    study = optunas(store)
    numbers = [study.ask().number for _ in range(3)]
    worker_id = worker(store, study_id)
    trial(store, study_id, worker_id, numbers[0], 5, **figures(loss=0.25))
    trial(store, study_id, worker_id, numbers[1], 6, state="pruned", **figures())
    trial(store, study_id, worker_id, numbers[2], 7, state="failed", error="x")
    assert close(store, study_id) == []
    told = study.trials
    assert [trial.state for trial in told] == [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL]
    assert told[0].value == figures(loss=0.25)["reward"]
    assert slot_states(store, study_id)[:3] == ["done", "pruned", "failed"]


def test_a_trial_that_only_optuna_knows_is_failed_unless_someone_is_at_it(store: Store, study_id: int) -> None:
    import time

    study = optunas(store)
    study.ask()
    alive = worker(store, study_id, host="elsewhere", heartbeat=time.time())
    claimed = slots.claim(store, study_id, alive)
    assert isinstance(claimed, slots.Claim)
    close(store, study_id)
    assert study.trials[0].state == TrialState.RUNNING  # it may be the one that the living worker is asking for
    slots.give_back(store, study_id, claimed.slot, alive)
    close(store, study_id)
    assert study.trials[0].state == TrialState.FAIL


def test_living_workers_trials_are_left_alone(store: Store, study_id: int) -> None:
    import time

    study = optunas(store)
    number = study.ask().number
    trial(store, study_id, worker(store, study_id, host="elsewhere", heartbeat=time.time()), number, 5)
    worker(store, study_id)  # another one, dead
    assert recovery.any_dead(recovery.at_work(store, study_id))
    assert close(store, study_id) == []
    assert not recovery.any_dead(recovery.at_work(store, study_id))
    assert (states(store, study_id)[number], study.trials[number].state) == ("running", TrialState.RUNNING)


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_worker_that_claims_while_orphans_are_closed_loses_its_trial(
    store: Store, study_id: int, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """It has claimed a slot and asked Optuna, and comes to write its trial into our rows just after the look."""
    study, hold = optunas(store), liveness.Hold()
    living = studies.enter(store, study_id, lock=str(hold.path), device=None, task="search")
    real, begun = study.get_trials, []

    def claims() -> None:
        if not begun:
            assert isinstance(slots.claim(store, study_id, living), slots.Claim)
            begun.append(optunas(store).ask())

    def get_trials(*given: Any, **named: Any) -> list[FrozenTrial]:
        if moment == "before":
            claims()
        found = real(*given, **named)
        claims()
        return found

    monkeypatch.setattr(study, "get_trials", get_trials)
    assert recovery.close(store, study, study_id, fakes.spec()) == []
    assert [t.state for t in optunas(store).trials] == [TrialState.RUNNING]
    begun[0].set_user_attr("slot", 0)  # raises where it was told to have failed
    # Once that worker is gone, the next look clears up.
    hold.release(known=False)
    close(store, study_id)
    assert [t.state for t in optunas(store).trials] == [TrialState.FAIL]


def test_who_was_taken_for_dead_cannot_write_into_a_slot_that_is_anothers(store: Store, study_id: int) -> None:
    study = optunas(store)
    slot = trial(store, study_id, worker(store, study_id), study.ask().number, 5)
    close(store, study_id)
    trial(store, study_id, 99, study.ask().number, 5)
    for late in (
        lambda: slots.finish(store, study_id, slot, 0, "done", **figures()),
        lambda: slots.progress(store, study_id, 0, progress=0.5),
    ):
        with pytest.raises(slots.SlotTaken):
            late()
    assert states(store, study_id) == {0: "lost", 1: "running"}


def test_enqueued_candidates_are_keyed_once_the_space_is_known(store: Store) -> None:
    good, other = fakes.SPACE.from_ordinal(5), fakes.SPACE.from_ordinal(9)
    study_id = create_study(store, fakes.spec("list"), enqueue=[good, {"num_hidden_layers": 99}, good, other])
    said = slots.key_planned(store, study_id, fakes.SPACE)
    assert len(said) == 2
    assert "gives no" in said[0] or "99" in said[0]
    assert "twice" in said[1]
    claims = [slots.claim(store, study_id, worker_id) for worker_id in range(4)]
    assert [c.candidate for c in claims if isinstance(c, slots.Claim)] == [good, None, None, other]


def test_an_exhausted_space_ends_the_study_only_when_nobody_runs(store: Store, study_id: int) -> None:
    slot = trial(store, study_id, 1, 0, 5)
    assert not study_end.finish_exhausted(store, study_id, "All seen.")
    slots.give_up(store, study_id, slot, 1, attempts=None, why="stopped")
    assert not study_end.finish_exhausted(store, study_id, "All seen.")  # it is to be run again
    trial(store, study_id, 1, 1, 5, **figures())
    assert study_end.finish_exhausted(store, study_id, "All seen.")
    row = queries.study_row(store, "fake")
    assert (row.status, row.ending, row.done) == ("finished", "All seen.", 1)
