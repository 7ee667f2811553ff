"""Finalizes a study: chooses a trial, distils its candidate in full, and tells the store how far it is.

The distillation itself is `distil`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kdnas.search.candidate import Measure
from kdnas.search.heartbeat import Steering, at_work
from kdnas.store import changes, jobs, queries
from kdnas.store.database import Store, open_store
from kdnas.students import model_folder, unfinished
from kdnas.students.distil import Job, Prepare, Telling, distil, point_of
from kdnas.students.extras import Extras
from kdnas.study.constraints import of_study
from kdnas.study.filter import keys_of, parse
from kdnas.study.full_time import full_time
from kdnas.study.ground import ground_of
from kdnas.study.ranked_rows import missed, passing, rank_of
from kdnas.study.ranking import Scored
from kdnas.study.spec import StudySpec, from_values
from kdnas.study.states import WorkerState
from kdnas.system.errors import KdnasError, UsageError
from kdnas.system.time_left import Span
from kdnas.training.contract import Epoch

WRITE_S = 1.0  # how often the store hears of progress


@dataclass(frozen=True)
class Chosen:
    """What a finalization is about to do. `expected`: seconds of its training, where the search says; `kept`: what an
    earlier attempt has left, which it goes on from."""

    job: Job
    output: Path
    expected: Span | None
    kept: unfinished.Unfinished | None


def choose(store: Store, study: str, *, rank_wanted: int = 1, trial: int | None = None, only: str | None = None) -> Job:
    """The candidate of a trial, or of the one at a rank under the study's present α and β.

    `only` is a filter: ranks are counted among what it lets through. Raises UsageError.
    """
    row = queries.study_row(store, study)
    spec = from_values(row.spec)
    ground = ground_of(queries.provenance(store, row.study_id))
    scored = rank_of(row, queries.trial_rows(store, row.study_id))
    if trial is not None:
        one = next((s for s in scored if s.number == trial), None)
        if one is None:
            raise UsageError(f"Study {study} has no trial {trial}.", f"See its trials with: kdnas show {study}")
        return _job(spec, one, ground, missed(one, of_study(row)))
    ranked = [s for s in scored if s.rank is not None]
    if only is not None and ranked:
        passed = passing(parse(only, keys_of([s.row for s in scored])), scored)
        ranked = [s for s in passed if s.rank is not None]
        if not ranked and (lower := [s.number for s in passed if s.behind]):
            raise UsageError(
                f"What passes {only!r} stayed on lower rungs than others, so none of it has a rank.",
                f"Choose one by its number, as in --trial {lower[0]}, or loosen the filter.",
            )
        if not ranked:
            raise UsageError(f"No finished trial of {study} passes {only!r}.", "Loosen the filter.")
    if rank_wanted > len(ranked):
        if not ranked:
            raise UsageError(f"Study {study} has no finished trial yet.", f"Let it finish one: kdnas search {study}")
        raise UsageError(
            f"Study {study} has {len(ranked)} ranked trials, not {rank_wanted}.", f"Give --rank 1 to {len(ranked)}."
        )
    chosen = ranked[rank_wanted - 1]
    if chosen.infeasible:  # what somebody wants all the same is named by its number
        limits = of_study(row)
        kept = sum(not s.infeasible for s in ranked)
        which = f"Only {kept} of" if kept else "None of"
        raise UsageError(
            f"{which} {len(ranked)} ranked trials of {study} keep{'' if kept > 1 else 's'} to {limits}; trial "
            f"{chosen.number} has {missed(chosen, limits)}.",
            f"Let it search on, loosen the constraint, or take it all the same with --trial {chosen.number}.",
        )
    return _job(spec, chosen, ground)


def _job(spec: StudySpec, chosen: Scored, ground: Mapping[str, Any], misses: str = "") -> Job:
    row = chosen.row
    found = {
        "state": row.state,
        "reward": chosen.reward,
        "loss": row.loss,
        "raw_loss": row.raw_loss,
        "latency_ms": row.latency_ms,
        **({"latency_flag": row.latency_flag} if row.latency_predicted else {}),
        "epochs": row.epoch,
        **({"misses_constraints": misses} if misses else {}),
    }
    if spec.space.variants:
        from kdnas.recipes import variants

        spec, student = variants.resolved(spec, str(row.candidate[variants.NAME]))
        return Job(spec, student, spec.name, row.number, found)  # the study's ground is its first variant's
    return Job(spec, dict(row.candidate), spec.name, row.number, found, ground)


def finalize(
    storage: str,
    study: str,
    output: Path,
    telling: Telling,
    *,
    rank_wanted: int = 1,
    trial: int | None = None,
    only: str | None = None,
    full: Mapping[str, Any] | None = None,
    device: str | None = None,
    extras: Extras | None = None,
    prepare: Prepare | None = None,
    measure: Measure | None = None,
    begins: Callable[[Chosen], None] = lambda _: None,
) -> dict[str, Any]:
    """Full KD of a trial of a study into `output`; what `kdnas.json` says of it. `begins` hears what is about to begin.

    `full` replaces fields of the spec's `full` part. The store holds a row of the run and a worker that lives while
    it goes on. Raises UsageError before any work where the study, the trial or the folder cannot be.
    """
    from kdnas.search.timing import latency_protocol

    output = output.absolute()
    with open_store(storage) as store:
        job = choose(store, study, rank_wanted=rank_wanted, trial=trial, only=only)
        job = _with_full(job, full or {})
        wanted = extras or Extras()
        if model_folder.finished(output, job.key()):
            wanted.check(job.spec, job.candidate)
            telling.on_progress(f"{output} is finished already", 1.0)
            facts = wanted.completed(output, telling.on_progress)
            return wanted.pushed(output, facts, telling.on_progress)
        row = queries.study_row(store, study)
        where = device or job.spec.device
        begins(Chosen(job, output, _expected(store, row.study_id, job, where), unfinished.read(output)))
        with at_work(store, row.study_id, "finalize") as alive:
            alive.state, alive.device = WorkerState.RUNNING, where
            run_id = jobs.begin(
                store, row.study_id, "finalize", str(output), number=job.trial, worker_id=alive.worker_id
            )
            changes.add_event(store, row.study_id, "finalize", {"trial": job.trial, "folder": str(output)})
            heard = _Heard(telling, store, run_id, alive)
            try:
                facts = distil(
                    job,
                    output,
                    Telling(heard.on_progress, heard.epoch),
                    device=where,
                    extras=wanted,
                    prepare=prepare,
                    measure=measure or latency_protocol(store),
                )
            except BaseException as error:
                jobs.fail(store, run_id, _why(error, output))
                raise
            jobs.end(store, run_id, heard.result(facts))
        return facts


def _expected(store: Store, study_id: int, job: Job, device: str) -> Span | None:
    """Seconds of the training, by the candidate's epochs in the search; None on another device than the search's."""
    from kdnas.measuring.devices import device_name, resolve_device

    provenance = queries.provenance(store, study_id)
    if job.trial is None or provenance.get("device") != device_name(resolve_device(device)):
        return None
    return full_time(queries.curves(store, study_id, [job.trial])[job.trial], provenance, job.epochs)


def _why(error: BaseException, output: Path) -> str:
    if isinstance(error, KeyboardInterrupt):
        kept = unfinished.read(output)
        return f"Stopped. {kept.words()} are kept, and it goes on there." if kept else "Stopped before it began."
    return str(error) if isinstance(error, KdnasError) else f"{type(error).__name__}: {error}"


def _with_full(job: Job, full: Mapping[str, Any]) -> Job:
    given = {name: value for name, value in full.items() if value is not None}
    if not given:
        return job
    values = job.spec.model_dump(mode="json")
    values["full"] = {**values["full"], **given}
    return replace(job, spec=from_values(values))


class _Heard:
    """Passes on what a run tells, and writes it into the store, not more often than once a second."""

    def __init__(self, telling: Telling, store: Store, run_id: int, alive: Steering) -> None:
        self.telling, self.store, self.run_id, self.alive = telling, store, run_id, alive
        self.share, self.written = 0.0, 0.0
        self.curve: list[dict[str, Any]] = []

    def on_progress(self, words: str, share: float | None) -> None:
        self.telling.on_progress(words, share)
        self.share = self.share if share is None else share
        self.alive.doing = words
        if time.monotonic() - self.written >= WRITE_S:
            self._write(words)

    def epoch(self, epoch: Epoch) -> None:
        self.telling.epoch(epoch)
        self.curve.append(point_of(epoch))
        self._write(f"epoch {epoch.epoch} of {epoch.epochs} done" if epoch.epoch else "scored before any step")

    def _write(self, words: str) -> None:
        self.written = time.monotonic()
        jobs.progress(self.store, self.run_id, self.share, words, {"curve": self.curve})

    def result(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "curve": facts["metrics"]["history"],
            "metrics": {k: v for k, v in facts["metrics"].items() if k != "history"},
            "latency": facts["latency"],
            "parameters": facts["parameters"],
            "onnx": facts.get("onnx"),
        }
