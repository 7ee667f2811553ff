"""The loop of a search: claim a slot, ask the strategy, evaluate, write down, tell; until the budget is spent.

Any number of these processes serve one study, on any machine that reaches its store; people steer them through rows
of the store. Knows no screen, and prints nothing but a last line about what went wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import platform
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any, cast

import optuna
import torch
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import TrialState

from kdnas.measuring import devices, latency, memory
from kdnas.measuring.devices import resolve_device, set_up_torch
from kdnas.recipes.contract import Workbench
from kdnas.search import constraint_record, episodes, forecasts, heartbeat, joining, placing, refusal, warm_start
from kdnas.search.block_latency import of_search
from kdnas.search.candidate import EvaluationError, Measure, Measurement, Timed, evaluate
from kdnas.search.climb import Climb
from kdnas.search.enough import Enough
from kdnas.search.heartbeat import WRITE_S, Leave, Steering
from kdnas.search.hindsight import Hindsight
from kdnas.search.in_time import InTime, TooLate
from kdnas.search.latency_elsewhere import Answering, Asking
from kdnas.search.others import Others
from kdnas.search.timing import curve_columns, further_passes, latency_columns, latency_protocol, latency_words
from kdnas.store import ends, queries, recovery, slots, studies
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
from kdnas.store.present import Present, present
from kdnas.store.slots import Claim, Left, SlotTaken
from kdnas.store.trial_storage import TrialStorage
from kdnas.strategies import SpaceExhausted, candidate, sampler
from kdnas.strategies.one_objective import Rescored
from kdnas.strategies.pruners import SLOT, pruner
from kdnas.strategies.refused import Refused
from kdnas.study import short_text
from kdnas.study.forecast import Forecast
from kdnas.study.reward import reward
from kdnas.study.rows import RUNG
from kdnas.study.space import Candidate
from kdnas.study.spec import StudySpec, from_store
from kdnas.study.spec_strategies import LstmStrategy
from kdnas.study.states import SlotState, Wanted, WorkerState
from kdnas.system import interrupts, process
from kdnas.system.errors import KdnasError
from kdnas.system.paths import default_storage
from kdnas.system.progress import Note, Once, Progress
from kdnas.system.seeds import Purpose, number
from kdnas.system.text import clean
from kdnas.system.versions import versions
from kdnas.training.contract import Epoch

Prepare = Callable[[StudySpec, torch.device, Progress], Workbench]

BUILT = 0.1  # share of a trial's progress that building and timing count for
HOPELESS = 5  # a study whose first trials all fail ends after so many of them


class Worker:
    """One worker of one study, from its preparation to the last trial."""

    def __init__(self, store: Store, study_id: int, spec: StudySpec, steering: Steering, measure: Measure) -> None:
        self.store = store
        self.study_id = study_id
        self.spec = spec
        self.steering = steering
        self.worker_id = steering.worker_id
        self.log = steering.log
        self.protocol, self.measure = measure, of_search(spec, measure)
        self.aside = further_passes(store)
        self.answering: Answering | None = None  # those who leave latency to this worker
        self.forecast: Forecast | None = None  # of a strategy that proposes by one
        self.held: int | None = None  # the slot
        self.others = Others(store, study_id, steering)
        self.kept: dict[int, Any] = {}  # what samplers know of finished trials

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
        lent = warm_start.lent(self.store, self.study_id, self.spec, self.space, facts, self.log)
        studies.prepared(self.store, self.study_id, self.space.to_json(), facts, lent)
        left = joining.require_like(self.store, self.study_id, facts, self.log)
        if left is not None:
            asking = Asking(self.store, self.study_id, left, self.steering)
            self.protocol, self.measure, self.aside = asking, of_search(self.spec, asking), asking.aside
        else:
            self.answering = Answering(self.store, self.study_id, facts["device"], self.bench, self.steering)
        self.loan = warm_start.Present(self.store, self.study_id)
        for complaint in (*short_text.told(facts), *slots.key_planned(self.store, self.study_id, self.space)):
            self.log("warning", complaint)
        if self.spec.strategy.predicts():
            with memory.one_line(device):
                self.forecast = forecasts.of_bench(self.bench, self.protocol, on_progress)
        self.optuna = persist(self.store, lambda: optuna_storage(self.store))
        self.trials = TrialStorage(self.store, self.optuna, follow=self.spec.budget.pruner != "none")
        patient = Patient(self.store, self.trials)
        self.rescored = Rescored(cast(BaseStorage, patient))
        self.hindsight = Hindsight(self.store, self.study_id, self.spec, self.rescored)
        self.refusal = refusal.Present(self.bench, self.measure)
        if not queries.study_of(self.store, self.study_id).done:
            refusal.require_some(self.refusal.now(self.look().limits))
        with explained(self.store):
            name = self.rescored.get_study_name_from_id(self.study_id)
            self.study = optuna.load_study(study_name=name, storage=cast(BaseStorage, self.rescored))
        describe(self.study, self.spec, *slots.rate(self.store, self.study_id))
        put_away(self.optuna)  # trials are read and written through the store's own connections
        gc.freeze()  # what is here stays: looking for each candidate's garbage then takes a millisecond, not 300

    # ------------------------------------------------------------------------ the loop

    def search(self) -> None:
        """Evaluates candidates until the budget is spent, the space exhausted, or people want it to end."""
        self.close_orphans()
        exhausted: str | None = None  # once no further candidate can be proposed, in words
        enough = Enough(self.store, self.study_id, self.spec)
        while (at := self.wait_while_paused()).wanted == Wanted.RUN:
            seen = self.steering.changed()
            self.answer_others()
            if self.others.any_dead():
                self.close_orphans()
            if (late := self.time.over(at)) is not None:
                if slots.finish_in_time(self.store, self.study_id, late):
                    self.log("info", late)
                    return
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
                claimed = slots.claim(self.store, self.study_id, self.worker_id, planned_only=only)
                if planned and exhausted is None and isinstance(claimed, Left) and claimed.free:
                    self.plan_episode(at)
                    claimed = slots.claim(self.store, self.study_id, self.worker_id, planned_only=only)
                if isinstance(claimed, Claim):
                    self.held = claimed.slot
                    self.run_slot(claimed, at)
                    self.held = None
                    self.hindsight.set_aside(self.trials.known)
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
            if claimed.wanted == Wanted.RUN and not claimed.running:
                if exhausted is not None:
                    slots.finish_exhausted(self.store, self.study_id, exhausted)
                    return
                if not claimed.free:
                    return
            if claimed.running:
                # Others are at the last slots; should one of them die, its candidate is still to be evaluated.
                self.steering.doing = "waiting for other workers"
            self.others.wait(claimed.wanted, seen, self.answer_others)

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

    def look(self) -> Present:
        """The study as people want it now. Raises Leave where it was deleted, StoreError where the store was."""
        self.store.require_there()
        at = present(self.store, self.study_id)
        self.steering.hear(Wanted.ABANDON if at is None else at.wanted)
        if at is None:
            raise Leave
        return at

    def wait_while_paused(self) -> Present:
        """The study when it is to run or to stop. Raises Leave where it is to be abandoned."""
        while True:
            interrupts.check()
            at = self.look()
            if at.wanted == Wanted.ABANDON:
                raise Leave
            if at.wanted != Wanted.PAUSE:
                self.steering.state = WorkerState.RUNNING
                return at
            self.steering.state = WorkerState.PAUSED
            self.steering.wait_for_news(at.wanted, 60.0)

    # ------------------------------------------------------------------------ one slot

    def run_slot(self, claim: Claim, at: Present) -> None:
        self.steering.doing = f"choosing a candidate for slot {claim.slot}"
        trial, chosen = self.ask(claim, at)
        try:
            found = self.evaluate(trial, chosen)
        except (Leave, SlotTaken, StoreError, KeyboardInterrupt):
            raise
        except EvaluationError as error:
            self.fail(claim.slot, trial.number, str(error))
        except Exception as error:
            self.log("debug", traceback.format_exc())
            first = (str(error).strip().splitlines() or [""])[0]
            line = str(error) if isinstance(error, KdnasError) else f"{type(error).__name__}: {first}"
            self.fail(claim.slot, trial.number, line)
        else:
            self.finish(claim.slot, trial, found)

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
            planned, taken = None, slots.taken(self.store, self.study_id, claim.slot) | {key}

    def evaluate(self, trial: optuna.Trial, chosen: Candidate) -> Measurement:
        this, epochs = trial.number, self.bench.budget.epochs
        climb = Climb(self.store, self.study_id, self.spec, self.bench, chosen)
        last_write = time.monotonic()
        done = 0
        found: dict[str, Any] = {}  # written with the next phase

        def on_phase(phase: str) -> None:
            self.leave_if_asked()
            self.steering.doing = f"trial {this}: {phase}"
            if phase == "training":
                self.wait_before_epoch()
            if phase != "building":  # the row was made with that
                self.steering.carry(this, phase=phase, **found)

        def on_timed(timed: Timed, parameters: int) -> None:
            found.update(progress=BUILT, parameters=parameters, **latency_columns(timed))

        def on_step(step: int, steps: int) -> None:
            nonlocal last_write
            self.leave_if_asked()
            if time.monotonic() - last_write >= WRITE_S:
                last_write = time.monotonic()
                share = BUILT + (1 - BUILT) * (done + step / max(1, steps)) / epochs
                self.steering.doing = f"trial {this}: epoch {done + 1}/{epochs}, {step}/{steps}"
                slots.progress(self.store, self.study_id, this, **self.steering.carried(this) | {"progress": share})

        def on_epoch(epoch: Epoch, timed: Timed) -> bool:
            nonlocal done
            done = epoch.epoch
            if not done:  # as built: nothing that a curve of epochs shows
                return climb.goes_on(epoch, timed)
            share = BUILT + (1 - BUILT) * done / epochs
            with explained(self.store), self.trials.held():
                at = self.look()
                if not self.spec.two_objectives:  # Optuna prunes, and draws, a single objective only
                    trial.report(self.rewarded(at, epoch.score.loss, epoch.score.raw_loss, timed), epoch.epoch)
                columns = self.steering.carried(this) | {"progress": share}
                write = self.trials.write
                slots.epoch(self.store, self.study_id, this, curve_columns(epoch), beside=write, **columns)
                self.trials.written()
            if done < epochs and self.hindsight.prunes:
                self.hindsight.use(at)
                with explained(self.store):
                    if trial.should_prune():
                        return False
            go_on = climb.goes_on(epoch, timed)
            if done == epochs or not go_on:
                return go_on
            self.steering.doing = f"trial {this}: epoch {done + 1}/{epochs}"
            self.wait_before_epoch()
            return True

        measured = evaluate(
            self.bench,
            chosen,
            self.measure,
            seed=number(self.spec.seed, Purpose.STUDENT, 0),  # one for all candidates, so that chance is shared
            epochs=epochs,
            on_phase=on_phase,
            on_timed=on_timed,
            on_epoch=on_epoch,
            on_step=on_step,
            aside=self.aside,
            as_built=bool(climb.rungs),
        )
        return climb.measured(measured)

    def leave_if_asked(self) -> None:
        interrupts.check()
        self.steering.leave_what_is_gone()
        if self.steering.wanted == Wanted.ABANDON:
            raise Leave

    def wait_before_epoch(self) -> None:
        """Where the study is paused: hold the training in memory until it goes on. A stop lets the trial end."""
        self.wait_while_paused()
        self.steering.state = WorkerState.RUNNING

    def rewarded(self, at: Present, loss: float, raw_loss: float, timed: Timed) -> float:
        """The reward by the study's α and β of that look."""
        seen = raw_loss if self.spec.reward.loss == "raw" else loss
        return reward(seen, timed.p50, timed.teacher_p50, at.alpha, at.beta)

    # ------------------------------------------------------------------------ how a trial ends

    def finish(self, slot: int, trial: optuna.Trial, found: Measurement) -> None:
        at = self.look()
        rewarded = self.rewarded(at, found.loss, found.raw_loss, found.timed)
        columns = {
            "reward": rewarded,
            "alpha": at.alpha,
            "beta": at.beta,
            "loss": found.loss,
            "raw_loss": found.raw_loss,
            "parameters": found.parameters,
            "memory_mib": found.memory_mib,
            "extra": json.dumps(dict(found.extra)),
            "epoch": found.epoch,
            **latency_columns(found.timed),
        }
        state = SlotState.PRUNED if found.pruned else SlotState.DONE
        slots.finish(self.store, self.study_id, slot, trial.number, state, **columns)
        times = found.timed.teacher_p50 / found.timed.p50
        # For those who look with Optuna's own tools.
        timed = ("latency_ms", "teacher_latency_ms", "latency_flag")
        known = {name: columns[name] for name in ("loss", *timed, "parameters", "alpha", "beta")} | {"speedup": times}
        raw = self.spec.reward.loss == "raw"
        if at.limits and at.teacher_ms is None:  # this may be the trial that measured it
            at = self.look()
        with self.trials.held():
            for name, value in (known | {RUNG: found.extra[RUNG]} if RUNG in found.extra else known).items():
                self.trials.set_trial_user_attr(trial._trial_id, name, value)
            missed = constraint_record.record(at.limits, self.trials, trial, found, raw=raw)
            values = None
            if not found.pruned:
                values = recovery.objectives(self.store, self.study_id, self.spec, columns)
            recovery.tell(self.store, self.study, trial.number, recovery.TOLD[state], values)
        what = f"reward {rewarded:.4f}, loss {found.loss:.4f}, {latency_words(found.timed)}"
        what += f", misses a constraint: {missed}" if missed else ""
        self.log("info", f"trial {trial.number}: {'pruned at ' if found.pruned else ''}{what}")
        if missed and (warning := constraint_record.none_keeps(self.store, self.study_id)) is not None:
            self.log("warning", warning)

    def fail(self, slot: int, number: int, error: str) -> None:
        interrupts.check()
        slots.finish(self.store, self.study_id, slot, number, SlotState.FAILED, error=error)
        recovery.tell(self.store, self.study, number, TrialState.FAIL, None)
        self.log("error", f"trial {number}: failed: {error}")
        row = queries.study_of(self.store, self.study_id)
        if row.failed == row.done and row.failed >= (HOPELESS if row.open else min(HOPELESS, row.trials)):
            which = "" if row.done == row.trials else "of the first "
            raise KdnasError(f"All {which}{row.failed} trials failed, the last one so: {error}")

    def close(self) -> None:
        """Frees the slot that is still held, and ends its trial, without counting an attempt."""
        self.steering.calm()
        self.store.patience = None
        # A store that fails now leaves what the next worker clears up.
        with contextlib.suppress(StoreError):
            if self.held is not None:
                why = "its worker was stopped"
                slots.give_up(self.store, self.study_id, self.held, self.worker_id, attempts=None, why=why)
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
) -> int:
    """Works on the study until there is nothing left to do, in this process and its main thread; the exit code.

    `device` is used instead of the spec's. `prepare` and `measure` are the recipe's and the latency protocol's, unless
    given. An interrupt or SIGTERM frees the running trial and ends with 130. What fails is written to the store and
    raised as KdnasError.
    """
    with open_store(storage) as store:
        row = queries.study_row(store, name)
        spec = from_store(row.spec)
        try:
            with heartbeat.at_work(store, row.study_id, "search") as steering:
                worker = Worker(store, row.study_id, spec, steering, measure or latency_protocol(store))
                try:
                    worker.prepare(prepare or recipe_of(spec), place(steering, device or spec.device))
                    worker.search()
                finally:
                    worker.close()
        except Leave:
            return 0
        except KeyboardInterrupt:
            return 130
        return 0


def place(steering: Steering, name: str) -> torch.device:
    """Sets torch and Optuna up in this process and finds the device that a spec names; others see which. Of several
    GPUs a worker takes the least used one. Raises UsageError for a device that is not there."""
    placing.keep_to_own_cores()
    set_up_torch()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    device = resolve_device(name)
    steering.device = f"{device} {torch.cuda.get_device_name(device)}"[:80] if device.type == "cuda" else str(device)
    steering.log("info", f"worker {steering.worker_id} on {steering.device}, process {os.getpid()}")
    return device


def recipe_of(spec: StudySpec) -> Prepare:
    """What loads the bench of the spec's recipe."""
    from kdnas import recipes

    return recipes.recipe_of(spec).prepare


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
