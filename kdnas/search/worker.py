"""The loop of a search: claim a slot, ask the strategy, have its candidate evaluated; until the budget is spent.

Any number of these processes serve one study, on any machine that reaches its store; people steer them through rows
of the store. Knows no screen, and prints nothing but a last line about what went wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import platform
import sys
from typing import Any, cast

import optuna
import torch
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import TrialState

from kdnas.measuring import devices, latency, memory
from kdnas.search import episodes, forecasts, heartbeat, joining, refusal, warm_start
from kdnas.search.block_latency import of_search
from kdnas.search.candidate import Measure
from kdnas.search.enough import Enough
from kdnas.search.heartbeat import Leave, Steering
from kdnas.search.hindsight import Hindsight
from kdnas.search.in_time import InTime, TooLate
from kdnas.search.latency_elsewhere import Answering, Asking
from kdnas.search.others import NOBODY_S, Others
from kdnas.search.set_up import Prepare, place, recipe_of
from kdnas.search.timing import further_passes, latency_protocol, require_timed
from kdnas.search.trial_run import TrialRuns
from kdnas.search.wishes import Wishes
from kdnas.store import ends, queries, recovery, slots, studies, study_end, waiting
from kdnas.store.complaints import StoreError
from kdnas.store.database import Store, open_store
from kdnas.store.optuna_storage import (
    Patient,
    describe,
    explained,
    optuna_storage,
    put_away,
)
from kdnas.store.patience import persist
from kdnas.store.present import Present
from kdnas.store.slot_keys import SlotKeys
from kdnas.store.slots import Claim, Left, SlotTaken
from kdnas.store.trial_storage import TrialStorage
from kdnas.strategies import SpaceExhausted, candidate, sampler
from kdnas.strategies.one_objective import Rescored
from kdnas.strategies.pruners import SLOT, pruner
from kdnas.strategies.refused import Refused
from kdnas.study import short_text
from kdnas.study.forecast import Forecast
from kdnas.study.space import Candidate
from kdnas.study.spec import StudySpec, from_store
from kdnas.study.spec_strategies import LstmStrategy
from kdnas.study.states import SlotState, Wanted
from kdnas.system import interrupts, process
from kdnas.system.errors import KdnasError, UsageError
from kdnas.system.paths import default_storage
from kdnas.system.progress import Note, Once
from kdnas.system.seeds import Purpose, number
from kdnas.system.text import clean
from kdnas.system.versions import versions

FREEZE_EVERY = 200  # of its own trials, which a worker remembers


class Worker:
    """One worker of one study, from its preparation to the last trial."""

    def __init__(
        self,
        store: Store,
        study_id: int,
        spec: StudySpec,
        steering: Steering,
        measure: Measure,
        only_times: bool = False,
    ) -> None:
        self.store = store
        self.study_id = study_id
        self.spec = spec
        self.steering = steering
        self.worker_id = steering.worker_id
        self.wishes = Wishes(store, study_id, steering)
        self.log = steering.log
        self.protocol = measure
        self.measure, self.aside = of_search(spec, measure, further_passes(store))
        self.answering: Answering | None = None  # those who leave latency to this worker
        self.only_times = only_times
        self.afterwards = False  # whether this worker measures latencies that trials wait for
        self.forecast: Forecast | None = None  # of a strategy that proposes by one
        self.held: int | None = None  # the slot
        self.others = Others(store, study_id, steering)
        self.kept: dict[int, Any] = {}  # what samplers know of finished trials
        self.keys = SlotKeys()

    # ------------------------------------------------------------------------ before the first trial

    def prepare(self, prepare: Prepare, device: torch.device) -> None:
        """Loads what all candidates share, and lets the study know of it."""
        said = Once()

        def on_progress(words: str, share: float | None) -> None:
            interrupts.check()
            if self.steering.wanted in (Wanted.STOP, Wanted.ABANDON):
                raise Leave
            self.steering.doing = str(words) if share is None else f"{words} {share:.0%}"
            if said.new(words) or isinstance(words, Note):
                self.log("info", str(words))

        with memory.one_line(device):
            self.bench = prepare(self.spec, device, on_progress)
        self.space = self.bench.space
        self.time = InTime(self.store, self.study_id, self.bench)
        facts = {
            "versions": {"python": platform.python_version(), **versions()},
            "device": devices.device_name(device),
            "threads": torch.get_num_threads(),
            "latency_protocol": latency.VERSION,
            **self.bench.provenance(),
        }
        if joining.measures(self.store, self.study_id, facts["device"]):
            require_timed(self.bench, on_progress)
        lent = warm_start.lent(self.store, self.study_id, self.spec, self.space, facts, self.log)
        studies.prepared(self.store, self.study_id, self.space.to_json(), facts, lent)
        left = joining.require_like(self.store, self.study_id, facts, self.log)
        if left is not None and self.only_times:
            raise UsageError(
                f"The study measures latency on {left}, and this machine is {facts['device']}.",
                "Start the latency worker on a machine of the study's device.",
            )
        self.afterwards = left is None and self.spec.latency.when == "after"
        if left is not None:
            asking = Asking(self.store, self.study_id, left, self.steering)
            self.protocol = asking
            self.measure, self.aside = of_search(self.spec, asking, asking.aside)
        else:
            self.answering = Answering(self.store, self.study_id, facts["device"], self.bench, self.steering)
        self.loan = warm_start.Present(self.store, self.study_id)
        for complaint in (*short_text.told(facts), *slots.key_planned(self.store, self.study_id, self.space)):
            self.log("warning", complaint)
        if self.spec.strategy.predicts() and not self.only_times:
            with memory.one_line(device):
                self.forecast = forecasts.of_bench(self.bench, self.protocol, on_progress)
        self.optuna = persist(self.store, lambda: optuna_storage(self.store))
        self.trials = TrialStorage(self.store, self.optuna, follow=self.spec.budget.pruner != "none")
        patient = Patient(self.store, self.trials)
        self.rescored = Rescored(cast(BaseStorage, patient))
        self.hindsight = Hindsight(self.store, self.study_id, self.spec, self.rescored)
        self.refusal = refusal.Present(self.bench, self.measure)
        if not queries.study_of(self.store, self.study_id).done:
            refusal.require_some(self.refusal.now(self.wishes.look().limits))
        with explained(self.store):
            name = self.rescored.get_study_name_from_id(self.study_id)
            self.study = optuna.load_study(study_name=name, storage=cast(BaseStorage, self.rescored))
        describe(self.study, self.spec, *slots.rate(self.store, self.study_id))
        self.runs = TrialRuns(
            self.store,
            self.study_id,
            self.spec,
            self.steering,
            self.wishes,
            self.bench,
            self.measure,
            self.aside,
            self.study,
            self.trials,
            self.hindsight,
        )
        put_away(self.optuna)  # trials are read and written through the store's own connections

    # ------------------------------------------------------------------------ the loop

    def search(self) -> None:
        """Evaluates candidates until the budget is spent, the space exhausted, or people want it to end."""
        self.close_orphans()
        gc.freeze()  # what is here stays: looking for each candidate's garbage then takes a millisecond, not 300
        own = 0
        exhausted: str | None = None  # once no further candidate can be proposed, in words
        enough = Enough(self.store, self.study_id, self.spec)
        while (at := self.wishes.wait_while_paused()).wanted == Wanted.RUN:
            seen = self.steering.changed()
            self.answer_others()
            if self.others.any_dead():
                self.close_orphans()
            if self.afterwards and not self.others.any_latency_worker() and self.time_one():
                continue
            if (late := self.time.over(at)) is not None:
                if study_end.finish_in_time(self.store, self.study_id, late):
                    self.log("info", late)
                    return
                if self.time_one():
                    continue
                self.steering.doing = "waiting for other workers"
                self.others.wait(Wanted.RUN, seen, self.answer_others)
                continue
            if exhausted is None and (exhausted := enough.said()) is not None:
                self.log("info", exhausted)
            try:
                if exhausted is None and self.time.open:
                    ends.one_more(self.store, self.study_id)
                planned = isinstance(self.spec.strategy, LstmStrategy)
                only = exhausted is not None or planned
                claimed = slots.claim(self.store, self.study_id, self.worker_id, planned_only=only, keys=self.keys)
                if planned and exhausted is None and isinstance(claimed, Left) and claimed.free:
                    self.plan_episode(at)
                    claimed = slots.claim(self.store, self.study_id, self.worker_id, planned_only=only, keys=self.keys)
                if isinstance(claimed, Claim):
                    self.held = claimed.slot
                    self.run_slot(claimed, at)
                    self.held = None
                    self.hindsight.set_aside(self.trials.known)
                    own += 1
                    if own % FREEZE_EVERY == 0:  # what it remembers of trials stays, too
                        gc.collect()
                        gc.freeze()
                    continue
            except SlotTaken as taken:
                if self.held is not None:  # where it is another's by now, nothing changes
                    slots.give_back(self.store, self.study_id, self.held, self.worker_id)
                self.held = None
                self.trials.forget_own()
                self.log("warning", f"{taken}; going on")
                continue
            except (SpaceExhausted, TooLate) as over:
                if isinstance(over, SpaceExhausted):
                    exhausted = str(over)
                    self.log("info", exhausted)
                if self.held is not None:
                    slots.give_back(self.store, self.study_id, self.held, self.worker_id)
                    self.held = None
                    self.close_orphans()  # Optuna's trial, which was to have had the candidate
                continue
            if self.time_one():
                continue  # nothing is left to train: a latency worker gets help
            if claimed.wanted == Wanted.RUN and not claimed.running and not claimed.waiting:
                if exhausted is not None:
                    study_end.finish_exhausted(self.store, self.study_id, exhausted)
                    return
                if not claimed.free:
                    return
            if claimed.waiting and not self.afterwards:
                many = f"{claimed.waiting} trial{'' if claimed.waiting == 1 else 's'}"
                self.steering.doing = f"waiting for a worker on the study's device to time {many}"
            elif claimed.running or claimed.waiting:
                # Others are at the last slots; should one of them die, its candidate is still to be evaluated.
                self.steering.doing = "waiting for other workers"
            self.others.wait(claimed.wanted, seen, self.answer_others)

    def time_trials(self) -> None:
        """Measures the latencies that trials wait for, until the study has ended or people want it to. Raises
        KdnasError where nobody searches any more, so that none would ever come."""
        self.close_orphans()
        while self.wishes.wait_while_paused().wanted == Wanted.RUN:
            seen = self.steering.changed()
            self.answer_others()
            if self.others.any_dead():
                self.close_orphans()
            if self.time_one():
                continue
            if study_end.has_ended(self.store, self.study_id):
                return
            self.steering.doing = "waiting for a trial to time"
            self.require_searchers()
            self.others.wait(Wanted.RUN, seen, self.require_searchers)

    def require_searchers(self) -> None:
        self.answer_others()
        if self.others.nobody_searches():
            row = queries.study_of(self.store, self.study_id)
            raise KdnasError(
                f"Nobody has searched {row.name} for {NOBODY_S / 60:.0f} minutes, and it has {row.counted_words}.",
                f"Let it go on with `kdnas worker {row.name}`, and start this one again.",
            )

    def time_one(self) -> bool:
        """Times the trial that has waited longest; False where there is none, or this worker times none."""
        held = waiting.claim(self.store, self.study_id, self.worker_id) if self.afterwards else None
        if held is None:
            return False
        try:
            self.runs.time_waiting(held)
        except SlotTaken as taken:
            self.trials.forget_own()
            self.log("warning", f"{taken}; going on")
        return True

    def plan_episode(self, at: Present) -> None:
        refused = self.refusal.now(at.limits)
        if refused is not None:
            _ = refused.allowed  # counted here, not while the store waits for the episode
        episodes.plan_next(self.store, self.study_id, self.spec, self.space, refused, self.loan())

    def answer_others(self) -> None:
        """Times what workers without the study's device ask for."""
        if self.answering is not None:
            self.answering.all_asked(self.protocol, self.aside)

    def close_orphans(self) -> None:
        self.others.look_again()
        for lost in recovery.close(self.store, self.study, self.study_id, self.spec):
            self.log("warning", f"trial {lost}: its worker died")

    # ------------------------------------------------------------------------ one slot

    def run_slot(self, claim: Claim, at: Present) -> None:
        self.steering.doing = f"choosing a candidate for slot {claim.slot}"
        trial, chosen = self.ask(claim, at)
        self.runs.run(claim.slot, trial, chosen)

    def ask(self, claim: Claim, at: Present) -> tuple[optuna.Trial, Candidate]:
        """The slot's candidate, in a trial of its own, for the study as it is `at` the claim. Raises SpaceExhausted,
        SlotTaken, TooLate."""
        try:
            return self._ask(claim, at)
        except UpdateFinishedTrialError:
            # Taken for dead while it was choosing, as a machine that slept is.
            raise SlotTaken(claim.slot) from None

    def _ask(self, claim: Claim, at: Present) -> tuple[optuna.Trial, Candidate]:
        planned, taken = claim.candidate, claim.taken
        refused = self.refusal.now(at.limits)
        self.hindsight.use(at)
        forecast = self.forecast
        if forecast is not None:
            forecast = forecasts.by_now(forecast, self.space, self.store, self.study_id)
        loan = self.loan()
        while True:
            closed = taken if refused is None else Refused(taken, refused)
            self.study.sampler = sampler(self.spec, self.space, claim.slot, closed, planned, forecast, loan, self.kept)
            self.study.pruner = pruner(self.bench.budget, claim.slot)
            with explained(self.store), self.trials.held():
                with self.rescored.one_look():
                    trial = self.study.ask()
                    chosen = candidate(trial, self.space)
                trial.set_user_attr(SLOT, claim.slot)
                self.time.require(chosen)
                key = self.space.key(chosen)
                clash = slots.propose(
                    self.store,
                    self.study_id,
                    claim.slot,
                    self.worker_id,
                    trial.number,
                    chosen,
                    key,
                    config=self.bench.config(chosen),
                    origin=claim.origin or "strategy",
                    predicted=claim.predicted,
                    seed=number(self.spec.seed, Purpose.STUDENT, 0),
                    epochs=self.bench.budget.epochs,
                    beside=self.trials.write,
                )
                if clash is None:
                    self.trials.written()
            if clash is None:
                return trial, chosen
            values = None
            if clash.state == SlotState.DONE and clash.number is not None:
                same = slots.reuse(self.store, self.study_id, claim.slot, self.worker_id, trial.number, clash.number)
                values = recovery.objectives(self.store, self.study_id, self.spec, same)
                self.log("info", f"trial {trial.number}: the same candidate as trial {clash.number}, reused")
            state = TrialState.FAIL if values is None else TrialState.COMPLETE
            recovery.tell(self.store, self.study, trial.number, state, values)
            planned, taken = None, slots.taken(self.store, self.study_id, claim.slot, self.keys) | {key}

    def close(self) -> None:
        """Frees the slot that is still held, and ends its trial, without counting an attempt."""
        self.steering.calm()
        self.store.patience = None
        # A store that fails now leaves what the next worker clears up.
        with contextlib.suppress(StoreError):
            if self.held is not None:
                why = "its worker was stopped"
                slots.give_up(self.store, self.study_id, self.held, self.worker_id, attempts=None, why=why)
            waiting.let_go(self.store, self.study_id, self.worker_id, attempts=None)
            if hasattr(self, "study"):
                recovery.close(self.store, self.study, self.study_id, self.spec)
        if hasattr(self, "optuna"):
            put_away(self.optuna)
        if hasattr(self, "bench"):
            self.bench.close()


def run_worker(
    storage: str,
    name: str,
    *,
    device: str | None = None,
    prepare: Prepare | None = None,
    measure: Measure | None = None,
    only_times: bool = False,
) -> int:
    """Works on the study until there is nothing left to do, in this process and its main thread; the exit code.

    `device` is used instead of the spec's. `prepare` and `measure` are the recipe's and the latency protocol's, unless
    given. With `only_times` it evaluates nothing, and measures the latencies that trials wait for. An interrupt or
    SIGTERM frees the running trial and ends with 130. What fails is written to the store and raised as KdnasError.
    """
    with open_store(storage) as store:
        row = queries.study_row(store, name)
        spec = from_store(row.spec)
        try:
            task = recovery.LATENCY if only_times else recovery.SEARCH
            with heartbeat.at_work(store, row.study_id, task) as steering:
                worker = Worker(store, row.study_id, spec, steering, measure or latency_protocol(store), only_times)
                try:
                    worker.prepare(prepare or recipe_of(spec), place(steering, device or spec.device))
                    (worker.time_trials if only_times else worker.search)()
                finally:
                    worker.close()
        except Leave:
            return 0
        except KeyboardInterrupt:
            return 130
        return 0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m kdnas.search.worker", description="One worker of a study.")
    parser.add_argument("study")
    parser.add_argument("--device")
    given = parser.parse_args(arguments)
    process.set_up()
    try:
        return run_worker(default_storage(), given.study, device=given.device)
    except KdnasError as error:
        print(clean(f"kdnas: {error}"), file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
