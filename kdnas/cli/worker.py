"""The command by which a machine joins a study: worker."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from kdnas.cli import frame, worker_options
from kdnas.system.errors import KdnasError

if TYPE_CHECKING:
    from kdnas.search.launch import Started
    from kdnas.search.placing import Count, Seat
    from kdnas.study.rows import StudyRow


@click.command()
@frame.study
@worker_options.placed
@click.option("--device", metavar="VALUE", help="Where it runs.  [default: the study's own]")
@click.option("--until-done", is_flag=True, help="Replace workers that are killed; a study that has ended is no error.")
@click.option(
    "--latency", is_flag=True, help="Evaluate nothing: measure latencies of a study that has them measured after."
)
@worker_options.unlike
@frame.storage
def worker(
    study: str,
    workers: Count,
    workers_per_gpu: int | None,
    device: str | None,
    until_done: bool,
    latency: bool,
    unlike: str | None,
    storage: str | None,
) -> int:
    """Join STUDY from this machine, and work on it until there is nothing left to do.

    Give the same --storage as where it was begun. One worker runs in this process. Several, or with --until-done, are
    processes of their own that end with this command. Another teacher, data set, device or version than the study's is
    refused. With --latency it evaluates nothing, and measures the latencies of trials that wait for theirs. It may
    start before those who search, and ends with a line where none of them has been at work for ten minutes.
    """
    from kdnas.search import joining
    from kdnas.store import queries
    from kdnas.store.database import open_store
    from kdnas.study.rows import Status

    worker_options.require_plain(workers, workers_per_gpu)
    where = frame.place(storage)
    with open_store(where) as store:
        row = queries.study_row(store, study)
        if until_done and row.status is Status.FINISHED:
            frame.say(f"{study} has ended: {row.ending}")
            return 0
        if unlike is not None:
            joining.allow_unlike(store, row.study_id, unlike)
        joining.require_joinable(store, row)
        if latency:
            worker_options.require_latency_worker(row, workers, until_done)
    seats = worker_options.seats_of(row, workers, workers_per_gpu, device)
    if len(seats) == 1 and not until_done:
        from kdnas.search.worker import run_worker

        return run_worker(where, study, device=seats[0].device, only_times=latency)
    return _several(row, where, seats, until_done, storage)


def _several(row: StudyRow, where: str, seats: tuple[Seat, ...], until_done: bool, storage: str | None) -> int:
    """Runs a worker process on each seat and shows the study until all have ended."""
    from kdnas.cli.search import again, end, outcome, steered
    from kdnas.cli.watch import watch
    from kdnas.search import joining
    from kdnas.search.launch import start_workers
    from kdnas.search.replacing import Kept
    from kdnas.store.database import open_reader
    from kdnas.store.patience import Patience

    name = row.name
    more = again(name, storage, "worker")
    with open_reader(where) as store:
        store.patience = Patience(lambda line, back: frame.say(line))

        def goes_on() -> bool:
            return until_done and joining.goes_on(store, name)

        def kept_on(seat: Seat, first: Started) -> Kept:
            return Kept(first, lambda: start_workers(where, name, seats=[seat])[0], goes_on, frame.say)

        kept = [kept_on(*both) for both in zip(seats, start_workers(where, name, seats=seats), strict=True)]
        try:
            with steered(name, storage):
                last = watch(store, name, kept)
        except KeyboardInterrupt:
            end([one.started for one in kept])
            frame.say(f"Stopped; what was finished is kept. Go on with: {more}")
            return frame.INTERRUPTED
        except KdnasError:
            end([one.started for one in kept])
            raise
    return outcome(last, [one.started for one in kept], more)
