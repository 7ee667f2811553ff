"""What is said of a study around its panes: the line above, the line below the table, and the card of a small terminal.

Pure functions from rows to text; they ask nothing and draw nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from rich.text import Text

from kdnas.study.filter import Filter
from kdnas.study.ranking import Scored
from kdnas.study.rows import Status, StudyRow, WorkerRow
from kdnas.study.trial_columns import Board
from kdnas_tui import words
from kdnas_tui.machine import Reading
from kdnas_tui.theme import LOOKS, MARKS
from kdnas_tui.widgets.lines import clean

MOST_DEVICES = 4


def head(
    name: str,
    row: StudyRow | None,
    *,
    fault: str,
    devices: Sequence[Reading],
    now: float,
    width: int,
    wide: bool,
    colours: Mapping[str, str],
) -> Text:
    """State, progress and the best reward on one line; what does not fit is left out from the right."""
    text = Text(no_wrap=True, overflow="ellipsis")
    text.append("kdnas  " if wide else "", style="dim")
    text.append(name, style="bold")
    if row is None:
        text.append(f"  {fault or 'reading …'}", style="dim")
        return text
    sign, look = MARKS[row.status]
    text.append(f"  {sign} {str(row.status).upper()}", style=colours.get(LOOKS[look], ""))
    if fault:
        text.append(f"  {fault}", style=colours.get("error", ""))
        return text
    gap = "   " if wide else "  "
    if row.status is Status.RUNNING:
        text.append(f" {words.duration(now - row.created)}")
    if wide and row.workers:
        text.append(f"{gap}{words.plural(row.workers, 'worker')}")
    if row.heartbeat is not None and (row.workers or row.status is Status.DEAD):
        text.append(f"{gap}hb {words.duration(now - row.heartbeat)}", style="dim")
    text.append(f"{gap}trials " if wide else gap, style="dim")
    text.append(f"{row.done}/{row.trials}")
    if wide:
        for word, number in (("pruned", row.pruned), ("failed", row.failed), ("reused", row.reused)):
            if number:
                text.append(f"{gap}{word} ", style="dim")
                text.append(str(number), style=colours.get("error", "") if word == "failed" else "")
    if row.best_reward is not None:
        text.append(f"{gap}best ", style="dim")
        text.append(f"{row.best_reward:.3f}", style=f"bold {colours.get('accent', '')}")
    if row.eta_s is not None and row.status in (Status.RUNNING, Status.NEW):
        left = words.duration(row.eta_s)
        if text.cell_len + len(f"{gap}ETA {left}") <= width - 2:
            text.append(f"{gap}ETA ", style="dim")
            text.append(left)
    if row.workers and devices:
        says = gap + "  ".join(str(reading) for reading in devices[:MOST_DEVICES])
        if text.cell_len + len(says) <= width - 2:
            text.append(says, style="dim")
    return text


def below(
    row: StudyRow,
    trials: Board,
    chosen: Filter,
    mask: np.ndarray | None,
    crew: Sequence[WorkerRow],
    doing: str | None,
    scored: Scored | None,
) -> Text:
    """One line under the table: what stands in it, or why the study does not run; and remarks on the cursor's trial."""
    text = Text(no_wrap=True, overflow="ellipsis", style="dim")
    if not chosen.empty:
        shown = len(trials) if mask is None else int(mask.sum())
        text.append(f"/ {chosen.text}   {shown:,} of {len(trials):,}")
    elif row.ending:
        text.append(clean(row.ending))
    elif row.status is Status.DEAD:
        text.append("its worker is gone; press r to go on")
    elif row.status is Status.FAILED:
        fault = next((worker.error for worker in reversed(crew) if worker.error), None)
        text.append(f"{clean(fault or 'its worker failed')}; press r to try again")
    elif row.status in (Status.PAUSED, Status.STOPPED):
        text.append(f"{row.status}; press r to go on")
    else:
        text.append(clean(doing or ""))
    if scored is not None and (scored.row.tags or scored.row.note):
        said = " · ".join(part for part in (" ".join(scored.row.tags), scored.row.note) if part)
        text.append(f"   #{scored.number}: {clean(said)}")
    return text


def card(row: StudyRow, best: Scored | None, doing: str | None, last_log: str, width: int) -> Text:
    """The few lines that a small terminal has room for."""
    text = Text()
    length = max(8, min(30, width - 20))
    full = round(length * row.done / max(1, row.trials))
    text.append(f"{row.done}/{row.trials}  {'▰' * full}{'▱' * (length - full)}\n")
    if best is not None and row.best_reward is not None:
        text.append(f"best  {row.best_reward:.3f}", style="bold")
        loss, latency = words.figure(best.loss_used), words.milliseconds(best.row.latency_ms)
        text.append(f"  #{best.number}  loss {loss}  {latency} ms\n")
    if row.eta_s is not None and row.status is Status.RUNNING:
        text.append(f"ETA   {words.duration(row.eta_s)}\n")
    if doing:
        text.append(f"now   {clean(doing)}\n")
    if last_log:
        text.append(f"{clean(last_log)}\n", style="dim")
    return text


def nothing(row: StudyRow | None, doing: str | None, filtered: bool) -> str:
    """What an empty table says."""
    if filtered:
        return "No trial passes the filter. Press esc to see all."
    if doing:
        return f"No trial yet: {doing}."
    if row is not None and row.status in (Status.STOPPED, Status.DEAD, Status.FAILED, Status.NEW):
        return "No trial yet. Press r to start a worker."
    return "No trial yet."
