"""What `kdnas show --as` prints: the command of a study, or candidates as text to paste."""

from __future__ import annotations

from typing import cast

from kdnas.cli import frame
from kdnas.cli.filtering import parsed
from kdnas.cli.tables import ranked
from kdnas.store import queries
from kdnas.store.database import open_reader
from kdnas.study.constraints import of_study
from kdnas.study.export import select
from kdnas.study.pasted import ROWS, Form, pasted
from kdnas.study.ranked_rows import nearest_of
from kdnas.study.study_command import study_command
from kdnas.system.errors import UsageError


def paste(
    study: str,
    form: str,
    *,
    text: str | None,
    top: int | None,
    trial: int | None,
    heading: bool,
    storage: str | None,
) -> None:
    """Print it. Raises UsageError for what does not go together, and for a trial that there is not."""
    if heading and form not in ROWS:
        raise UsageError(f"There is no heading in {form}.", f"--heading goes with {', '.join(sorted(ROWS))}.")
    if form == "command" and (text, top, trial) != (None, None, None):
        raise UsageError("A command is of the whole study.", "Leave --trial, --top and --filter out.")
    if trial is not None and (text, top) != (None, None):
        raise UsageError("--trial is one candidate, --top and --filter are others.", "Give one of them.")
    with open_reader(frame.place(storage)) as store:
        row = queries.study_row(store, study)
        if form == "command":
            frame.line(study_command(row, None if storage is None else frame.shown(storage)))
            return
        scored = ranked(store, row)
        chosen = [one for one in scored if one.number == trial] if trial is not None else []
        if trial is None:
            chosen = select(scored, top=top or 1, only=parsed(text, scored))
            if top is None and chosen and chosen[0].infeasible:
                limits = of_study(row)
                raise UsageError(
                    f"No trial of {study} keeps to {limits}; {nearest_of(chosen, limits)}.",
                    f"Take that one with --trial {chosen[0].number}, or several with --top.",
                )
    if not chosen and trial is not None:
        numbers = sorted(one.number for one in scored)
        known = f"Its trials are {numbers[0]} to {numbers[-1]}." if numbers else "It has none."
        raise UsageError(f"{study} has no trial {trial}.", known)
    if not chosen:
        raise UsageError(f"{study} has no finished candidate to show.", "Let it finish a trial, or loosen --filter.")
    teacher_ms = row.teacher_latency_ms
    frame.data(pasted(chosen, cast(Form, form), teacher_ms=teacher_ms, heading=heading, several=top is not None))
