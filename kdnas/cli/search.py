"""Commands that begin and run studies: search, plan."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from kdnas.cli import frame, worker_options
from kdnas.cli.spec_options import base_values, given_fields, spec_flags, spec_from
from kdnas.study import layer_words
from kdnas.study.rows import Status, StudyRow
from kdnas.study.spec_end import without_time
from kdnas.study.spec_flags import ENDS
from kdnas.study.states import TrialState
from kdnas.study.time_budget import end_words
from kdnas.system.errors import KdnasError, UsageError
from kdnas.system.interrupts import interruptible
from kdnas.system.moments import full_words
from kdnas.system.time_left import duration

if TYPE_CHECKING:
    from kdnas.search.launch import Started
    from kdnas.search.measured_cost import Measured
    from kdnas.search.placing import Count
    from kdnas.store.database import Store
    from kdnas.study.spec import StudySpec

PATIENCE_S = 30.0  # for workers to end properly after Ctrl-C
BEST = 5  # candidates shown at the end


@click.command()
@spec_flags
@worker_options.placed
@worker_options.unlike
@click.option(
    "--engine",
    type=click.Choice(["processes", "ray"]),
    default="processes",
    help="What starts the workers; ray: Ray places them on its nodes.  [default: processes]",
)
@click.option("--address", metavar="HOST:PORT", help="With --engine ray: a Ray that runs.  [default: one of our own]")
@click.option(
    "--stop-when-done",
    is_flag=True,
    help="End once the next trials are expected to gain next to nothing; said of up to 300 trials.",
)
@click.option("--detach", is_flag=True, help="Leave the workers to themselves and return at once.")
@frame.storage
@frame.as_json
def search(
    study: str | None,
    spec_file: Path | None,
    preset: str | None,
    workers: Count,
    workers_per_gpu: int | None,
    unlike: str | None,
    engine: str,
    address: str | None,
    stop_when_done: bool,
    detach: bool,
    storage: str | None,
    as_json: bool,
    **flags: Any,
) -> int:
    """Begin STUDY, or go on with it, and show it until its budget is spent.

    A study that exists goes on as it was begun; --trials, --hours, --until, --alpha, --beta, --device and the
    constraints may be changed. With --hours or --until no trial is begun that would end later; without --trials, that
    alone ends it. Ctrl-C ends the workers; what is finished is kept, and the same command goes on.
    """
    from kdnas.search.launch import start_workers

    where = frame.place(storage)
    fields = given_fields(flags) | ({"budget.stop_when_done": True} if stop_when_done else {})
    worker_options.require_plain(workers, workers_per_gpu)
    if address is not None and engine != "ray":
        raise UsageError(f"--address {address} is of a Ray.", "Give --engine ray, too.")
    if detach and engine == "ray":
        raise UsageError("Workers on Ray end with this command, which --detach would end.", "Leave --detach off.")
    begun = _begin(where, base_values(study, spec_file, preset), fields, check=detach)
    name = begun.name
    if unlike is not None:
        worker_options.allow_unlike(where, name, unlike)
    device = fields.get("device")
    if begun.status == Status.FINISHED:
        workers_of: Any = contextlib.nullcontext([])
    elif engine == "ray":
        from kdnas.search import ray_engine

        workers_of = ray_engine.placed(where, begun, workers, workers_per_gpu or 1, device, address, frame.say)
    else:
        seats = worker_options.seats_of(begun, workers, workers_per_gpu, device)
        workers_of = contextlib.nullcontext(start_workers(where, name, seats=seats))
    with workers_of as started:
        if detach:
            tell_started(name, started, as_json)
            return 0
        return _shown(where, storage, name, started, as_json, stays=engine != "ray")


def _shown(where: str, storage: str | None, name: str, started: list[Started], as_json: bool, *, stays: bool) -> int:
    """Shows the study until its workers have ended; the exit code. `stays`: they outlive this command."""
    from kdnas.cli.watch import watch
    from kdnas.store.database import open_reader
    from kdnas.store.patience import Patience

    with open_reader(where) as store:
        store.patience = Patience(lambda line, back: frame.say(line))
        try:
            with steered(name, storage) if stays else interruptible():
                row = watch(store, name, [s.process for s in started])
        except KeyboardInterrupt:
            end(started)
            frame.say(f"Stopped; what was finished is kept. Go on with: {again(name, storage)}")
            return frame.INTERRUPTED
        if row.done > row.failed and not as_json:
            _show_best(store, row, storage)
        error = _all_failed(store, row)
        if as_json:
            from kdnas.cli.tables import ranked, study_values, trial_values

            trials = [trial_values(s) for s in ranked(store, row)]
            frame.print_json({"study": study_values(row), "trials": trials})
    if error is not None:
        raise KdnasError(error, f"See the workers' lines with: kdnas logs {name}")
    return outcome(row, started, again(name, storage))


def _begin(where: str, values: dict[str, Any], fields: dict[str, Any], *, check: bool) -> StudyRow:
    """Create the study or take it up again; its row. Flags lie over the spec, or over what it was begun with.

    With `check`, teacher, data and space are looked at first: of a detached worker's complaints nobody hears.
    """
    from kdnas.search.begin import begin

    if set(values) <= {"name"}:
        existing = _existing(where, values.get("name", "study"))
        if existing is not None:
            values = dict(existing.spec)
    spec = spec_from(values, fields)
    anew = not ENDS.keys().isdisjoint(fields)
    known = _existing(where, spec.name)
    new_end = spec.budget.timed and (anew or known is None or known.end is None)  # else that which it has
    trial_s = None
    if check or new_end:
        from kdnas.search.ready import require_ready

        checked = spec if new_end else without_time(spec)
        trial_s = require_ready(checked, lambda words, _: frame.say(words), measured_in(where, spec)).seconds_per_trial
    begun = begin(
        spec,
        where,
        trials=spec.budget.trials if "budget.trials" in fields else None,
        alpha=spec.reward.alpha if "reward.alpha" in fields else None,
        beta=spec.reward.beta if "reward.beta" in fields else None,
        constraints=spec.constraints if any(field.startswith("constraints.") for field in fields) else None,
        anew=anew,
        trial_s=trial_s,
    )
    row = begun.row
    if begun.resumed:
        frame.say(f"{row.name} goes on: {row.counted_words} are done.")
    if row.end is not None and row.status != Status.FINISHED:
        frame.say(f"{row.name} runs {end_words(row.end, row.trials, time.time())}: {full_words(row.end.until)}.")
    elif row.end is not None:
        frame.say(f"{row.ending} Go on with: kdnas search {row.name} --hours 2")
    return row


def measured_in(where: str, spec: StudySpec) -> Measured | None:
    """What trials like the spec's took in the store; None where there is none, and where it cannot be read."""
    from kdnas.search.measured_cost import measured
    from kdnas.store.database import open_reader

    with contextlib.suppress(KdnasError), open_reader(where) as store:
        return measured(store, spec)
    return None


def _existing(where: str, name: str) -> StudyRow | None:
    from kdnas.store import queries
    from kdnas.store.database import reader_if_there

    there = reader_if_there(where)
    if there is None:
        return None
    with there as store:
        return queries.find_study(store, name)


def tell_started(name: str, started: Sequence[Started], as_json: bool) -> None:
    """The workers that were started, as data."""
    if as_json:
        workers = [{"pid": s.pid, "log": str(s.log)} for s in started]
        frame.print_json({"study": name, "workers": workers})
        return
    if not started:
        frame.say(f"{name} is finished. See it with: kdnas show {name}")
        return
    for s in started:
        frame.line(f"{s.pid}  {s.log}")
    frame.say(f"{name} runs in the background. Watch it with: kdnas-tui {name}, or kdnas logs {name} -f")


@contextlib.contextmanager
def steered(name: str, storage: str | None) -> Iterator[None]:
    """SIGTERM ends the search as Ctrl-C does; a dropped connection (SIGHUP) leaves the workers at work, and says so."""

    where = ["--storage", frame.shown(storage)] if storage else []
    watch, stop = shlex.join(["kdnas-tui", name, *where]), shlex.join(["kdnas", "stop", name, *where])
    said = f"{name} goes on without this command. Watch it with: {watch}. End it with: {stop}"

    def dropped(number: int, at: FrameType | None) -> None:
        with contextlib.suppress(OSError):  # the terminal may be gone; a file that has the lines is not
            os.write(2, f"\r\n{said}\n".encode())
        if callable(before):
            before(number, at)

    before = signal.getsignal(signal.SIGHUP)
    if callable(before):  # and not ignored, as by nohup
        signal.signal(signal.SIGHUP, dropped)
    try:
        with interruptible(hangup=False):
            yield
    finally:
        if callable(before):
            signal.signal(signal.SIGHUP, before)


def end(started: Sequence[Started]) -> None:
    """Ask the workers to end and wait for them; a second Ctrl-C, or too long a wait, kills them."""
    frame.say("Ending the running trial …")
    running = [s.process for s in started if s.process.poll() is None]
    for process in running:
        process.terminate()
    deadline = time.monotonic() + PATIENCE_S
    try:
        for process in running:
            process.wait(timeout=max(0.1, deadline - time.monotonic()))
    except (KeyboardInterrupt, subprocess.TimeoutExpired):
        for process in running:
            process.kill()


def again(name: str, storage: str | None, command: str = "search") -> str:
    """The command line that goes on with a study."""
    return shlex.join(["kdnas", command, name, *(["--storage", frame.shown(storage)] if storage else [])])


def _show_best(store: Store, row: StudyRow, storage: str | None) -> None:
    from kdnas.cli.tables import legend, ranked, study_head, trial_table
    from kdnas.study.constraints import of_study
    from kdnas.study.ranked_rows import nearest_of

    every = ranked(store, row)
    scored, lower = [s for s in every if s.rank is not None], sum(s.behind for s in every)
    study_head(row)
    frame.line()
    trial_table(scored[:BEST])
    where = ["--storage", frame.shown(storage)] if storage else []
    show, finalize = (shlex.join(["kdnas", command, row.name, *where]) for command in ("show", "finalize"))
    shown = f"The best {BEST} of {len(scored)}; all of them: {show}. " if len(scored) > BEST else ""
    if lower:
        shown += f"{lower} more stayed on lower rungs and have no rank. "
    frame.say(legend(scored[:BEST]))
    if nearest := nearest_of(every, of_study(row)):
        frame.say(f"{shown}None keeps to {of_study(row)}; {nearest}.")
        return
    frame.say(f"{shown}Make a model of the best: {finalize} --output DIR")


def _all_failed(store: Store, row: StudyRow) -> str | None:
    """What to say of a finished study without a single result."""
    from kdnas.store import queries

    if row.status != Status.FINISHED or not row.done or row.failed < row.done:
        return None
    last = [trial.error for trial in queries.trial_rows(store, row.study_id) if trial.state == TrialState.FAILED][-1]
    counted = "The only trial" if row.done == 1 else f"All {row.done} trials"
    return f"{counted} of {row.name} failed, the last one so: {last}"


def outcome(row: StudyRow, started: Sequence[Started], again: str) -> int:
    """The exit code, with a line about why where the budget was not spent. Raises what ended the workers."""
    if row.status == Status.FINISHED:
        return 0
    codes = [code for s in started if (code := s.process.poll()) is not None]
    if any(code < 0 for code in codes):
        number = -min(codes)
        raise KdnasError(f"A worker was killed by signal {number}; what was finished is kept.", f"Go on with: {again}")
    if row.status == Status.FAILED or any(code not in (0, frame.INTERRUPTED) for code in codes):
        worst = max(codes)
        raise (UsageError if worst == 2 else KdnasError)(_last_words(started) or row.ending or "A worker failed.")
    if row.status in (Status.RUNNING, Status.PAUSING, Status.PAUSED):
        frame.say(f"{row.name} goes on with {row.workers} other worker(s).")
        return 0
    frame.say(f"{row.name} was stopped after {row.counted_words}. Go on with: {again}")
    return frame.INTERRUPTED if frame.INTERRUPTED in codes else 0


def _last_words(started: Sequence[Started]) -> str | None:
    """What a worker that failed said last, in its own line or, for a fault of kdnas, in its traceback's."""
    for s in started:
        if s.process.returncode:
            lines = [line for line in s.log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
            said = [line.removeprefix("kdnas: ") for line in lines if line.startswith("kdnas: ")]
            if said:
                return said[-1]
            if lines:
                return f"A worker ended with {lines[-1].strip()} (in {s.log})."
    return None


@click.command()
@spec_flags
@frame.storage
@frame.as_json
def plan(
    study: str | None, spec_file: Path | None, preset: str | None, storage: str | None, as_json: bool, **flags: Any
) -> None:
    """Say what a search with these flags would do, without running it. A teacher that ships is fetched for that."""
    from kdnas.search import warm_start
    from kdnas.search.plan import plan as make
    from kdnas.search.ready import fetch

    spec = spec_from(base_values(study, spec_file, preset), given_fields(flags))
    fetch(spec, lambda words, _: frame.say(words))
    made = make(spec, frame.shown(storage) if storage else None, measured_in(frame.place(storage), spec))
    made = replace(made, notes=made.notes + warm_start.notes(spec, made.dimensions, frame.place(storage)))
    if as_json:
        frame.print_json(made.values())
        return
    frame.line(f"space     {made.space_size:,} candidates")
    for name, choices in layer_words.grouped(made.dimensions).items():
        frame.line(f"          {name}: {', '.join(map(str, choices))}")
    frame.line("teacher   " + ", ".join(f"{key} {value}" for key, value in made.teacher.items()))
    frame.line(f"reward    {made.exchange}")
    if made.tokens is not None:
        frame.line(f"text      about {made.tokens:,} tokens, {made.proxy_tokens:,} of them in the proxy set")
    if made.cache_bytes is not None:
        frame.line(f"cache     {made.cache_bytes / 2**20:,.0f} MiB of the teacher's outputs, where keeping them pays")
    if made.seconds is not None:
        each, total = duration(made.seconds_per_trial), duration(made.seconds)
        frame.line(f"time      about {each} a candidate, {total} in all on {made.device}")
    if made.ends is not None:
        known = "a number of trials not known yet" if made.trials is None else f"about {made.trials:,} trials"
        frame.line(f"end       {made.ends}, {known}")
    for note in made.notes:
        frame.line(f"note      {note}")
    frame.line(f"command   {made.command}")
