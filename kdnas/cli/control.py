"""Commands that change a study: pause, resume, stop, rescore, recheck, delete."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from kdnas.cli import frame, worker_options
from kdnas.cli.tables import ranked, trial_table, trial_values
from kdnas.store import changes, ends, queries
from kdnas.store.database import open_reader, open_store
from kdnas.study.states import Wanted
from kdnas.study.time_budget import require_time
from kdnas.system.errors import UsageError

if TYPE_CHECKING:
    from kdnas.search.placing import Count


@click.command()
@frame.study
@frame.storage
def pause(study: str, storage: str | None) -> None:
    """Let the running epoch of STUDY finish, keep its training, and wait for `kdnas resume`."""
    with open_store(frame.place(storage)) as store:
        row = queries.study_row(store, study)
        changes.set_wanted(store, row.study_id, Wanted.PAUSE)
    waiting = "its workers wait after the running epoch" if row.workers else "it has no worker"
    frame.say(f"{study} is to pause: {waiting}. Go on with: kdnas resume {study}")


@click.command()
@frame.study
@worker_options.placed
@click.option("--device", help="Where they run.  [default: the study's own]")
@worker_options.unlike
@frame.storage
def resume(
    study: str, workers: Count, workers_per_gpu: int | None, device: str | None, unlike: str | None, storage: str | None
) -> None:
    """Let STUDY go on: wake its paused workers, or start new ones in the background where none is alive."""
    worker_options.require_plain(workers, workers_per_gpu)
    where = frame.place(storage)
    with open_store(where) as store:
        row = queries.study_row(store, study)
        require_time(study, row.end, ends.now(store))
        if row.spent:
            more = f"kdnas search {study} {'--hours 2' if row.open else f'--trials {row.trials * 2}'}"
            raise UsageError(f"{study} has finished its {row.trials} trials.", f"Raise the budget: {more}")
        if not row.workers:
            from kdnas.cli.search import measured_in
            from kdnas.search.ready import require_ready
            from kdnas.study.spec import from_store

            spec = from_store(row.spec)
            require_ready(spec, lambda words, _: frame.say(words), measured_in(where, spec))
            seats = worker_options.seats_of(row, workers, workers_per_gpu, device)
        if unlike is not None:
            from kdnas.search.joining import allow_unlike

            allow_unlike(store, row.study_id, unlike)
        changes.set_wanted(store, row.study_id, Wanted.RUN)
        if row.workers:
            frame.say(f"{study} goes on with the {row.workers} worker(s) that it has.")
            return
    from kdnas.cli.search import tell_started
    from kdnas.search.launch import start_workers

    tell_started(study, start_workers(where, study, seats=seats), as_json=False)


@click.command()
@frame.study
@click.option("--abandon", is_flag=True, help="Lose the running trial instead of letting it end.")
@frame.storage
def stop(study: str, abandon: bool, storage: str | None) -> None:
    """End the workers of STUDY after the running trial; finished trials stay, `kdnas resume` goes on."""
    with open_store(frame.place(storage)) as store:
        row = queries.study_row(store, study)
        changes.set_wanted(store, row.study_id, Wanted.ABANDON if abandon else Wanted.STOP)
    if not row.workers:
        frame.say(f"{study} is stopped; it had no worker.")
    elif abandon:
        frame.say(f"{study} stops at once; its running trial will be tried again on resuming.")
    else:
        frame.say(f"{study} stops after its running trial.")


@click.command()
@frame.study
@click.option(
    "--alpha", type=frame.Number(), help="How much speed counts, from 0 (not at all) to −2.  [default: the present one]"
)
@click.option(
    "--beta", type=frame.Number(), help="Latency target as a share of the teacher's.  [default: the present one]"
)
@click.option("--top", type=click.IntRange(min=1), default=10, help="How many to show.  [default: 10]")
@click.option("--use", is_flag=True, help="Use this α and β from now on; recorded in the study's history.")
@frame.storage
@frame.as_json
def rescore(
    study: str, alpha: float | None, beta: float | None, top: int, use: bool, storage: str | None, as_json: bool
) -> None:
    """Rank the finished trials of STUDY by another α and β; nothing runs again."""
    from kdnas.study.reward import exchange
    from kdnas.study.spec import from_values

    opener = open_store if use else open_reader
    with opener(frame.place(storage)) as store:
        row = queries.study_row(store, study)
        new_alpha, new_beta = row.alpha if alpha is None else alpha, row.beta if beta is None else beta
        from_values({"name": row.name, "reward": {"alpha": new_alpha, "beta": new_beta}})  # their bounds
        before = {s.row.number: s for s in ranked(store, row)}
        after = [s for s in ranked(store, row, new_alpha, new_beta) if s.rank is not None]
        if use:
            changes.set_reward(store, row.study_id, new_alpha, new_beta)
    if as_json:
        frame.print_json(
            {
                "study": study,
                "from": {"alpha": row.alpha, "beta": row.beta},
                "to": {"alpha": new_alpha, "beta": new_beta},
                "used": use,
                "trials": [{**trial_values(s), "rank_before": before[s.row.number].rank} for s in after],
            }
        )
        return
    old_top = sorted((s for s in before.values() if s.rank is not None), key=lambda s: s.rank or 0)[:top]
    frame.line(f"α {row.alpha:g}, β {row.beta:g}: {exchange(row.alpha)}")
    trial_table(old_top)
    frame.line()
    frame.line(f"α {new_alpha:g}, β {new_beta:g}: {exchange(new_alpha)}")
    trial_table(after[:top])
    if use:
        frame.say(f"{study} uses α {new_alpha:g}, β {new_beta:g} from now on.")
    else:
        frame.say("Nothing was changed; --use makes it the study's own.")


@click.command()
@frame.study
@click.option("--yes", is_flag=True, help="Do not ask.")
@frame.storage
def delete(study: str, yes: bool, storage: str | None) -> None:
    """Remove STUDY with all its trials from the store. This cannot be undone.

    A campaign's name removes its shares, scores and table; the studies of its members stay.
    """
    import sys

    from kdnas.store import campaigns
    from kdnas.store.studies import delete_study

    with open_store(frame.place(storage)) as store:
        if queries.find_study(store, study) is None and campaigns.find_campaign(store, study) is not None:
            if not yes:
                if not sys.stdin.isatty():
                    raise UsageError(f"Deleting {study} needs a yes.", "Give --yes.")
                click.confirm(f"Delete the campaign {study}? The studies of its members stay.", abort=True, err=True)
            campaigns.delete_campaign(store, study)
            frame.say(f"Deleted the campaign {study}; the studies of its members stay.")
            return
        row = queries.study_row(store, study)
        if row.workers:
            raise UsageError(f"{study} has {row.workers} worker(s) at work.", f"Stop it first: kdnas stop {study}")
        if not yes:
            if not sys.stdin.isatty():
                raise UsageError(f"Deleting {study} needs a yes.", "Give --yes.")
            click.confirm(f"Delete {study} with its {row.done} finished trials?", abort=True, err=True)
        delete_study(store, study)
    frame.say(f"Deleted {study}.")


@click.command()
@frame.study
@click.option("--top", type=click.IntRange(min=1), default=5, help="How many of the best.  [default: 5]")
@click.option("--seeds", type=click.IntRange(min=1), default=3, help="How many fresh seeds for each.  [default: 3]")
@click.option("--device", metavar="VALUE", help="Where it runs.  [default: the study's own]")
@frame.storage
@frame.as_json
def recheck(study: str, top: int, seeds: int, device: str | None, storage: str | None, as_json: bool) -> None:
    """Evaluate the leaders of STUDY again with fresh seeds; from then on they rank by their mean loss."""
    from kdnas.search.recheck import recheck as evaluate_again

    ranked_now = evaluate_again(frame.place(storage), study, top=top, seeds=seeds, device=device, say=frame.say)
    shown = ranked_now[:top]
    if as_json:
        frame.print_json([trial_values(s) for s in shown])
        return
    trial_table(shown)
    for s in shown:
        if s.row.loss_spread is not None:
            spread = f"mean loss {s.row.mean_loss:.4f} ± {s.row.loss_spread:.4f}"
            frame.line(f"#{s.row.number}: {spread} over {s.row.repeats + 1} seeds")
