"""One trial of a worker from its candidate to its end: evaluated, its progress and curve written, told to Optuna.

Claims no slot and proposes nothing: that is the loop's (worker.py).
"""

from __future__ import annotations

import json
import time
import traceback
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.trial import TrialState

from kdnas.recipes.contract import Workbench
from kdnas.search import constraint_record
from kdnas.search.candidate import Aside, EvaluationError, Measure, Measurement, Timed, evaluate
from kdnas.search.climb import Climb
from kdnas.search.heartbeat import WRITE_S, Leave, Steering
from kdnas.search.hindsight import Hindsight
from kdnas.search.timing import curve_columns, latency_columns, latency_words
from kdnas.search.wishes import Wishes
from kdnas.store import queries, recovery, slots
from kdnas.store.complaints import StoreError
from kdnas.store.database import Store
from kdnas.store.optuna_storage import explained
from kdnas.store.present import Present
from kdnas.store.slots import SlotTaken
from kdnas.store.trial_storage import TrialStorage
from kdnas.study.reward import reward
from kdnas.study.rows import RUNG
from kdnas.study.space import Candidate
from kdnas.study.spec import StudySpec
from kdnas.study.states import SlotState
from kdnas.system import interrupts
from kdnas.system.errors import KdnasError
from kdnas.system.seeds import Purpose, number
from kdnas.training.contract import Epoch

BUILT = 0.1  # share of a trial's progress that building and timing count for
HOPELESS = 5  # a study whose first trials all fail ends after so many of them


@dataclass(frozen=True)
class TrialRuns:
    """Of one worker; `run` takes one trial to its end."""

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
        try:
            found = self.evaluate(trial, chosen)
        except (Leave, SlotTaken, StoreError, KeyboardInterrupt):
            raise
        except EvaluationError as error:
            self.fail(slot, trial.number, str(error))
        except Exception as error:
            self.steering.log("debug", traceback.format_exc())
            first = (str(error).strip().splitlines() or [""])[0]
            line = str(error) if isinstance(error, KdnasError) else f"{type(error).__name__}: {first}"
            self.fail(slot, trial.number, line)
        else:
            self.finish(slot, trial, found)

    def evaluate(self, trial: optuna.Trial, chosen: Candidate) -> Measurement:
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

        def on_epoch(epoch: Epoch, timed: Timed) -> bool:
            nonlocal done
            done = epoch.epoch
            if not done:  # as built: nothing that a curve of epochs shows
                return climb.goes_on(epoch, timed)
            share = BUILT + (1 - BUILT) * done / epochs
            with explained(self.store), self.trials.held():
                at = self.wishes.look()
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
            self.wishes.wait_while_paused()
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

    def rewarded(self, at: Present, loss: float, raw_loss: float, timed: Timed) -> float:
        """The reward by the study's α and β of that look."""
        seen = raw_loss if self.spec.reward.loss == "raw" else loss
        return reward(seen, timed.p50, timed.teacher_p50, at.alpha, at.beta)

    def finish(self, slot: int, trial: optuna.Trial, found: Measurement) -> None:
        at = self.wishes.look()
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
            at = self.wishes.look()
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
        self.steering.log("info", f"trial {trial.number}: {'pruned at ' if found.pruned else ''}{what}")
        if missed and (warning := constraint_record.none_keeps(self.store, self.study_id)) is not None:
            self.steering.log("warning", warning)

    def fail(self, slot: int, number: int, error: str) -> None:
        interrupts.check()
        slots.finish(self.store, self.study_id, slot, number, SlotState.FAILED, error=error)
        recovery.tell(self.store, self.study, number, TrialState.FAIL, None)
        self.steering.log("error", f"trial {number}: failed: {error}")
        row = queries.study_of(self.store, self.study_id)
        if row.failed == row.done and row.failed >= (HOPELESS if row.open else min(HOPELESS, row.trials)):
            which = "" if row.done == row.trials else "of the first "
            raise KdnasError(f"All {which}{row.failed} trials failed, the last one so: {error}")
