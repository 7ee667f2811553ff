"""Commands that only look: studies, show, logs."""

from __future__ import annotations

import click

from kdnas.cli import frame
from kdnas.cli.filtering import parsed
from kdnas.cli.tables import (
    LOWER,
    legend,
    ranked,
    study_cells,
    study_head,
    study_table,
    study_values,
    trial_table,
    trial_values,
)
from kdnas.store import queries
from kdnas.store.addresses import store_url
from kdnas.store.advising import advised_soon, taken
from kdnas.store.database import open_reader
from kdnas.store.lending import loan_of
from kdnas.study.constraints import of_study
from kdnas.study.front_gains import front_gains
from kdnas.study.ranked_rows import nearest_of, passing
from kdnas.study.rows import Status
from kdnas.study.study_words import passes, words
from kdnas.system.errors import UsageError
from kdnas.system.moments import written
from kdnas.system.text import clean

FORMS = ("json", "toml", "csv", "markdown", "latex")  # of `kdnas.study.pasted`, which loads more than a list needs
POLL_S = 1.0  # how often `logs -f` looks for new lines


@click.command()
@click.option("--filter", "text", metavar="WORDS", help="Only studies with all these words; tag:WORD asks for a tag.")
@frame.storage
@frame.as_json
def studies(text: str | None, storage: str | None, as_json: bool) -> None:
    """List the studies of the store, the one that changed last first."""
    where = frame.place(storage)
    address = store_url(where)
    if storage is None and address.get_backend_name() == "sqlite" and not _exists(address.database):
        rows = []
    else:
        with open_reader(where) as store:
            rows = queries.study_rows(store)
    here = len(rows)
    rows = [row for row in rows if passes(row, study_cells(row), words(text or ""))]
    if as_json:
        frame.print_json([study_values(row) for row in rows])
    elif rows:
        study_table(rows)
    elif here:
        frame.say(f"None of the {here} studies has these words.")
    else:
        frame.say(f"No studies yet in {address.database}. Begin one with `kdnas search --preset quickstart`.")


def _exists(path: str | None) -> bool:
    from pathlib import Path

    return path is not None and Path(path).exists()


@click.command()
@frame.study
@click.option("--filter", "text", metavar="FILTER", help="Only these trials, as in 'state:done latency<8 layers>=4'.")
@click.option("--top", type=click.IntRange(min=1), help="At most this many trials, the best first.  [default: 20]")
@click.option(
    "--as",
    "form",
    type=click.Choice(["command", *FORMS]),
    help="Print text to paste instead: the study's command, or the best candidate, or those of --trial or --top.",
)
@click.option("--trial", type=int, metavar="N", help="With --as: the candidate of this trial.")
@click.option("--heading", is_flag=True, help="With --as csv, markdown or latex: the columns' names above.")
@frame.storage
@frame.as_json
def show(
    study: str,
    text: str | None,
    top: int | None,
    form: str | None,
    trial: int | None,
    heading: bool,
    storage: str | None,
    as_json: bool,
) -> None:
    """Show STUDY: its state, its reward and its trials, the best first."""
    if form is None and (trial is not None or heading):
        raise UsageError(f"{'--heading' if trial is None else '--trial'} says what --as prints.", "Give --as, too.")
    if form is not None:
        from kdnas.cli.paste import paste

        if as_json:
            raise UsageError("--json and --as were both given.", "Give one of them.")
        paste(study, form, text=text, top=top, trial=trial, heading=heading, storage=storage)
        return
    with open_reader(frame.place(storage)) as store:
        row = queries.study_row(store, study)
        scored = ranked(store, row)
        only = parsed(text, scored)
        chosen = scored if only is None else passing(only, scored)
        loan, told = loan_of(store, row.study_id), advised_soon(store, row, scored)
        if as_json:
            lent = [{"study": one.name, "trials": len(one.trials)} for one in loan.lenders]
            trials = [trial_values(s) for s in chosen[:top]]
            advice = None if told is None else told.values()
            frame.print_json({"study": study_values(row), "lent": lent, "advice": advice, "trials": trials})
            return
        chosen_by = taken(store, row)
    study_head(row)
    if chosen_by is not None:
        frame.line(chosen_by)
    if loan:
        frame.line(f"warm start: {loan} were lent")
    frame.line()
    shown = chosen[: top or 20]
    if shown:
        trial_table(shown)
        frame.say(legend(shown))
    if nearest := nearest_of(scored, of_study(row)):
        frame.say(f"None keeps to {of_study(row)}; {nearest}.")
    if any(s.behind for s in shown):
        frame.say(LOWER)
    if gained := front_gains(scored):
        frame.say(str(gained))
    if told is not None:
        frame.say(str(told))
    if len(chosen) > len(shown):
        frame.say(f"{len(chosen) - len(shown)} more; see --top and --filter.")
    if only is not None and not chosen:
        frame.say("No trial passes the filter.")


@click.command()
@frame.study
@click.option("-f", "--follow", is_flag=True, help="Go on printing until the study's workers have ended.")
@click.option(
    "--level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    help="Only lines of this weight or more.  [default: info]",
)
@click.option("--lines", type=click.IntRange(min=1), default=1000, help="At most this many lines.  [default: 1000]")
@frame.storage
@frame.as_json
def logs(study: str, follow: bool, level: str, lines: int, storage: str | None, as_json: bool) -> None:
    """Print what the workers of STUDY wrote down, oldest first."""
    import time

    weights = {"debug": 0, "info": 1, "warning": 2, "error": 3}
    if follow and as_json:
        raise UsageError("--follow prints lines, --json one list.", "Give one of them.")
    with open_reader(frame.place(storage)) as store:
        row = queries.study_row(store, study)
        after = 0
        while True:
            # The state is read before the lines, so that the last lines of a worker are still printed.
            alive = follow and queries.study_row(store, study).status in (
                Status.RUNNING,
                Status.PAUSING,
                Status.PAUSED,
                Status.STOPPING,
            )
            found = queries.logs(store, row.study_id, after, lines)
            kept = [line for line in found if weights.get(line.level, 1) >= weights[level]]
            if as_json:
                frame.print_json(
                    [{"time": x.time, "worker": x.worker_id, "level": x.level, "line": x.line} for x in kept]
                )
                return
            for line in kept:
                moment = written(line.time)
                frame.line(f"{moment:<19}  {line.worker_id or '–':>3}  {clean(line.level):<7}  {clean(line.line)}")
            after = found[-1].log_id if found else after
            if not alive:
                return
            time.sleep(POLL_S)
