"""One trial of a worker from its candidate to its end: evaluated, its progress and curve written, told to Optuna.

Claims no slot and proposes nothing: that is the loop's (worker.py).
"""

from __future__ import annotations

import contextlib
import json
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from kdnas.recipes.contract import Workbench
from kdnas.search import constraint_record
from kdnas.search.candidate import (
    Aside,
    EvaluationError,
    Measure,
    Measurement,
    Timed,
    Untimed,
    evaluate,
    score,
    timed_alone,
)
from kdnas.search.climb import Climb
from kdnas.search.heartbeat import WRITE_S, Leave, Steering
from kdnas.search.hindsight import Hindsight
from kdnas.search.timing import curve_columns, latency_columns, latency_words
from kdnas.search.wishes import Wishes
from kdnas.store import queries, recovery, slots, waiting
from kdnas.store.complaints import StoreError
from kdnas.store.database import Store
from kdnas.store.optuna_storage import explained
from kdnas.store.present import Present
from kdnas.store.slots import SlotTaken
from kdnas.store.trial_storage import TrialStorage
from kdnas.store.waiting import Waiting
from kdnas.study.reward import reward
from kdnas.study.rows import RUNG
from kdnas.study.space import Candidate
from kdnas.study.spec import StudySpec
from kdnas.study.states import WAITS, SlotState
from kdnas.system import interrupts
from kdnas.system.errors import KdnasError
from kdnas.system.seeds import Purpose, number
from kdnas.training.contract import Epoch

R = TypeVar("R")
BUILT = 0.1  # share of a trial's progress that building and timing count for
HOPELESS = 5  # a study whose first trials all fail ends after so many of them


@dataclass(frozen=True)
class TrialRuns:
    """Of one worker; `run` takes one trial to its end, or to its score where latencies are measured afterwards, and
    `time_waiting` a trial that waits for its latency to its end."""

    store: Store
    study_id: int
    spec: StudySpec
    steering: Steering
    wishes: Wishes
    bench: Workbench
    measure: Measure
    aside: Aside
    study: optuna.Study
    trials: TrialStorage
    hindsight: Hindsight

    def run(self, slot: int, trial: optuna.Trial, chosen: Candidate) -> None:
        """Evaluates the slot's candidate and writes how it ended. Raises Leave, SlotTaken, StoreError and
        KeyboardInterrupt; whatever else goes wrong is the trial's failure."""
        found = self._found(partial(self.evaluate, trial, chosen))
        if isinstance(found, str):
            self.fail(slot, trial.number, found)
        elif isinstance(found, Untimed):
            self.leave_latency(slot, trial.number, found)
        else:
            self.finish(slot, trial.number, found)

    def time_waiting(self, held: Waiting) -> None:
        """Measures the latency for which a trial waits, and writes how it ended. Raises as `run` does."""
        self.steering.doing = f"timing trial {held.number}"
        begun = time.monotonic()
        found = self._found(partial(timed_alone, self.bench, held.candidate, self.measure, self.aside))
        ended = held.scored + time.monotonic() - begun  # what it took, without the wait
        if isinstance(found, str):
            self.fail(held.slot, held.number, f"its latency: {found}", ended)
            return
        timed, further = found
        whole = Measurement(
            loss=held.loss,
            raw_loss=held.raw_loss,
            timed=timed,
            parameters=held.parameters,
            memory_mib=held.memory_mib,
            extra={**held.extra, **further},
            epoch=held.epoch,
            pruned=False,
        )
        self.finish(held.slot, held.number, whole, ended)

    def _found(self, work: Callable[[], R]) -> R | str:
        """What the work gives, or why it cannot, in words."""
        try:
            return work()
        except (Leave, SlotTaken, StoreError, KeyboardInterrupt):
            raise
        except EvaluationError as error:
            return str(error)
        except Exception as error:
            self.steering.log("debug", traceback.format_exc())
            first = (str(error).strip().splitlines() or [""])[0]
            return str(error) if isinstance(error, KdnasError) else f"{type(error).__name__}: {first}"

    def evaluate(self, trial: optuna.Trial, chosen: Candidate) -> Measurement | Untimed:
        this, epochs = trial.number, self.bench.budget.epochs
        climb = Climb(self.store, self.study_id, self.spec, self.bench, chosen)
        last_write = time.monotonic()
        done = 0
        found: dict[str, Any] = {}  # written with the next phase

        def on_phase(phase: str) -> None:
            self.wishes.leave_if_asked()
            self.steering.doing = f"trial {this}: {phase}"
            if phase == "training":  # a pause holds it in memory until it goes on; a stop lets the trial end
                self.wishes.wait_while_paused()
            if phase != "building":  # the row was made with that
                self.steering.carry(this, phase=phase, **found)

        def on_timed(timed: Timed, parameters: int) -> None:
            found.update(progress=BUILT, parameters=parameters, **latency_columns(timed))

        def on_step(step: int, steps: int) -> None:
            nonlocal last_write
            self.wishes.leave_if_asked()
            if time.monotonic() - last_write >= WRITE_S:
                last_write = time.monotonic()
                share = BUILT + (1 - BUILT) * (done + step / max(1, steps)) / epochs
                self.steering.doing = f"trial {this}: epoch {done + 1}/{epochs}, {step}/{steps}"
                slots.progress(self.store, self.study_id, this, **self.steering.carried(this) | {"progress": share})

        def on_epoch(epoch: Epoch, timed: Timed | None) -> bool:
            nonlocal done
            done = epoch.epoch
            if not done:  # as built: nothing that a curve of epochs shows
                return timed is None or climb.goes_on(epoch, timed)
            share = BUILT + (1 - BUILT) * done / epochs
            with explained(self.store), self.trials.held():
                at = self.wishes.look()
                if timed is not None and not self.spec.two_objectives:  # Optuna prunes, and draws, a single one only
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
            go_on = timed is None or climb.goes_on(epoch, timed)
            if done == epochs or not go_on:
                return go_on
            self.steering.doing = f"trial {this}: epoch {done + 1}/{epochs}"
            self.wishes.wait_while_paused()
            return True

        seed = number(self.spec.seed, Purpose.STUDENT, 0)  # one for all candidates, so that chance is shared
        if self.spec.latency.when == "after":
            untimed = partial(on_epoch, timed=None)
            return score(
                self.bench, chosen, seed=seed, epochs=epochs, on_phase=on_phase, on_epoch=untimed, on_step=on_step
            )
        measured = evaluate(
            self.bench,
            chosen,
            self.measure,
            seed=seed,
            epochs=epochs,
            on_phase=on_phase,
            on_timed=on_timed,
            on_epoch=on_epoch,
            on_step=on_step,
            aside=self.aside,
            as_built=bool(climb.rungs),
        )
        return climb.measured(measured)

    def rewarded(self, at: Present, loss: float, raw_loss: float, timed: Timed) -> float:
        """The reward by the study's α and β of that look."""
        seen = raw_loss if self.spec.reward.loss == "raw" else loss
        return reward(seen, timed.p50, timed.teacher_p50, at.alpha, at.beta)

    def leave_latency(self, slot: int, number: int, found: Untimed) -> None:
        """The trial waits for its latency from now on, and is nobody's."""
        self.steering.carried(number)
        columns = score_columns(found)
        waiting.scored(self.store, self.study_id, slot, self.steering.worker_id, number, **columns)
        self.trials.forget_own()
        self.steering.log("info", f"trial {number}: loss {found.loss:.4f}, {WAITS}")

    def finish(self, slot: int, number: int, found: Measurement, ended: float | None = None) -> None:
        """`ended`: of a trial that waited for its latency, and was this worker's to time."""
        at = self.wishes.look()
        rewarded = self.rewarded(at, found.loss, found.raw_loss, found.timed)
        columns = {
            "reward": rewarded,
            "alpha": at.alpha,
            "beta": at.beta,
            **score_columns(found),
            **latency_columns(found.timed),
        }
        state = SlotState.PRUNED if found.pruned else SlotState.DONE
        by = None if ended is None else self.steering.worker_id
        slots.finish(self.store, self.study_id, slot, number, state, timed_by=by, ended=ended, **columns)
        times = found.timed.teacher_p50 / found.timed.p50
        # For those who look with Optuna's own tools.
        timed = ("latency_ms", "teacher_latency_ms", "latency_flag")
        known = {name: columns[name] for name in ("loss", *timed, "parameters", "alpha", "beta")} | {"speedup": times}
        raw = self.spec.reward.loss == "raw"
        if at.limits and at.teacher_ms is None:  # this may be the trial that measured it
            at = self.wishes.look()
        missed = ""
        with contextlib.suppress(UpdateFinishedTrialError), self.trials.held():  # somebody may have told Optuna already
            trial_id = self.trials.take_over(self.study_id, number)
            for name, value in (known | {RUNG: found.extra[RUNG]} if RUNG in found.extra else known).items():
                self.trials.set_trial_user_attr(trial_id, name, value)
            missed = constraint_record.record(at.limits, self.trials, trial_id, found, raw=raw)
            values = None
            if not found.pruned:
                values = recovery.objectives(self.store, self.study_id, self.spec, columns)
            recovery.tell(self.store, self.study, number, recovery.TOLD[state], values)
        what = f"reward {rewarded:.4f}, loss {found.loss:.4f}, {latency_words(found.timed)}"
        what += f", misses a constraint: {missed}" if missed else ""
        self.steering.log("info", f"trial {number}: {'pruned at ' if found.pruned else ''}{what}")
        if missed and (warning := constraint_record.none_keeps(self.store, self.study_id)) is not None:
            self.steering.log("warning", warning)

    def fail(self, slot: int, number: int, error: str, ended: float | None = None) -> None:
        """`ended`: as of `finish`."""
        interrupts.check()
        by = None if ended is None else self.steering.worker_id
        failed = SlotState.FAILED
        slots.finish(self.store, self.study_id, slot, number, failed, timed_by=by, ended=ended, error=error)
        recovery.tell(self.store, self.study, number, TrialState.FAIL, None)
        self.steering.log("error", f"trial {number}: failed: {error}")
        row = queries.study_of(self.store, self.study_id)
        if row.failed == row.done and row.failed >= (HOPELESS if row.open else min(HOPELESS, row.trials)):
            which = "" if row.done == row.trials else "of the first "
            raise KdnasError(f"All {which}{row.failed} trials failed, the last one so: {error}")


def score_columns(found: Untimed | Measurement) -> dict[str, Any]:
    """What training and scoring found, as the store's columns."""
    return {
        "loss": found.loss,
        "raw_loss": found.raw_loss,
        "parameters": found.parameters,
        "memory_mib": found.memory_mib,
        "extra": json.dumps(dict(found.extra)),
        "epoch": found.epoch,
    }
